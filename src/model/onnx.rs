//! ONNX Runtime: the library, models and sessions. Only this file and `onnx/values.rs` name the `ort` crate.

mod values;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use ort::environment::{Environment, ThreadManager};
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::logging::{LogLevel, LoggerFunction};
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::session::{NoSelectedOutputs, RunOptions, SessionInputValue};
use parking_lot::Mutex;

use self::values::{declared, from_value, run_failed, to_value};
use super::row_layout::RowLayout;
use super::runtime_libraries::{OperatorLibrary, RuntimeLibraries, library_version, remedy_for_missing_operator};
use super::session::{Engine, Interrupt, LoadedModel, ModelBytes, ModelSource, OptimisedGraph, Session};
use crate::config::{Config, LibraryCandidate, Provider, ProviderFallback, SessionConfig};
use crate::error::{Error, Result, SetupError};
use crate::tensor::{Signature, Tensors};

/// The ONNX Runtime library of this process.
#[derive(Debug, Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    threads: ThreadSpawner,
    version: String,
    library: PathBuf,
    /// Libraries with custom operators, which are registered with every session.
    operators: Arc<[OperatorLibrary]>,
}

/// The loaded library. A process can load only one, and it stays loaded until the process ends.
static LOADED: OnceLock<OnnxRuntime> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

// ===== impl OnnxRuntime =====

impl OnnxRuntime {
    /// Loads the configured library, and the libraries with custom operators that the configuration allows.
    pub fn configured(config: &Config) -> Result<OnnxRuntime, SetupError> {
        let allowed = &config.onnxruntime.custom_operators;
        let operators = allowed.iter().map(OperatorLibrary::read).collect::<Result<_, _>>()?;
        OnnxRuntime::load(&config.library_candidates())?.with_operators(operators)
    }

    /// Loads the libraries of the server in one of its child processes.
    pub(crate) fn of_server(libraries: RuntimeLibraries) -> Result<OnnxRuntime, SetupError> {
        let RuntimeLibraries { onnxruntime, operators } = libraries;
        let library = LibraryCandidate { path: onnxruntime, named_by: "the server", explicit: true };
        OnnxRuntime::load(&[library])?.with_operators(operators)
    }

    /// Adds libraries with custom operators. Registers each once, so that a file that is no such library is reported at
    /// the start.
    fn with_operators(self, operators: Vec<OperatorLibrary>) -> Result<OnnxRuntime, SetupError> {
        for library in &operators {
            let builder = ort::session::Session::builder(&self.environment);
            let registered = builder.and_then(|builder| Ok(builder.with_operator_library(&library.verified)?));
            registered.map_err(|error| {
                // ONNX Runtime knows only the path of the verified bytes.
                let path = library.path.display().to_string();
                let problem = first_line(&error).replace(&*library.verified.to_string_lossy(), &path);
                SetupError::Config(format!(
                    "onnxruntime.custom_operators: {path} is no library with custom operators for this ONNX Runtime: {problem}"
                ))
            })?;
        }
        Ok(OnnxRuntime { operators: operators.into(), ..self })
    }

