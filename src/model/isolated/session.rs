//! A session in another process, from the side of the worker that owns it.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::process::{ModelProcess, Restarts};
use super::wire::{Answer, Order, SharedMemory, receive, send};
use crate::error::{Error, ProcessEnd, Result};
use crate::model::session::{Interrupt, Session};
use crate::tensor::Tensors;

/// Interval at which a waiting worker checks if its run was told to end.
const LOOK: Duration = Duration::from_millis(100);

/// Size of the buffer for an answer of the process, in bytes. A few outputs fit into it.
const ANSWER_BYTES: usize = 512;

/// Maximum time that a run takes to end after it was told to end. After that, its process is killed.
const GRACE: Duration = Duration::from_secs(5);

pub(super) struct IsolatedSession {
    process: ModelProcess,
    socket: UnixStream,
    memory: SharedMemory,
    control: Arc<Control>,
    outputs: Vec<Arc<str>>,
    has_large_inputs: bool,
    restarts: Arc<Mutex<Restarts>>,
}

/// Ends runs of the process, from any thread.
struct Control {
    socket: UnixStream,
    /// Number of the current run, or of the last one.
    run: AtomicU64,
    is_ended: AtomicBool,
}

impl IsolatedSession {
    pub(super) fn new(
        process: ModelProcess,
        socket: UnixStream,
        control: UnixStream,
        memory: SharedMemory,
        outputs: Vec<Arc<str>>,
        restarts: Arc<Mutex<Restarts>>,
    ) -> io::Result<IsolatedSession> {
        socket.set_read_timeout(Some(LOOK))?;
        let control = Control { socket: control, run: AtomicU64::new(0), is_ended: AtomicBool::new(false) };
        let control = Arc::new(control);
        Ok(IsolatedSession { process, socket, memory, control, outputs, has_large_inputs: false, restarts })
    }

    fn order(&mut self, inputs: &Tensors, number: u64) -> io::Result<()> {
        let inputs = self.memory.write(inputs.iter().map(|(_, tensor)| tensor))?;
        self.has_large_inputs = SharedMemory::is_large(&inputs);
        send(&self.socket, &Order::Run { number, inputs })
    }

    fn answer(&mut self) -> io::Result<Answer> {
        // The process sends nothing between its answer and the next order, so the buffer never holds more than one
        // answer.
        let waiting = Waiting { socket: &self.socket, control: &self.control, ended_at: None };
        receive(&mut BufReader::with_capacity(ANSWER_BYTES, waiting))
    }

    fn process_ended(&mut self, when: ProcessEnd, error: &io::Error) -> Error {
        self.restarts.lock().ended(Instant::now());
        Error::ModelProcessEnded { when, detail: format!("the model's process {}", self.process.end(error)) }
    }
}

impl Session for IsolatedSession {
    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::<Control>::clone(&self.control)
    }

    fn run(&mut self, inputs: &Tensors) -> Result<Tensors> {
        // Sets the number, then checks the flag. `end_runs` sets the flag, then reads the number. So a request to end
        // the run is never missed.
        let number = self.control.run.fetch_add(1, Ordering::SeqCst) + 1;
        if self.control.is_ended.load(Ordering::SeqCst) {
            return Err(Error::ModelFailed { detail: "the run was ended before it began".to_owned() });
        }
        if let Err(error) = self.order(inputs, number) {
            return Err(self.process_ended(ProcessEnd::BeforeTheRun, &error));
        }
        match self.answer() {
            Ok(Answer::Ran(outputs)) => {
                self.restarts.lock().ran();
                let (places, heads): (Vec<usize>, Vec<_>) = outputs.into_iter().unzip();
                let tensors = self.memory.read(heads.iter())?;
                if self.has_large_inputs || SharedMemory::is_large(&heads) {
                    self.memory.shrink().map_err(Error::internal)?;
                }
                let named = places.into_iter().zip(tensors).map(|(place, tensor)| {
                    let name = self.outputs.get(place).ok_or_else(|| Error::internal("an output has no name"))?;
                    Ok((Arc::clone(name), tensor))
                });
                named.collect::<Result<Vec<_>>>().map(|tensors| tensors.into_iter().collect())
            }
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Ok(Answer::Opened { .. }) => {
                let error = io::Error::other("it sent an unexpected answer");
                Err(self.process_ended(ProcessEnd::InTheRun, &error))
            }
            Err(error) => Err(self.process_ended(ProcessEnd::InTheRun, &error)),
        }
    }
}

impl Interrupt for Control {
    fn end_runs(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        let number = self.run.load(Ordering::SeqCst);
        // An ended process has no run, so errors are ignored.
        let _ = (&self.socket).write_all(&number.to_le_bytes());
    }

    fn allow_runs(&self) {
        self.is_ended.store(false, Ordering::SeqCst);
    }
}

/// Reader that waits for an answer of the process. Gives up if a run does not end when told to.
struct Waiting<'a> {
    socket: &'a UnixStream,
    control: &'a Control,
    ended_at: Option<Instant>,
}

impl Read for Waiting<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(into) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if !self.control.is_ended.load(Ordering::SeqCst) {
                        continue;
                    }
                    let ended_at = *self.ended_at.get_or_insert_with(Instant::now);
                    if ended_at.elapsed() > GRACE {
                        return Err(io::Error::other("its run did not end when told to"));
                    }
                }
                read => return read,
            }
        }
    }
}
