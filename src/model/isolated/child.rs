//! The process of a model: opens the model and runs the inputs that the server sends.

use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;

use super::wire::{Answer, Open, Order, SharedMemory, receive, receive_files, send};
use crate::config::Provider;
use crate::error::{Error, Result, SetupError};
use crate::machine;
use crate::model::onnx::OnnxRuntime;
use crate::model::session::{Engine, Interrupt, ModelBytes, ModelSource, Session};
use crate::tensor::{Signature, Tensors};

/// The run in progress, and the highest number of a run that was told to end.
#[derive(Default)]
struct Runs {
    running: Option<u64>,
    ended: u64,
    /// Ends the run in progress; `None` while the model is being opened.
    interrupt: Option<Arc<dyn Interrupt>>,
}

/// The model's bytes, as received from the server.
#[derive(Debug)]
struct Received(Arc<ModelBytes>);

impl ModelSource for Received {
    fn read(&self) -> Result<Arc<ModelBytes>, SetupError> {
        Ok(Arc::clone(&self.0))
    }
}

/// Runs a model for a server until the server closes the socket on standard input.
pub fn answer_runs() -> Result<(), SetupError> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(SetupError::internal)?);
    match serve(&socket) {
        // The server has closed the socket.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        ended => ended.map_err(SetupError::internal),
    }
}

fn serve(socket: &UnixStream) -> io::Result<()> {
    machine::prefer_to_end_this_process();
    machine::forbid_core_dumps()?;
    let [memory, control] = receive_files(socket)?;
    let (memory, control) = (SharedMemory::of(memory), UnixStream::from(control));
    let runs = Arc::new(Mutex::new(Runs::default()));
    // Listens before anything else: opening a model may take forever, and even then the process has to end with the
    // server.
    let listen = {
        let runs = Arc::clone(&runs);
        move || listen(control, &runs)
    };
    std::thread::Builder::new().name("control".to_owned()).spawn(listen)?;
    let mut orders = BufReader::new(socket);
    let Order::Open(open) = receive(&mut orders)? else { return Err(io::Error::other("a model must be opened first")) };
    let (mut session, signature) = match open_model(*open, &memory) {
        Ok((session, signature, provider)) => {
            send(socket, &Answer::Opened { signature: signature.clone(), provider })?;
            (session, signature)
        }
        Err(error) => return send(socket, &Answer::Failed(error.into())),
    };
    runs.lock().interrupt = Some(session.interrupt());
    loop {
        let Order::Run { number, inputs } = receive(&mut orders)? else { continue };
        let inputs = memory.read(inputs.iter()).map(|tensors| {
            let named = signature.inputs.iter().map(|input| Arc::clone(&input.name)).zip(tensors);
            named.collect::<Tensors>()
        });
        let outputs = inputs.and_then(|inputs| run(&mut *session, &inputs, number, &runs));
        let answer = match outputs {
            Ok(outputs) => {
                let heads = memory.write(outputs.iter().map(|(_, tensor)| tensor))?;
                let place = |name: &str| signature.outputs.iter().position(|output| *output.name == *name);
                let places = outputs.iter().map(|(name, _)| place(name).unwrap_or(usize::MAX));
                Answer::Ran(places.zip(heads).collect())
            }
            Err(error) => Answer::Failed(error.into()),
        };
        send(socket, &answer)?;
    }
}

fn open_model(open: Open, memory: &SharedMemory) -> Result<(Box<dyn Session>, Signature, Provider), SetupError> {
    let Open { libraries, config, model, external } = open;
    let mut at = 0;
    let mut next = |length: usize| -> Result<Arc<[u8]>, SetupError> {
        let bytes = memory.read_bytes(length, at).map_err(SetupError::internal)?;
        at += length as u64;
        Ok(bytes.into())
    };
    let model = next(model)?;
    let external = external
        .into_iter()
        .map(|(location, length)| Ok((location, next(length)?)))
        .collect::<Result<_, SetupError>>()?;
    let runtime = OnnxRuntime::of_server(libraries)?;
    let loaded = runtime.load(Arc::new(Received(Arc::new(ModelBytes { model, external }))), &config)?;
    let session = loaded.open()?;
    // From now on, a run that needs more than the available memory fails.
    machine::available_memory().map_or(Ok(()), machine::limit_data).map_err(SetupError::internal)?;
    Ok((session, loaded.signature().clone(), loaded.provider()))
}

fn run(session: &mut dyn Session, inputs: &Tensors, number: u64, runs: &Mutex<Runs>) -> Result<Tensors> {
    {
        let mut runs = runs.lock();
        if runs.ended >= number {
            return Err(Error::ModelFailed { detail: "the run was ended before it began".to_owned() });
        }
        runs.running = Some(number);
        session.interrupt().allow_runs();
    }
    let outputs = session.run(inputs);
    runs.lock().running = None;
    outputs
}

/// Ends runs by their number. Kills this process when the server ends, whatever the process is doing.
fn listen(mut control: UnixStream, runs: &Mutex<Runs>) {
    let mut number = [0; 8];
    while control.read_exact(&mut number).is_ok() {
        let number = u64::from_le_bytes(number);
        let mut runs = runs.lock();
        runs.ended = runs.ended.max(number);
        if let Some(interrupt) = runs.interrupt.as_ref().filter(|_| runs.running == Some(number)) {
            interrupt.end_runs();
        }
    }
    machine::end_this_process();
}