    /// Loads the first library that works. Returns the loaded library if there already is one.
    pub fn load(candidates: &[LibraryCandidate]) -> Result<OnnxRuntime, SetupError> {
        let _one_at_a_time = LOADING.lock();
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded.clone());
        }
        let mut tried = Vec::new();
        for candidate in candidates {
            let missing = candidate.path.is_absolute() && !candidate.path.exists();
            let loaded = if missing { Err("no such file".to_owned()) } else { Self::load_from(&candidate.path) };
            match loaded {
                Ok(runtime) => return Ok(LOADED.get_or_init(|| runtime).clone()),
                Err(problem) => {
                    tried.push(format!("  {} ({}): {problem}", candidate.path.display(), candidate.named_by));
                }
            }
        }
        Err(SetupError::Library(format!(
            "no usable ONNX Runtime library (1.{} or later) was found. Tried:\n{}\n\
             `make onnxruntime` in Leeway's checkout fetches the right one, and Leeway's Python wheel brings it; or set \
             ORT_DYLIB_PATH to the library's file.",
            ort::MINOR_VERSION,
            tried.join("\n"),
        )))
    }

    fn load_from(path: &Path) -> Result<OnnxRuntime, String> {
        let builder = ort::init_from(path).map_err(|error| error.to_string())?;
        let environment =
            builder.with_name("leeway").with_telemetry(false).build().map_err(|error| error.to_string())?;
        let threads = ThreadSpawner::start().map_err(|error| error.to_string())?;
        Ok(OnnxRuntime {
            environment,
            threads,
            version: library_version(path),
            library: path.to_owned(),
            operators: Arc::new([]),
        })
    }

    /// Path of the library's file, as it was found.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Returns the libraries that child processes have to load.
    pub fn libraries(&self) -> RuntimeLibraries {
        RuntimeLibraries { onnxruntime: self.library.clone(), operators: self.operators.to_vec() }
    }

    /// Optimises a model, and writes the result to an empty folder.
    pub(crate) fn optimise(
        &self,
        source: &dyn ModelSource,
        config: &SessionConfig,
        folder: &Path,
    ) -> Result<OptimisedGraph, SetupError> {
        let graph = OptimisedGraph::in_folder(folder);
        // ONNX Runtime warns that the result suits this machine only.
        let silent: LoggerFunction = Arc::new(|_, _, _, _, _| {});
        let bytes = source.read()?;
        let saved = || -> ort::Result<()> {
            let mut builder = self
                .builder(config, &silent)?
                .with_optimized_model_path(graph.graph())?
                .with_config_entry("session.optimized_model_external_initializers_file_name", OptimisedGraph::WEIGHTS)?
                .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")?
                // Weights as they are arranged for this processor, so that no session has to do it.
                .with_config_entry("session.save_external_prepacked_constant_initializers", "1")?;
            ep::CPU::default().with_arena_allocator(false).build().register(&mut builder)?;
            commit(builder, None, &bytes).map(drop)
        };
        saved().map_err(|error| failed("optimising the model", &error))?;
        Ok(graph)
    }

    /// Returns a session builder with the settings that do not depend on the provider.
    fn builder(&self, config: &SessionConfig, logger: &LoggerFunction) -> ort::Result<SessionBuilder> {
        let threads = config.threads().intra_op.get();
        let mut builder = ort::session::Session::builder(&self.environment)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // A run has a hundred parallel sections or more, between which its threads would park and be woken. So they
            // spin, but only within a run.
            .with_intra_op_spinning(threads > 1)?
            .with_config_entry("session.force_spinning_stop", "1")?
            .with_inter_op_spinning(false)?
            .with_memory_pattern(false)?
            .with_logger(Arc::clone(logger))?
            .with_thread_manager(self.threads.clone())?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        for library in &*self.operators {
            builder = builder.with_operator_library(&library.verified)?;
        }
        Ok(builder)
    }

    /// Returns a session builder, with the first provider of the list that can be used.
    fn builder_with_provider(
        &self,
        config: &SessionConfig,
        logger: &LoggerFunction,
    ) -> Result<(SessionBuilder, Provider), SetupError> {
        for &provider in &config.providers {
            let mut builder = self.builder(config, logger).map_err(|error| failed("session settings", &error))?;
            match self.register(provider, &mut builder) {
                Ok(()) => return Ok((builder, provider)),
                Err(problem) if config.provider_fallback == ProviderFallback::Refuse => {
                    return Err(SetupError::Config(format!(
                        "model.providers: {:?} cannot be used: {problem}. Remove it from the list, or set \
                         model.provider_fallback = \"warn\" to go on with the next one",
                        provider.name()
                    )));
                }
                Err(problem) => {
                    tracing::warn!(
                        provider = provider.name(),
                        problem,
                        "a provider cannot be used; going on with the next"
                    );
                }
            }
        }
        let mut builder = self.builder(config, logger).map_err(|error| failed("session settings", &error))?;
        self.register(Provider::Cpu, &mut builder).map_err(Error::internal)?;
        Ok((builder, Provider::Cpu))
    }

    fn register(&self, provider: Provider, builder: &mut SessionBuilder) -> Result<(), String> {
        let dispatch: ExecutionProviderDispatch = match provider {
            // The arena is off, because it would keep the memory of the largest request forever.
            Provider::Cpu => ep::CPU::default().with_arena_allocator(false).build(),
            Provider::Cuda => {
                if !ep::CUDA::is_available().unwrap_or(false) {
                    return Err(format!(
                        "the ONNX Runtime library {} was built without it; point ORT_DYLIB_PATH to the library of the GPU build, \
                         or install Leeway's Python wheel for GPUs",
                        self.library.display()
                    ));
                }
                load_nvidia_packages(&self.library);
                ep::CUDA::default().build()
            }
        };
        dispatch.register(builder).map_err(|error| first_line(&error))
    }
}

/// Loads CUDA and cuDNN from NVIDIA's Python packages, if they are beside the Python package of this library. Without them,
/// the system's loader finds the libraries, or ONNX Runtime's message names the first one that is missing.
fn load_nvidia_packages(library: &Path) {
    // site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1
    let Some(packages) = library.ancestors().nth(3) else { return };
    let folder = |path: &str| Some(packages.join("nvidia").join(path)).filter(|folder| folder.is_dir());
    let (cuda, cudnn) = (folder("cu13/lib"), folder("cudnn/lib"));
    if let Err(error) = ep::cuda::preload_dylibs(cuda.as_deref(), cudnn.as_deref()) {
        tracing::warn!(problem = first_line(&error), "a library of NVIDIA's Python packages cannot be loaded");
    }
}

