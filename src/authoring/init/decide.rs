//! The proposals for a model, the best first. Pure: from the evidence to settings with their reasons.
//!
//! The first proposal is what the evidence shows. The others are for a model that it does not fit: they answer the
//! model's own outputs, first for each row, then for whole tensors.

use super::evidence::Evidence;
use super::inputs::{self, Input};
use super::outputs::{self, Output};
use super::proposal::{Proposal, Setting};

/// Returns the proposals for a model, the best first.
pub(super) fn proposals(evidence: &Evidence<'_>) -> Vec<Proposal> {
    let input = inputs::choose(evidence);
    let output = outputs::choose(evidence, &input);
    let tensors = inputs::tensors(evidence);
    let of = |input: Input, output: Output| {
        let files = input.files.into_iter().chain(output.files).collect();
        Proposal { files, ..Proposal::of(input.stage, output.stage) }
    };
    let own_outputs = |input: &Input| Output { stage: outputs::tensors(evidence, &input.stage), files: Vec::new() };
    let own_inputs = Input { stage: tensors, files: Vec::new() };
    let candidates = [
        of(input.clone(), output.clone()),
        of(input.clone(), own_outputs(&input)),
        of(own_inputs.clone(), output),
        of(own_inputs.clone(), own_outputs(&own_inputs)),
        whole_tensors(evidence, of(own_inputs.clone(), own_outputs(&own_inputs))),
    ];
    let mut proposals: Vec<Proposal> = Vec::new();
    for candidate in candidates {
        if !proposals.iter().any(|before| before.is_same(&candidate)) {
            proposals.push(candidate);
        }
    }
    // Detectors and masks need the image that the boxes and pixels belong to, entities and vectors the text.
    proposals.retain(|proposal| {
        let needs = match proposal.postprocess.kind {
            "detector" | "mask" => "image",
            "token-classifier" | "embedding" => "text",
            _ => return true,
        };
        proposal.preprocess.kind == needs
    });
    proposals
}

/// Returns the proposal for a model without rows: an instance is one call of the model.
fn whole_tensors(evidence: &Evidence<'_>, mut proposal: Proposal) -> Proposal {
    let reason = "An instance is one call of the model with whole tensors, in the model's own shapes, because its inputs and \
                  outputs do not have one row for each instance. Calls share no runs. If there is a dimension of rows, set \
                  its index instead, as in rows = 1.";
    proposal.model.push(Setting::known("rows", "none", reason));
    if let Some(hint) = inputs::constant_hint(evidence) {
        proposal.preprocess.hints.insert(0, hint);
    }
    proposal
}
