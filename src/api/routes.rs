//! The endpoints of both listeners: the only table of methods and paths. `http/` builds its routers, the index and the
//! `Allow` headers from it, and `tests/leeway/documentation.rs` compares the documentation with it.

use std::fmt;

/// Path prefix of the admin API, whose access is restricted.
pub const ADMIN_API: &str = "/admin/v1";

/// HTTP method of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads a resource. HEAD is accepted, too.
    Get,
    /// Performs an action.
    Post,
    /// Replaces a resource.
    Put,
}

impl Method {
    /// Returns the value of the header `Allow` for a path that accepts only this method, and HEAD if it is GET.
    pub fn allowed(self) -> &'static str {
        match self {
            Method::Get => "GET, HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
        })
    }
}

/// Declares the endpoints of a listener, one per line, in the order of the index. `openapi/` has the documentation of each:
/// an endpoint without one does not compile.
macro_rules! endpoints {
    ($(#[$doc:meta])* $listener:ident { $(#[doc = $purpose:literal] $endpoint:ident = $method:ident $path:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $listener { $(#[doc = $purpose] $endpoint,)* }

        impl $listener {
            /// All endpoints.
            pub const ALL: &[$listener] = &[$($listener::$endpoint,)*];

            /// Returns the HTTP method of the endpoint.
            pub fn method(self) -> Method {
                match self { $($listener::$endpoint => Method::$method,)* }
            }

            /// Returns a sentence about the endpoint.
            pub fn purpose(self) -> &'static str {
                match self { $($listener::$endpoint => $purpose.trim_ascii(),)* }
            }

            /// Returns the path of the endpoint, with parameters in braces.
            pub fn path(self) -> &'static str {
                match self { $($listener::$endpoint => $path,)* }
            }
        }

        /// Writes the method and the path of the endpoint, as in `GET /livez`.
        impl fmt::Display for $listener {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.method(), self.path())
            }
        }
    };
}

endpoints! {
    /// Endpoints of the data listener.
    ///
    /// ```
    /// use leeway::api::routes::DataEndpoint;
    /// assert_eq!(DataEndpoint::Model.to_string(), "GET /v1/models/{model}");
    /// ```
    DataEndpoint {
        /// Predictions of the default model.
        Predict = Post "/predict",
        /// Predictions of a model.
        PredictModel = Post "/v1/models/{model}:predict",
        /// Predictions of a version.
        PredictVersion = Post "/v1/models/{model}/versions/{version}:predict",
        /// Predictions of the default model, for clients of SageMaker and MLflow.
        Invocations = Post "/invocations",
        /// Feedback on predictions.
        Feedback = Post "/feedback",
        /// All models.
        Models = Get "/v1/models",
        /// A model.
        Model = Get "/v1/models/{model}",
        /// The schemas of a model's instances and predictions, and an example.
        ModelSchema = Get "/v1/models/{model}/schema",
        /// A version.
        Version = Get "/v1/models/{model}/versions/{version}",
        /// The schemas of a version's instances and predictions, and an example.
        VersionSchema = Get "/v1/models/{model}/versions/{version}/schema",
        /// Metadata of the server, in the Open Inference Protocol.
        V2Server = Get "/v2",
        /// Liveness, in the Open Inference Protocol.
        V2Live = Get "/v2/health/live",
        /// Readiness, in the Open Inference Protocol.
        V2Ready = Get "/v2/health/ready",
        /// Names of the served models.
        V2Models = Get "/v2/models",
        /// Statistics of all versions.
        V2AllStatistics = Get "/v2/models/stats",
        /// Metadata of a model.
        V2Model = Get "/v2/models/{model}",
        /// Metadata of a version.
        V2Version = Get "/v2/models/{model}/versions/{version}",
        /// Readiness of a model.
        V2ModelReady = Get "/v2/models/{model}/ready",
        /// Readiness of a version.
        V2VersionReady = Get "/v2/models/{model}/versions/{version}/ready",
        /// Configuration of a model, in Triton's form.
        V2ModelConfig = Get "/v2/models/{model}/config",
        /// Configuration of a version, in Triton's form.
        V2VersionConfig = Get "/v2/models/{model}/versions/{version}/config",
        /// Statistics of a model.
        V2ModelStatistics = Get "/v2/models/{model}/stats",
        /// Statistics of a version.
        V2VersionStatistics = Get "/v2/models/{model}/versions/{version}/stats",
        /// Inferences of a model.
        V2Infer = Post "/v2/models/{model}/infer",
        /// Inferences of a version.
        V2InferVersion = Post "/v2/models/{model}/versions/{version}/infer",
        /// Index of the repository.
        V2RepositoryIndex = Post "/v2/repository/index",
        /// Loads a model; needs the token of operators.
        V2RepositoryLoad = Post "/v2/repository/models/{model}/load",
        /// Unloads a model; needs the token of operators.
        V2RepositoryUnload = Post "/v2/repository/models/{model}/unload",
        /// Inputs and outputs of a model, for clients of TensorFlow Serving.
        Metadata = Get "/v1/models/{model}/metadata",
        /// Inputs and outputs of a version, for clients of TensorFlow Serving.
        VersionMetadata = Get "/v1/models/{model}/versions/{version}/metadata",
        /// The program, the models, and where to go from here.
        Index = Get "/",
        /// This API as an OpenAPI document.
        OpenApi = Get "/openapi.json",
        /// A page to read and to try this API.
        Docs = Get "/docs",
        /// Liveness.
        Live = Get "/livez",
        /// Readiness.
        Ready = Get "/readyz",
        /// Readiness, for SageMaker and MLflow.
        Ping = Get "/ping",
        /// Readiness, for MLflow.
        Health = Get "/health",
        /// Version of the program, for MLflow.
        ProgramVersion = Get "/version",
        /// Metrics, unless only the admin listener serves them.
        Metrics = Get "/metrics",
    }
}

