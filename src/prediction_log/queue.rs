//! The queue between requests and the thread that writes the files.
//!
//! The thread is not woken for each message, because a wake-up costs a busy server more than the message: after the first
//! one it waits a little, and takes all that have come by then.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::record::{OutcomeRecord, PredictionRecord};
use crate::monitor::LogDrop;

/// Maximum number of messages that wait.
const MAX_WAITING: usize = 65_536;
/// Time for which messages are gathered.
const GATHERING: Duration = Duration::from_millis(50);

/// A message to the thread.
#[derive(Debug)]
pub(super) enum Message {
    Predictions(Box<PredictionRecord>),
    Outcome(Box<OutcomeRecord>),
}

/// Messages that wait for the thread.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: Vec<Message>,
    is_closed: bool,
}

impl Queue {
    /// Adds a message, or returns the reason why it is dropped.
    pub(super) fn push(&self, message: Message) -> Result<(), LogDrop> {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return Err(LogDrop::Stopping);
        }
        if waiting.messages.len() >= MAX_WAITING {
            return Err(LogDrop::QueueFull);
        }
        waiting.messages.push(message);
        if waiting.messages.len() == 1 {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Ends the queue. What waits can still be taken.
    pub(super) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for messages until the deadline, if there is one, and takes all. Returns true beside them if the queue is closed.
    pub(super) fn take(&self, deadline: Option<Instant>) -> (Vec<Message>, bool) {
        let mut waiting = self.waiting.lock();
        while waiting.messages.is_empty() && !waiting.is_closed {
            match deadline {
                None => self.changed.wait(&mut waiting),
                Some(deadline) if self.changed.wait_until(&mut waiting, deadline).timed_out() => break,
                Some(_) => {}
            }
        }
        if !waiting.messages.is_empty() && !waiting.is_closed {
            // Only the end of the queue is notified now.
            self.changed.wait_for(&mut waiting, GATHERING);
        }
        (std::mem::take(&mut waiting.messages), waiting.is_closed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn message() -> Message {
        Message::Outcome(Box::new(OutcomeRecord::for_tests()))
    }

    #[test]
    fn messages_are_taken_together_until_the_end() {
        let queue = Arc::new(Queue::default());
        assert_eq!(queue.take(Some(Instant::now())).0.len(), 0, "nothing until the deadline");
        (0..3).for_each(|_| queue.push(message()).unwrap());
        let (messages, is_closed) = queue.take(None);
        assert_eq!((messages.len(), is_closed), (3, false));
        let waiting = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.take(None)
        });
        queue.push(message()).unwrap();
        queue.close();
        assert_eq!(waiting.join().unwrap().0.len(), 1);
        assert!(queue.take(None).1 && matches!(queue.push(message()), Err(LogDrop::Stopping)));
    }

    #[test]
    fn a_full_queue_drops() {
        let queue = Queue::default();
        (0..MAX_WAITING).for_each(|_| queue.push(message()).unwrap());
        assert!(matches!(queue.push(message()), Err(LogDrop::QueueFull)));
    }
}
