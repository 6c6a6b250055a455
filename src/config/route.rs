//! Paths of the data listener that a platform chooses. Vertex AI sets them, and the port, with environment variables.

use figment::Figment;
use figment::providers::Serialized;
use serde::{Deserialize, Serialize};

use crate::error::{Result, SetupError};
use crate::identity::shown;

/// Maximum length of a path, in bytes.
const MAX_LENGTH: usize = 256;

/// A path of the data listener, such as `/v1/endpoints/7/deployedModels/4:predict`.
///
/// ```
/// use leeway::config::Route;
/// let route = |path: &str| Route::try_from(path.to_owned());
/// assert_eq!(route("/custom/predict").unwrap().path(), "/custom/predict");
/// assert!(route("predict").unwrap_err().contains("begins with /"));
/// assert!(route("/a//b").is_err() && route("/a/").is_err() && route("/{model}").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Route(String);

impl Route {
    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Route {
    type Error = String;

    fn try_from(path: String) -> std::result::Result<Route, String> {
        let is_segment = |segment: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte);
            !segment.is_empty() && !segment.starts_with(':') && segment.bytes().all(allowed)
        };
        let segments = path.strip_prefix('/').filter(|rest| rest.split('/').all(is_segment));
        match segments {
            Some(_) if path.len() <= MAX_LENGTH => Ok(Route(path)),
            _ => Err(format!(
                "found {:?}, expected a path that begins with / and has segments of letters, digits and -._~:@, with at \
                 most {MAX_LENGTH} characters",
                shown(&path)
            )),
        }
    }
}

/// Environment variables of Vertex AI, and the settings that they are defaults of.
const VARIABLES: [(&str, &str); 3] = [
    ("AIP_HTTP_PORT", "http.listen"),
    ("AIP_PREDICT_ROUTE", "http.predict_route"),
    ("AIP_HEALTH_ROUTE", "http.health_route"),
];

/// Adds the environment variables of Vertex AI to the settings. Those that are added later take precedence.
pub(super) fn with_vertex_ai(settings: Figment) -> Result<Figment, SetupError> {
    let mut settings = settings;
    for (variable, key) in VARIABLES {
        let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else { continue };
        let wrong = |problem: String| SetupError::Config(format!("environment variable {variable}: {problem}"));
        let value = value.into_string().map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let setting = match variable {
            "AIP_HTTP_PORT" => match value.parse::<u16>() {
                Ok(port) if port > 0 => format!(":{port}"),
                _ => return Err(wrong(format!("found {:?}, expected a port, 1 to 65535", shown(&value)))),
            },
            _ => Route::try_from(value).map_err(wrong)?.0,
        };
        settings = settings.merge(Serialized::default(key, setting));
    }
    Ok(settings)
}