/// Purpose of a path that the configuration adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasOf {
    /// Predictions of the default model.
    Predict,
    /// Readiness.
    Ready,
}

impl DataEndpoint {
    /// Returns true if a path that the configuration adds is not served yet. Fails if it is the path of an endpoint for
    /// something else.
    ///
    /// ```
    /// use leeway::api::routes::{AliasOf, DataEndpoint};
    /// assert_eq!(DataEndpoint::is_new("/v1/endpoints/7:predict", AliasOf::Predict), Ok(true));
    /// assert_eq!(DataEndpoint::is_new("/v1/models/digits:predict", AliasOf::Predict), Ok(false));
    /// assert!(DataEndpoint::is_new("/feedback", AliasOf::Predict).is_err());
    /// ```
    pub fn is_new(path: &str, alias: AliasOf) -> Result<bool, String> {
        let serves = |endpoint: &DataEndpoint| match alias {
            AliasOf::Predict => matches!(
                endpoint,
                DataEndpoint::Predict
                    | DataEndpoint::PredictModel
                    | DataEndpoint::PredictVersion
                    | DataEndpoint::Invocations
            ),
            AliasOf::Ready => endpoint.method() == Method::Get,
        };
        let at_path: Vec<&DataEndpoint> =
            DataEndpoint::ALL.iter().filter(|endpoint| matches(endpoint.path(), path)).collect();
        match &*at_path {
            [] => Ok(true),
            several if several.iter().any(|endpoint| serves(endpoint)) => Ok(false),
            [other, ..] => Err(format!("{path} is the path of {other}; choose another")),
        }
    }
}

/// Returns the pattern of the endpoint that a request reaches, on either listener.
///
/// ```
/// use leeway::api::routes::pattern_of;
/// assert_eq!(pattern_of("POST", "/v1/models/digits:predict"), Some("/v1/models/{model}:predict"));
/// assert_eq!(pattern_of("POST", "/v1/models/digits"), None);
/// ```
pub fn pattern_of(method: &str, path: &str) -> Option<&'static str> {
    let data = DataEndpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path()));
    let admin = AdminEndpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path()));
    let fits = |(own, pattern): &(Method, &'static str)| {
        (own.to_string() == method || *own == Method::Get && method == "HEAD") && matches(pattern, path)
    };
    data.chain(admin).find(fits).map(|(_, pattern)| pattern)
}

