//! What proxies before the server need: a prefix of its paths, and the trace of a request in the log.

use leeway::app::App;

use crate::harness::{Answer, Repository, Server, TestApp, config, dependencies, held_out, leeway, runtime};

#[tokio::test(flavor = "multi_thread")]
async fn all_paths_exist_below_the_prefix_too() {
    let mut config = config();
    config.http.path_prefix = Some("/team/leeway".parse().unwrap());
    config.http.cors.origins = vec!["https://app.example".to_owned()];
    let app = TestApp::with(config).await;
    let body = serde_json::json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..2] }).to_string();
    let expected = app.predict("/predict", body.clone()).await.predictions();
    for path in ["/predict", "/v1/models/digits:predict", "/v1/models/digits/versions/2:predict"] {
        let path = format!("/team/leeway{path}");
        assert_eq!(app.predict(&path, body.clone()).await.predictions(), expected, "{path}");
    }
    for path in ["/readyz", "/metrics", "/v1/models/digits", "/v2/models/digits"] {
        assert_eq!(app.get(path).await.status, 200);
        assert_eq!(app.get(&format!("/team/leeway{path}")).await.status, 200, "{path}");
    }
    for path in ["/console/", "/admin/v1/models"] {
        assert_eq!(app.admin_get(&format!("/team/leeway{path}")).await.status, 200, "{path}");
    }
    // The formats of errors are those of the paths without the prefix.
    for (path, with_error) in [("/nothing", false), ("/v1/nothing", true)] {
        let answer = app.get(&format!("/team/leeway{path}")).await;
        assert_eq!((answer.status, answer.json().get("error").is_some()), (404, with_error), "{path}");
    }
    for path in ["/team/predict", "/team/leewaypredict", "/leeway/predict", "/team/leeway/team/leeway/readyz"] {
        assert_eq!(app.get(path).await.status, 404, "{path}");
    }
    // The paths of the OpenAPI document are those that its reader can use.
    let servers = async |path: &str, forwarded: Option<&str>| {
        let mut request = app.client.get(app.url(path));
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-prefix", forwarded);
        }
        Answer::of(request.send().await.unwrap()).await.json()["servers"][0]["url"].clone()
    };
    assert_eq!(servers("/team/leeway/openapi.json", None).await, "/team/leeway");
    assert_eq!(servers("/openapi.json", Some("/of/the/proxy/")).await, "/of/the/proxy");
    assert_eq!(servers("/openapi.json", Some("https://evil.example/\"")).await, "/team/leeway");
    let preflight = app.client.request(reqwest::Method::OPTIONS, app.url("/team/leeway/predict"));
    let preflight = preflight.header("origin", "https://app.example").header("access-control-request-method", "POST");
    let answer = Answer::of(preflight.send().await.unwrap()).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
}

#[tokio::test]
async fn a_prefix_that_begins_like_a_path_of_the_server_is_refused() {
    for prefix in ["/v1", "/v2/here", "/predict", "/metrics/leeway", "/admin/x", "/console"] {
        let mut config = config();
        config.http.path_prefix = Some(prefix.parse().unwrap());
        let parts = dependencies(&config, runtime(), Default::default()).await;
        let problem = App::build_with(config, parts).await.unwrap_err().to_string();
        assert!(problem.starts_with("http.path_prefix: ") && problem.contains("choose another"), "{problem}");
    }
}

#[test]
fn the_lines_of_a_request_have_the_ids_of_its_trace() {
    let repository = Repository::of("echo_float32");
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    for is_on in ["true", "false"] {
        let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
        let server = Server::spawn(command.env("LEEWAY_LOG__LEVEL", "debug").env("LEEWAY_LOG__TRACEPARENT", is_on));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            for (path, parent) in [
                ("/livez", format!("00-{trace}-{span}-01")),
                ("/none", format!("00-{trace}-{span}-01")),
                ("/readyz", "00-0-0-0".to_owned()),
            ] {
                let request = crate::harness::client().get(server.url(path)).header("traceparent", parent);
                assert!(!request.send().await.unwrap().headers().contains_key("traceresponse"));
            }
        });
        server.signal("INT");
        let (_, log) = server.wait();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let about = lines.filter(|line| line["request_id"].is_string()).collect::<Vec<_>>();
        let of = |path: &str| about.iter().find(|line| line["path"] == path).unwrap().clone();
        let refused = about.iter().find(|line| line["message"] == "request refused").unwrap();
        for line in [&of("/livez"), &of("/none"), refused] {
            let ids = (line["trace_id"].as_str(), line["span_id"].as_str());
            let expected = if is_on == "true" { (Some(trace), Some(span)) } else { (None, None) };
            assert_eq!(ids, expected, "{line}");
        }
        assert!(of("/readyz")["trace_id"].is_null());
    }
}
