//! A future that lets the other tasks of its thread go first. Before it is ready, the runtime polls the tasks that are
//! ready, and looks for new input.
//!
//! `tokio::task::yield_now` alone is ready in its second poll, whatever the reason for that poll. A connection of hyper is
//! polled again at once when it has woken itself.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use atomic_waker::AtomicWaker;

/// A future that is ready after the other tasks of its thread.
#[derive(Debug, Default)]
pub(super) struct OthersFirst {
    /// `None` before the first poll.
    turn: Option<Arc<Turn>>,
}

/// The next turn of a task.
#[derive(Debug, Default)]
struct Turn {
    has_come: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Future for OthersFirst {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(turn) = &self.turn else {
            let turn = Arc::new(Turn::default());
            turn.task.register(context.waker());
            // The runtime calls this waker when the others have been polled; the future itself is not needed any more.
            let waker = Waker::from(Arc::clone(&turn));
            let asked = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
            self.turn = Some(turn);
            return asked;
        };
        turn.task.register(context.waker());
        if turn.has_come.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn it_is_ready_after_the_others_however_often_it_is_polled() {
        let events = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let task = |name: &'static str| {
            let events = Arc::clone(&events);
            async move {
                let mut others = OthersFirst::default();
                events.lock().push(format!("{name} begins"));
                poll_fn(|context| {
                    // The task wakes itself, and is polled several times in one turn.
                    context.waker().wake_by_ref();
                    let polls = [(); 3].map(|()| Pin::new(&mut others).poll(context).is_ready());
                    if polls.contains(&true) { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                events.lock().push(format!("{name} ends"));
            }
        };
        let (first, second) = (tokio::spawn(task("first")), tokio::spawn(task("second")));
        first.await.unwrap();
        second.await.unwrap();
        let mut events = events.lock();
        // Either may go on first.
        events[2..].sort_unstable();
        assert_eq!(*events, ["first begins", "second begins", "first ends", "second ends"]);
    }
}