/// Returns true if a path has the form of a pattern, in which a parameter in braces stands for one or more characters.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return true,
            (Some(pattern), Some(segment)) => {
                let fits = match pattern.split_once('}') {
                    // A parameter takes anything but an action behind a colon, such as `:predict`.
                    Some((_, action)) => {
                        segment.strip_suffix(action).is_some_and(|name| !name.is_empty() && !name.contains(':'))
                    }
                    None => pattern == segment,
                };
                if !fits {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

endpoints! {
    /// Endpoints of the admin listener.
    AdminEndpoint {
        /// The endpoints of this listener.
        Index = Get "/",
        /// This API as an OpenAPI document.
        OpenApi = Get "/openapi.json",
        /// A page to read about this API.
        Docs = Get "/docs",
        /// The console, a page to watch and to change what is served.
        Console = Get "/console",
        /// Liveness.
        Live = Get "/livez",
        /// Readiness.
        Ready = Get "/readyz",
        /// Metrics.
        Metrics = Get "/metrics",
        /// Status of all models.
        Models = Get "/admin/v1/models",
        /// Status of a model.
        Model = Get "/admin/v1/models/{model}",
        /// The schemas of a model's instances and predictions, and an example.
        ModelSchema = Get "/admin/v1/models/{model}/schema",
        /// Drift of a model's versions.
        Drift = Get "/admin/v1/models/{model}/drift",
        /// The counts that drift is measured on, to be added to those of other servers.
        DriftCounts = Get "/admin/v1/models/{model}/drift/counts",
        /// Compares two versions of a model.
        Compare = Get "/admin/v1/models/{model}/compare",
        /// Drift of a model's versions over the last day.
        DriftHistory = Get "/admin/v1/models/{model}/drift/history",
        /// Requests, latencies and batches of a model's versions.
        LiveStats = Get "/admin/v1/models/{model}/live",
        /// Predictions of a model's versions, and their outcomes.
        Predictions = Get "/admin/v1/models/{model}/predictions",
        /// Alerts of the server, the most severe first.
        Alerts = Get "/admin/v1/alerts",
        /// Deployments of a model.
        History = Get "/admin/v1/models/{model}/history",
        /// The current rollout of a model, or else its last one.
        Rollout = Get "/admin/v1/models/{model}/rollout",
        /// Starts a rollout that judges itself.
        StartRollout = Post "/admin/v1/models/{model}/rollout",
        /// Rollouts of a model.
        Rollouts = Get "/admin/v1/models/{model}/rollouts",
        /// Pauses the rollout of a model.
        PauseRollout = Post "/admin/v1/models/{model}/rollout/pause",
        /// Resumes the rollout of a model.
        ResumeRollout = Post "/admin/v1/models/{model}/rollout/resume",
        /// Ends the rollout of a model.
        AbortRollout = Post "/admin/v1/models/{model}/rollout/abort",
        /// Makes the version of a rollout the stable one at once.
        PromoteRollout = Post "/admin/v1/models/{model}/rollout/promote",
        /// Sets the traffic split of a model.
        Traffic = Put "/admin/v1/models/{model}/traffic",
        /// Makes a version the stable version.
        Promote = Post "/admin/v1/models/{model}/promote",
        /// Copies requests to a version, whose answers are only compared.
        Shadow = Post "/admin/v1/models/{model}/shadow",
        /// Rolls a model back.
        Rollback = Post "/admin/v1/models/{model}/rollback",
        /// Status of a version.
        Version = Get "/admin/v1/models/{model}/versions/{version}",
        /// The schemas of a version's instances and predictions, and an example.
        VersionSchema = Get "/admin/v1/models/{model}/versions/{version}/schema",
        /// Predictions of a version that are not monitored, for the console.
        Try = Post "/admin/v1/models/{model}/versions/{version}/try",
        /// Loads a version.
        Load = Post "/admin/v1/models/{model}/versions/{version}/load",
        /// Unloads a version.
        Unload = Post "/admin/v1/models/{model}/versions/{version}/unload",
        /// Reads the repository again.
        Reload = Post "/admin/v1/reload",
        /// Index of the repository, in the Open Inference Protocol.
        RepositoryIndex = Post "/v2/repository/index",
        /// Loads a model.
        RepositoryLoad = Post "/v2/repository/models/{model}/load",
        /// Unloads a model.
        RepositoryUnload = Post "/v2/repository/models/{model}/unload",
    }
}
