//! Turns finished requests and runs into spans. The names of attributes are those of OpenTelemetry's semantic conventions
//! where there are any, and begin with `leeway.` otherwise.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use opentelemetry::trace::{Link, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::request_trace::{Parent, RequestTrace, RunLink, RunOfBatch, SpanIds};
use super::span_queue::{Finished, WallClock};
use crate::budget::StageTime;
use crate::error::Fault;
use crate::stage::Stage;

/// A request, or a step of a chain, that has ended.
#[derive(Debug)]
pub struct FinishedSpan {
    /// Ids of its span.
    pub trace: Arc<RequestTrace>,
    /// Name of its span.
    pub name: Cow<'static, str>,
    /// Times at which it began and ended.
    pub times: (Instant, Instant),
    /// Attributes of its span.
    pub attributes: Vec<KeyValue>,
    /// The error that it ended with, if any.
    pub failure: Option<SpanFailure>,
    /// Its stages.
    pub stages: Vec<StageTime>,
    /// Its steps, if it went to a chain.
    pub steps: Vec<FinishedSpan>,
}

/// The error that a request ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanFailure {
    /// Code of the error.
    pub code: &'static str,
    /// True if the server is at fault, and not the caller.
    pub is_of_server: bool,
}

/// A run of a batch that has ended.
#[derive(Debug)]
pub(super) struct FinishedRun {
    pub(super) ids: SpanIds,
    pub(super) requests: Vec<SpanIds>,
    pub(super) batch: RunOfBatch,
    pub(super) model: String,
    pub(super) version: String,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) outcome: &'static str,
    pub(super) is_failure: bool,
}

impl SpanFailure {
    /// Returns the failure for an error with this code. Refusals for want of time are the server's, as a status of 5xx is.
    pub fn of(code: &'static str, fault: Fault) -> SpanFailure {
        SpanFailure { code, is_of_server: fault != Fault::Caller }
    }
}

impl Finished for FinishedSpan {
    fn count(&self) -> usize {
        1 + self.stages.len() + self.steps.iter().map(FinishedSpan::count).sum::<usize>()
    }

    fn into_spans(self: Box<Self>, clock: WallClock, scope: &InstrumentationScope) -> Vec<SpanData> {
        let mut spans = Spans { clock, scope, made: Vec::new() };
        spans.add_request(*self);
        spans.made
    }
}

impl Finished for FinishedRun {
    fn count(&self) -> usize {
        1
    }

    fn into_spans(self: Box<Self>, clock: WallClock, scope: &InstrumentationScope) -> Vec<SpanData> {
        let mut spans = Spans { clock, scope, made: Vec::new() };
        spans.add_run(*self);
        spans.made
    }
}

impl FinishedSpan {
    /// Passes the span to the exporter. Never waits.
    pub fn export(self) {
        let queue = Arc::clone(&self.trace.queue);
        queue.push(Box::new(self));
    }
}

/// Spans that are being made.
struct Spans<'a> {
    clock: WallClock,
    scope: &'a InstrumentationScope,
    made: Vec<SpanData>,
}

impl Spans<'_> {
    fn add_request(&mut self, request: FinishedSpan) {
        let FinishedSpan { trace, name, times, attributes, failure, stages, steps } = request;
        let mut span = self.span((trace.ids, trace.parent, trace.state.clone()), name, times);
        span.span_kind = match trace.parent {
            Some(Parent { is_remote: false, .. }) => SpanKind::Internal,
            _ => SpanKind::Server,
        };
        span.attributes = attributes;
        if let Some(SpanFailure { code, is_of_server }) = failure {
            span.attributes.push(KeyValue::new("error.type", code));
            if is_of_server {
                span.status = Status::error(code);
            }
        }
        self.made.push(span);
        for stage in stages {
            self.add_stage(&trace, stage);
        }
        for step in steps {
            self.add_request(step);
        }
    }

    fn add_stage(&mut self, trace: &RequestTrace, StageTime { stage, began, ended }: StageTime) {
        let parent = Parent { span: trace.ids.span, is_remote: false };
        let mut span =
            self.span((trace.ids.sibling(), Some(parent), trace.state.clone()), stage.name().into(), (began, ended));
        if stage == Stage::Inference {
            for RunLink { ids, rows, requests } in trace.runs() {
                let attributes = batch_attributes(RunOfBatch { rows, requests }).to_vec();
                if span.attributes.is_empty() {
                    span.attributes.clone_from(&attributes);
                }
                span.links.links.push(Link::new(ids.context(TraceState::NONE), attributes, 0));
            }
        }
        self.made.push(span);
    }

    fn add_run(&mut self, run: FinishedRun) {
        let FinishedRun { ids, requests, batch, model, version, began, ended, outcome, is_failure } = run;
        let name = format!("run {model}");
        let mut span = self.span((ids, None, TraceState::NONE), name.into(), (began, ended));
        span.attributes = vec![
            KeyValue::new("leeway.model", model),
            KeyValue::new("leeway.version", version),
            KeyValue::new("leeway.run.outcome", outcome),
        ];
        span.attributes.extend(batch_attributes(batch));
        let link = |ids: SpanIds| Link::with_context(ids.context(TraceState::NONE));
        span.links.links.extend(requests.into_iter().map(link));
        if is_failure {
            span.status = Status::error(outcome);
        }
        self.made.push(span);
    }

    /// Returns a span without attributes.
    fn span(
        &self,
        (ids, parent, state): (SpanIds, Option<Parent>, TraceState),
        name: Cow<'static, str>,
        (began, ended): (Instant, Instant),
    ) -> SpanData {
        SpanData {
            span_context: ids.context(state),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote),
            span_kind: SpanKind::Internal,
            name,
            start_time: self.clock.at(began),
            end_time: self.clock.at(ended.max(began)),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn batch_attributes(RunOfBatch { rows, requests }: RunOfBatch) -> [KeyValue; 2] {
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    [KeyValue::new("leeway.batch.rows", number(rows)), KeyValue::new("leeway.batch.requests", number(requests))]
}
