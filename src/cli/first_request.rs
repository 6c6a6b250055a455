//! The command that sends a model its first request, for people to copy.

use std::net::IpAddr;

use crate::config::ListenAddress;
use crate::identity::ModelName;

/// Maximum length of a body within a command, in bytes. A longer one comes from `leeway schema`.
const MAX_BODY: usize = 1_000;

/// Returns the URL for predictions of a model on the first of these addresses that has a port.
pub(super) fn model_url<'a>(
    addresses: impl Iterator<Item = &'a ListenAddress>,
    is_encrypted: bool,
    model: &ModelName,
) -> String {
    let scheme = if is_encrypted { "https" } else { "http" };
    let tcp = { addresses }.find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    let address = tcp.map_or_else(
        || "127.0.0.1:8080".to_owned(),
        |mut address| {
            if address.ip().is_unspecified() {
                let loopback: IpAddr =
                    if address.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
                address.set_ip(loopback);
            }
            address.to_string()
        },
    );
    format!("{scheme}://{address}/v1/models/{model}:predict")
}

/// Returns a command that sends this example, as many times as the model takes instances at one time.
pub(super) fn curl(url: &str, model: &ModelName, example: Option<&str>, instances: usize) -> String {
    const JSON: &str = "-H 'content-type: application/json'";
    let body = example.map(|example| format!("{{\"instances\": [{}]}}", vec![example; instances.max(1)].join(", ")));
    match body {
        Some(body) if body.len() <= MAX_BODY => {
            format!("curl {url} {JSON} -d '{}'", body.replace('\'', "'\\''"))
        }
        Some(_) => format!("leeway schema {model} --example | curl {url} {JSON} --data-binary @-"),
        None => format!("curl {url} {JSON} -d '{{\"instances\": [...]}}'"),
    }
}

/// Returns a command that sends the file of an image.
pub(super) fn curl_of_image(url: &str) -> String {
    format!("curl {url} -H 'content-type: image/jpeg' --data-binary @photo.jpg")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(address: &str) -> String {
        let addresses = [ListenAddress::Tcp(address.parse().unwrap())];
        model_url(addresses.iter(), false, &"churn".parse().unwrap())
    }

    #[test]
    fn the_url_is_one_that_this_machine_reaches() {
        for (address, expected) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080")]
        {
            assert_eq!(url(address), format!("http://{expected}/v1/models/churn:predict"));
        }
        let none = model_url([].iter(), true, &"churn".parse().unwrap());
        assert_eq!(none, "https://127.0.0.1:8080/v1/models/churn:predict");
    }

    #[test]
    fn a_body_is_quoted_for_a_shell_or_comes_from_the_server() {
        let model = "churn".parse().unwrap();
        let short = curl("http://a", &model, Some(r#"{"name": "O'Hara"}"#), 2);
        let quoted = r#"-d '{"instances": [{"name": "O'\''Hara"}, {"name": "O'\''Hara"}]}'"#;
        assert!(short.ends_with(quoted), "{short}");
        let long = curl("http://a", &model, Some(&"[0]".repeat(1_000)), 1);
        assert!(long.starts_with("leeway schema churn --example | curl http://a "), "{long}");
        assert!(curl("http://a", &model, None, 1).contains("[...]"));
    }
}
