//! A model whose every run waits at a gate until the test opens it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leeway::tensor::Tensors;
use parking_lot::{Condvar, Mutex};

use crate::harness::{HookedEngine, PATIENCE, runtime};

struct State {
    /// Number of runs that may pass.
    let_go: usize,
    /// First value of each run that has reached the gate since it was last set.
    came: Vec<f32>,
}

/// The gate of the process, so only one test at a time may use it.
static GATE: (Mutex<State>, Condvar) = (Mutex::new(State { let_go: usize::MAX, came: Vec::new() }), Condvar::new());
pub(crate) static GATE_IN_USE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The engine. Its models take float32.
pub(crate) fn gated() -> Arc<HookedEngine> {
    let before_run = |inputs: &Tensors| {
        let (lock, changed) = &GATE;
        let mut state = lock.lock();
        state.came.push(inputs.at(0).unwrap().values::<f32>().unwrap()[0]);
        changed.notify_all();
        while state.let_go == 0 {
            changed.wait(&mut state);
        }
        state.let_go -= 1;
    };
    Arc::new(HookedEngine { engine: runtime(), before_run })
}

/// Lets this number of runs pass from now on.
pub(crate) fn let_go(runs: usize) {
    *GATE.0.lock() = State { let_go: runs, came: Vec::new() };
    GATE.1.notify_all();
}

/// Waits until a run is at the gate.
pub(crate) async fn one_at_the_gate() {
    let begin = Instant::now();
    while came().is_empty() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Returns the first value of each run that has reached the gate since it was last set.
pub(crate) fn came() -> Vec<f32> {
    GATE.0.lock().came.clone()
}
