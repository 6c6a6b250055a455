//! Polls a future again at once when it has woken itself, instead of leaving that to the runtime.
//!
//! hyper's future of an HTTP/1 connection wakes itself while it is polled, once for each request with a body: its
//! part that reads the body and its part that runs the handler tell each other that they are ready. Tokio takes this
//! for a task that yields: it polls all other tasks first, and a runtime of several threads wakes another thread for
//! them, which costs more than the handler of a short request. A connection of HTTP/2 has a task for each request,
//! which would wait meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;

/// Maximum time of a turn, in which the future is polled again and again. After that, other tasks go first, even if the rest
/// of a large body or of requests that were sent in a row is there already.
const MAX_TURN: Duration = Duration::from_micros(200);

/// Nothing polls the future; a wake-up is passed on to the runtime.
const RESTS: u8 = 0;
/// The future is polled, and has not been woken since.
const IS_POLLED: u8 = 1;
/// The future was woken while it was polled, so it is polled again.
const IS_WOKEN: u8 = 2;

/// A future that is polled again at once when it has woken itself.
pub(super) struct PollAgain<F> {
    future: Pin<Box<F>>,
    state: Arc<State>,
    waker: Waker,
    max_turn: Duration,
}

struct State {
    phase: AtomicU8,
    /// Waker of the task in the runtime.
    task: AtomicWaker,
}

impl<F> PollAgain<F> {
    pub(super) fn new(future: F) -> PollAgain<F> {
        PollAgain::with_turns_of(MAX_TURN, future)
    }

    fn with_turns_of(max_turn: Duration, future: F) -> PollAgain<F> {
        let state = Arc::new(State { phase: AtomicU8::new(RESTS), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&state));
        PollAgain { future: Box::pin(future), state, waker, max_turn }
    }

    /// Returns the future itself.
    pub(super) fn future(&mut self) -> Pin<&mut F> {
        self.future.as_mut()
    }
}

impl<F: Future> Future for PollAgain<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        this.state.task.register(context.waker());
        let begin = Instant::now();
        loop {
            this.state.phase.store(IS_POLLED, Ordering::SeqCst);
            let polled = this.future.as_mut().poll(&mut Context::from_waker(&this.waker));
            let phase = this.state.phase.swap(RESTS, Ordering::SeqCst);
            if polled.is_ready() || phase == IS_POLLED {
                return polled;
            }
            if begin.elapsed() >= this.max_turn {
                break;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let marked = self.phase.compare_exchange(IS_POLLED, IS_WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if marked == Err(RESTS) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls a future that is ready in its poll of this number, and wakes itself before that. Returns the number of polls
    /// of the first turn, and of wake-ups of the task.
    fn check(max_turn: Duration, ready_in: usize) -> (usize, usize, bool) {
        let (task, polls) = (Arc::new(Counts::default()), AtomicUsize::new(0));
        let mut future = Box::pin(PollAgain::with_turns_of(
            max_turn,
            poll_fn(|context| {
                if polls.fetch_add(1, Ordering::SeqCst) + 1 == ready_in {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            }),
        ));
        let waker = Waker::from(Arc::clone(&task));
        let is_ready = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        (polls.load(Ordering::SeqCst), task.0.load(Ordering::SeqCst), is_ready)
    }

    #[test]
    fn a_task_that_wakes_itself_is_polled_again_and_not_woken() {
        assert_eq!(check(Duration::MAX, 1), (1, 0, true));
        assert_eq!(check(Duration::MAX, 100), (100, 0, true));
    }

    #[test]
    fn a_task_that_wakes_itself_for_too_long_lets_others_go_first() {
        assert_eq!(check(Duration::ZERO, 100), (1, 1, false));
        let (polls, woken, is_ready) = check(MAX_TURN, usize::MAX);
        assert!(polls >= 1 && woken == 1 && !is_ready, "{polls} {woken}");
    }

    #[test]
    fn a_task_that_rests_is_woken_by_others() {
        let (task, inner) = (Arc::new(Counts::default()), AtomicWaker::new());
        let mut future = Box::pin(PollAgain::new(poll_fn(|context| {
            inner.register(context.waker());
            Poll::<()>::Pending
        })));
        let waker = Waker::from(Arc::clone(&task));
        for woken in 1..=3 {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            inner.wake();
            assert_eq!(task.0.load(Ordering::SeqCst), woken);
        }
    }
}
