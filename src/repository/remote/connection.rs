//! Clients of object stores, from a location and the environment variables of the store's own tools.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use tokio_rustls::rustls::crypto::ring;

use crate::config::{BucketApi, BucketLocation, CloudVariables};
use crate::error::{Result, SetupError};

/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout of each wait for a part of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of times that a failed request is sent again, and the time within which this is done.
const RETRIES: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Makes a client of a bucket.
pub(super) fn connect_bucket(
    location: &BucketLocation,
    variables: &CloudVariables,
) -> Result<Arc<dyn ObjectStore>, SetupError> {
    let BucketLocation { api, bucket, prefix: _ } = location;
    let wrong = |error: object_store::Error| {
        SetupError::Config(format!("{}://{bucket}: {error} (the environment variables {variables:?})", api.scheme()))
    };
    let names: &[&str] = match api {
        BucketApi::S3 => &["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"],
        BucketApi::Google => &["google_base_url"],
        BucketApi::Azure => &["azure_storage_endpoint", "azure_endpoint"],
    };
    let endpoint = names.iter().find_map(|name| variables.get(name));
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let (options, retry) = (client_options(), retry());
    match api {
        BucketApi::S3 => {
            let mut builder = AmazonS3Builder::new().with_client_options(options).with_allow_http(is_plain);
            for (name, value) in variables.iter() {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_retry(retry).with_bucket_name(bucket).build().map_err(wrong)?;
            Ok(Arc::new(store))
        }
        BucketApi::Google => {
            // The metadata server of Google's machines has no encryption. The store itself has, unless the variable says http.
            let options = options.with_allow_http(true);
            let mut builder = GoogleCloudStorageBuilder::new().with_client_options(options);
            if let Some(file) = variables.get("service_account") {
                builder = builder.with_service_account_path(file);
            }
            for (name, value) in variables.iter() {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_retry(retry).with_bucket_name(bucket).build().map_err(wrong)?;
            Ok(Arc::new(store))
        }
        BucketApi::Azure => {
            let mut builder = MicrosoftAzureBuilder::new().with_client_options(options).with_allow_http(is_plain);
            if let Some(endpoint) = variables.get("identity_endpoint") {
                builder = builder.with_msi_endpoint(endpoint);
            }
            for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("azure_")) {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_retry(retry).with_container_name(bucket).build().map_err(wrong)?;
            Ok(Arc::new(store))
        }
    }
}

/// Makes a client of a web server.
pub(super) fn connect_web(url: &str) -> Result<Arc<dyn ObjectStore>, SetupError> {
    let options = client_options().with_allow_http(url.starts_with("http://"));
    let store = HttpBuilder::new().with_url(url).with_client_options(options).with_retry(retry()).build();
    Ok(Arc::new(store.map_err(|error| SetupError::Config(format!("{url}: {error}")))?))
}

/// Returns the options of all clients. A download may take long, so only waits are limited.
fn client_options() -> ClientOptions {
    // Fails if another part of this program has chosen a provider already, which is the same one.
    let _ = ring::default_provider().install_default();
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT_TIMEOUT).with_read_timeout(READ_TIMEOUT)
}

fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(3), base: 2.0 };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_made_without_a_network() {
        for api in [BucketApi::S3, BucketApi::Google] {
            let location = BucketLocation { api, bucket: "models".to_owned(), prefix: String::new() };
            connect_bucket(&location, &CloudVariables::default()).unwrap();
        }
        let location = BucketLocation { api: BucketApi::Azure, bucket: "models".to_owned(), prefix: String::new() };
        let problem = connect_bucket(&location, &CloudVariables::default()).unwrap_err().to_string();
        assert!(problem.contains("az://models") && problem.contains("Account"), "{problem}");
        connect_web("https://models.example/a").unwrap();
    }
}
