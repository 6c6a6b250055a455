//! Findings of a version's first runs, such as the independence of its rows, as text.

use std::io::{self, Write};

use crate::config::Batching;
use crate::model::Independence;
use crate::registry::{Attempt, Findings, WarmUp, remedy};

/// Writes the findings of a version's first runs, one per line.
pub(super) fn write_findings(out: &mut dyn Write, findings: &Findings, setting: Batching) -> io::Result<()> {
    if let WarmUp::Failed { attempts, example } = &findings.warm_up {
        write_attempts(out, attempts, example.as_deref())?;
    }
    if let Some(problem) = &findings.budget_problem {
        writeln!(out, "  WARNING: {problem}")?;
    }
    let independence = &findings.independence;
    let by_setting = match setting {
        Batching::Auto => String::new(),
        Batching::Always | Batching::Never => format!(" (batching = \"{}\")", setting.name()),
    };
    match (findings.is_batched(setting), independence) {
        (true, Independence::Dependent(_)) => {
            writeln!(out, "  WARNING: batching is on{by_setting}; answers depend on other requests: {independence}")?
        }
        (true, _) => writeln!(out, "  Batching is on{by_setting}: {independence}")?,
        (false, Independence::FixedBatch { .. }) => writeln!(out, "  Batching is off: {independence}")?,
        (false, _) => writeln!(out, "  Batching is off{by_setting}, each request is a run of its own: {independence}")?,
    }
    if let Some(found) = findings.padding.as_ref().filter(|_| !findings.may_be_padded() && findings.is_batched(setting))
    {
        writeln!(out, "  Only texts of one length share a run; with padding, {found}")?;
    }
    if let Some(most) = findings.bounds.and_then(|bounds| bounds.row) {
        writeln!(
            out,
            "  Rows of up to {most} elements are accepted: longer ones would take too much memory or time, or were not \
             tried (model.max_batch_elements sets another limit)"
        )?;
    }
    findings.remarks.iter().try_for_each(|remark| writeln!(out, "  Note: {remark}"))
}

/// Writes the first runs that failed, and the settings that may help.
fn write_attempts(out: &mut dyn Write, attempts: &[Attempt], example: Option<&str>) -> io::Result<()> {
    const SHOWN: usize = 3;
    writeln!(out, "  The test run on made-up inputs failed:")?;
    for Attempt { inputs, problem } in attempts.iter().take(SHOWN) {
        writeln!(out, "    {inputs}: {problem}")?;
    }
    if let Some(more) = attempts.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        writeln!(out, "    and {more} other shapes")?;
    }
    writeln!(out, "  Next: {}", remedy(example))
}
