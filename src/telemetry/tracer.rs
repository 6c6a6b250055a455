//! Decides which requests are sampled.

use std::str::FromStr;
use std::sync::Arc;

use opentelemetry::trace::TraceState;

use super::export::Exporter;
use super::otlp;
use super::request_trace::{Parent, RequestTrace, SpanIds};
use crate::config::TracingConfig;
use crate::error::{Result, SetupError};
use crate::monitor::ServerRecorder;

/// Makes the traces of sampled requests.
#[derive(Debug)]
pub struct Tracer {
    exporter: Exporter,
    /// A new trace is sampled if 63 bits of its id are less.
    threshold: u64,
}

impl Tracer {
    /// Starts to trace; `None` if it is off.
    pub fn start(config: &TracingConfig, recorder: &Arc<ServerRecorder>) -> Result<Option<Arc<Tracer>>, SetupError> {
        let Some(url) = config.url() else { return Ok(None) };
        let collector = otlp::Collector::of(url, config)?;
        let exporter = Exporter::start(collector, config.timeout(), Arc::clone(recorder))?;
        Ok(Some(Arc::new(Tracer { exporter, threshold: threshold(config.sample_ratio) })))
    }

    /// Returns the trace of a request without a parent, if it is sampled.
    pub fn begin(&self) -> Option<Arc<RequestTrace>> {
        let random = fastrand::u64(..);
        let is_sampled = random >> 1 < self.threshold;
        is_sampled.then(|| RequestTrace::new(&self.exporter.queue, SpanIds::of_trace(random), None, TraceState::NONE))
    }

    /// Returns the trace of a request whose caller has sampled it. `state` is its `tracestate`, which is passed on if it is
    /// valid.
    pub fn follow(&self, caller: SpanIds, state: &str) -> Arc<RequestTrace> {
        let parent = Parent { span: caller.span, is_remote: true };
        let state = TraceState::from_str(state).unwrap_or_default();
        RequestTrace::new(&self.exporter.queue, caller.sibling(), Some(parent), state)
    }

    /// Exports the spans so far, in a limited time, and ends the thread that exports.
    pub async fn close(&self) {
        self.exporter.close().await;
    }
}

/// Returns the number that 63 random bits have to be below, for a share of all traces.
fn threshold(ratio: f64) -> u64 {
    // Up to 2⁶³, which is in the range of the type.
    (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_traces_is_sampled() {
        assert_eq!((threshold(0.0), threshold(1.0), threshold(0.5)), (0, 1 << 63, 1 << 62));
        // The largest random number is sampled with 1, and the least is not with 0.
        assert!(u64::MAX >> 1 < threshold(1.0));
    }
}
