//! Models in processes of their own: a crash ends one process and fails one batch, but not the server.
//!
//! Each worker has a process with one session, and uses it like a session in the server (`session.rs`). Batches,
//! deadlines and everything else work as usual. `process.rs` starts and ends the process, `wire.rs` is the protocol,
//! and `child.rs` runs in the process.
//!
//! This protects against crashes and lack of memory. It is not a sandbox: the process has the rights of the server.

mod child;
mod process;
mod session;
mod wire;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::child::answer_runs;
pub use self::process::RUN_COMMAND;
use self::process::{ModelProcess, Restarts};
use self::session::IsolatedSession;
use self::wire::{Answer, Open, Order, SharedMemory, receive, send, send_files};
use super::runtime_libraries::RuntimeLibraries;
use super::session::{Engine, LoadedModel, ModelSource, Session};
use crate::config::{Provider, SessionConfig};
use crate::error::{Error, Result, SetupError};
use crate::tensor::Signature;

/// Timeout for opening a model in a process.
const MAX_OPENING: Duration = Duration::from_secs(600);

/// An engine that opens every session in a process of its own.
#[derive(Debug)]
pub struct IsolatedEngine {
    /// Path of this program.
    pub program: PathBuf,
    /// The libraries that the server has loaded.
    pub libraries: RuntimeLibraries,
    /// Version of the library.
    pub version: String,
}

struct IsolatedModel {
    program: PathBuf,
    libraries: RuntimeLibraries,
    source: Arc<dyn ModelSource>,
    config: SessionConfig,
    signature: Signature,
    provider: Provider,
    restarts: Arc<Mutex<Restarts>>,
    /// The session that was opened to read the signature, until a worker takes it.
    first: Mutex<Option<IsolatedSession>>,
}

// ===== impl IsolatedEngine =====

impl Engine for IsolatedEngine {
    fn version(&self) -> &str {
        &self.version
    }

    fn load(&self, source: Arc<dyn ModelSource>, config: &SessionConfig) -> Result<Arc<dyn LoadedModel>, SetupError> {
        let restarts = Arc::default();
        let (session, signature, provider) = open(&self.program, &self.libraries, &*source, config, &restarts)?;
        Ok(Arc::new(IsolatedModel {
            program: self.program.clone(),
            libraries: self.libraries.clone(),
            source,
            config: SessionConfig { providers: vec![provider], ..config.clone() },
            signature,
            provider,
            restarts,
            first: Mutex::new(Some(session)),
        }))
    }
}

impl LoadedModel for IsolatedModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> Provider {
        self.provider
    }

    fn open(&self) -> Result<Box<dyn Session>, SetupError> {
        if let Some(first) = self.first.lock().take() {
            return Ok(Box::new(first));
        }
        if let Some(retry_after) = self.restarts.lock().still_to_wait(Instant::now()) {
            return Err(Error::ModelRestarting { retry_after }.into());
        }
        let opened = open(&self.program, &self.libraries, &*self.source, &self.config, &self.restarts);
        // Any failure counts as an end of the process, because an immediate retry would not help.
        let (session, signature, _) = opened.inspect_err(|_| self.restarts.lock().ended(Instant::now()))?;
        if signature != self.signature {
            return Err(SetupError::internal("the model has other inputs or outputs after it was opened again"));
        }
        Ok(Box::new(session))
    }
}

impl std::fmt::Debug for IsolatedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IsolatedModel").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Starts a process and opens a model in it.
fn open(
    program: &std::path::Path,
    libraries: &RuntimeLibraries,
    source: &dyn ModelSource,
    config: &SessionConfig,
    restarts: &Arc<Mutex<Restarts>>,
) -> Result<(IsolatedSession, Signature, Provider), SetupError> {
    let not_started = |error: std::io::Error| {
        SetupError::internal(format_args!(
            "the process of a model could not be started with {}: {error}",
            program.display()
        ))
    };
    let (socket, of_child) = UnixStream::pair().map_err(not_started)?;
    let (control, control_of_child) = UnixStream::pair().map_err(not_started)?;
    let memory = SharedMemory::new().map_err(not_started)?;
    socket.set_read_timeout(Some(MAX_OPENING)).map_err(not_started)?;
    let bytes = source.read()?;
    let mut process = ModelProcess::start(program, of_child.into()).map_err(not_started)?;
    let order = Open {
        libraries: libraries.clone(),
        config: config.clone(),
        model: bytes.model.len(),
        external: bytes.external.iter().map(|(location, content)| (location.clone(), content.len())).collect(),
    };
    let tell = || -> std::io::Result<()> {
        let mut at = 0;
        for content in std::iter::once(&bytes.model).chain(bytes.external.iter().map(|(_, content)| content)) {
            memory.write_bytes(content, at)?;
            at += content.len() as u64;
        }
        send_files(&socket, &[memory.file(), control_of_child.as_fd()])?;
        send(&socket, &Order::Open(Box::new(order)))
    };
    let answer = tell().and_then(|()| receive(&mut &socket));
    drop(bytes);
    match answer {
        Ok(Answer::Opened { signature, provider }) => {
            memory.release().map_err(not_started)?;
            let outputs = signature.outputs.iter().map(|output| Arc::clone(&output.name)).collect();
            let session = IsolatedSession::new(process, socket, control, memory, outputs, Arc::clone(restarts))
                .map_err(not_started)?;
            Ok((session, signature, provider))
        }
        Ok(Answer::Failed(failure)) => Err(failure.into()),
        Ok(Answer::Ran(_)) => Err(SetupError::internal("the process of a model sent an unexpected answer")),
        Err(error) => Err(SetupError::Repository(format!(
            "the model's process {} while it opened the model",
            process.end(&error)
        ))),
    }
}