impl Engine for OnnxRuntime {
    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, source: Arc<dyn ModelSource>, config: &SessionConfig) -> Result<Arc<dyn LoadedModel>, SetupError> {
        let prepacked = PrepackedWeights::new();
        let logger = logger_of_version();
        let (builder, provider) = self.builder_with_provider(config, &logger)?;
        // The first session is opened here to read the signature; this also fills the weights that all sessions share.
        let session = open(builder, &prepacked, &*source)?.map_err(|error| {
            let message = first_line(&error);
            let remedy = remedy_for_missing_operator(&message).map_or_else(String::new, |remedy| format!("; {remedy}"));
            SetupError::Repository(format!("model.onnx cannot be loaded: {message}{remedy}"))
        })?;
        let layout = RowLayout::new(declared(&session)?, config)?;
        Ok(Arc::new(LoadedOnnx {
            runtime: self.clone(),
            source,
            config: SessionConfig { providers: vec![provider], ..config.clone() },
            provider,
            layout,
            prepacked,
            logger,
            first: Mutex::new(Some(session)),
        }))
    }
}

// ===== threads =====

/// Starts the threads that share a run. A new thread inherits the priority of the thread that starts it, and models are
/// loaded at a low priority. So a separate thread, which has the priority of the process, starts them.
#[derive(Debug, Clone)]
struct ThreadSpawner(mpsc::Sender<Spawn>);

/// Work for a new thread, and the channel that reports its start.
struct Spawn {
    work: Box<dyn FnOnce() + Send>,
    started: mpsc::Sender<std::io::Result<JoinHandle<()>>>,
}

impl ThreadSpawner {
    fn start() -> std::io::Result<ThreadSpawner> {
        let (sender, wishes) = mpsc::channel::<Spawn>();
        let serve = move || {
            for Spawn { work, started } in wishes {
                // The caller of `create` waits for this message.
                let _ = started.send(std::thread::Builder::new().name("onnxruntime".to_owned()).spawn(work));
            }
        };
        std::thread::Builder::new().name("spawner".to_owned()).spawn(serve)?;
        Ok(ThreadSpawner(sender))
    }
}

impl ThreadManager for ThreadSpawner {
    type Thread = JoinHandle<()>;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<JoinHandle<()>> {
        let (started, thread) = mpsc::channel();
        let gone = |_| ort::Error::new("the thread that starts threads has ended");
        self.0
            .send(Spawn { work: Box::new(work), started })
            .map_err(|_| ort::Error::new("the thread that starts threads has ended"))?;
        thread.recv().map_err(gone)?.map_err(|error| ort::Error::new(error.to_string()))
    }

    fn join(thread: JoinHandle<()>) -> ort::Result<()> {
        thread.join().map_err(|_panic| ort::Error::new("a thread of ONNX Runtime panicked"))
    }
}

// ===== models =====

/// Opens a session on a model: on its optimised graph, which has the same answers, or else on its bytes. The outer error is
/// that of reading it.
fn open(
    builder: SessionBuilder,
    prepacked: &PrepackedWeights,
    source: &dyn ModelSource,
) -> Result<ort::Result<ort::session::Session>, SetupError> {
    if let Some(optimised) = source.optimised() {
        match commit_optimised(builder.clone(), optimised) {
            Ok(session) => return Ok(Ok(session)),
            // It may have been removed meanwhile.
            Err(error) => tracing::warn!(
                problem = first_line(&error),
                "a session cannot be opened on the kept graph of the model; it is opened on the model's file"
            ),
        }
    }
    source.read().map(|bytes| commit(builder, Some(prepacked), &bytes))
}

/// Opens a session on an optimised graph. ONNX Runtime maps the file of its weights, in the same folder, into memory.
fn commit_optimised(builder: SessionBuilder, optimised: &OptimisedGraph) -> ort::Result<ort::session::Session> {
    builder.with_optimization_level(GraphOptimizationLevel::Disable)?.commit_from_file(optimised.graph())
}

/// Opens a session on the bytes of a model.
fn commit(
    mut builder: SessionBuilder,
    prepacked: Option<&PrepackedWeights>,
    bytes: &ModelBytes,
) -> ort::Result<ort::session::Session> {
    // No file exists below this path, so a path in a model cannot lead to a file.
    builder = builder.with_config_entry("session.model_external_initializers_file_folder_path", "/dev/null")?;
    if let Some(prepacked) = prepacked {
        builder = builder.with_prepacked_weights(prepacked)?;
    }
    for (location, content) in &bytes.external {
        builder = builder.with_external_initializer_file_in_memory(location, Arc::clone(content))?;
    }
    builder.commit_from_memory(&bytes.model)
}

struct LoadedOnnx {
    runtime: OnnxRuntime,
    source: Arc<dyn ModelSource>,
    config: SessionConfig,
    provider: Provider,
    layout: RowLayout,
    prepacked: PrepackedWeights,
    logger: LoggerFunction,
    /// The session that was opened to read the signature, kept for the first worker.
    first: Mutex<Option<ort::session::Session>>,
}

impl std::fmt::Debug for LoadedOnnx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedOnnx")
            .field("source", &self.source)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

impl LoadedModel for LoadedOnnx {
    fn signature(&self) -> &Signature {
        &self.layout.signature
    }

    fn provider(&self) -> Provider {
        self.provider
    }

    fn is_in_process(&self) -> bool {
        true
    }

    fn open(&self) -> Result<Box<dyn Session>, SetupError> {
        let first = self.first.lock().take();
        let session = match first {
            Some(session) => session,
            None => {
                let (builder, _) = self.runtime.builder_with_provider(&self.config, &self.logger)?;
                open(builder, &self.prepacked, &*self.source)?.map_err(|error| failed("opening a session", &error))?
            }
        };
        let mut options = RunOptions::new().map_err(|error| failed("run options", &error))?;
        // Errors of runs are not logged by ONNX Runtime: they are returned, and logged where their request is known. A
        // run that was ended is not an error.
        options.set_log_level(LogLevel::Fatal).map_err(|error| failed("run options", &error))?;
        Ok(Box::new(OnnxSession { session, options: Arc::new(options), layout: self.layout.clone() }))
    }
}

// ===== sessions =====

struct OnnxSession {
    session: ort::session::Session,
    options: Arc<RunOptions<NoSelectedOutputs>>,
    layout: RowLayout,
}

/// Ends runs by a flag in the run options, which ONNX Runtime checks before every node.
struct Terminate(Arc<RunOptions<NoSelectedOutputs>>);

impl Interrupt for Terminate {
    fn end_runs(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!(%error, "a run could not be ended");
        }
    }

    fn allow_runs(&self) {
        if let Err(error) = self.0.unterminate() {
            tracing::warn!(%error, "a session's runs could not be allowed again");
        }
    }
}

impl Session for OnnxSession {
    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(Terminate(Arc::clone(&self.options)))
    }

    fn run(&mut self, inputs: &Tensors) -> Result<Tensors> {
        let arranged = self.layout.arranged(inputs)?;
        let values: Vec<SessionInputValue<'_>> = self
            .layout
            .of_the_model(&arranged)
            .map(|(shape, data)| to_value(shape, data))
            .collect::<ort::Result<_>>()
            .map_err(|error| run_failed(&error))?;
        let outputs = self.session.run_with_options(&*values, &self.options).map_err(|error| run_failed(&error))?;
        // The outputs of the signature are the model's outputs that are tensors, in the model's order.
        let mut wanted = self.layout.signature.outputs.iter().enumerate().peekable();
        let mut tensors = Vec::with_capacity(wanted.len());
        for (name, value) in outputs.iter() {
            if let Some((index, known)) = wanted.next_if(|(_, known)| &*known.name == name)
                && let Some((shape, data)) = from_value(&value)?
                && let Some(tensor) = self.layout.of_rows(index, shape, data)?
            {
                tensors.push((Arc::clone(&known.name), tensor));
            }
        }
        Ok(tensors.into_iter().collect())
    }
}

// ===== messages =====

/// Returns the logger of a version's sessions. In every run, ONNX Runtime warns of outputs that do not have the declared
/// shape. Only the first of these warnings is logged.
fn logger_of_version() -> LoggerFunction {
    let has_warned = AtomicBool::new(false);
    Arc::new(move |level, _category, _id, _location, message| {
        if message.starts_with("Expected shape from model of") && has_warned.swap(true, Relaxed) {
            return;
        }
        match level {
            LogLevel::Verbose => tracing::trace!("{message}"),
            LogLevel::Info => tracing::debug!("{message}"),
            LogLevel::Warning => tracing::warn!("{message}"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!("{message}"),
        }
    })
}

fn failed<R>(what: &str, error: &ort::Error<R>) -> Error {
    Error::internal(format_args!("{what}: {}", error.message()))
}

fn first_line<R>(error: &ort::Error<R>) -> String {
    error.message().lines().next().unwrap_or_default().trim().to_owned()
}
