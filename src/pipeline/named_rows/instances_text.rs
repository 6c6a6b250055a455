//! The text of instances, made within the limits of a request.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use serde_json::value::RawValue;

use crate::budget::{HeldBytes, MemoryBudget};
use crate::error::{Error, Result};

/// Instances as a JSON array.
#[derive(Debug)]
pub struct Instances<'a> {
    text: Cow<'a, RawValue>,
    /// Memory for a text that was made.
    _held: Option<HeldBytes>,
}

/// Bounds of the instances of a request.
pub(super) struct Bounds<'a> {
    pub(super) max_rows: NonZeroUsize,
    pub(super) memory: &'a MemoryBudget,
}

impl Instances<'_> {
    /// Returns the array, as [`Preprocessor::transform`](crate::pipeline::Preprocessor::transform) reads it.
    pub fn json(&self) -> &RawValue {
        &self.text
    }
}

impl<'a> Instances<'a> {
    /// Returns instances that were sent in their form.
    pub(super) fn sent(instances: &'a RawValue) -> Instances<'a> {
        Instances { text: Cow::Borrowed(instances), _held: None }
    }
}

/// The text of instances while it is made.
pub(super) struct InstancesText {
    text: String,
    held: HeldBytes,
}

impl InstancesText {
    /// Reserves memory for the instances of `rows` rows, whose values are texts of this length together. Each instance
    /// has at most `overhead` bytes beside its values.
    pub(super) fn new(rows: usize, length: usize, overhead: usize, bounds: &Bounds<'_>) -> Result<InstancesText> {
        check_rows(rows, bounds.max_rows)?;
        let bytes = rows.saturating_mul(overhead).saturating_add(length).saturating_add(2);
        InstancesText::of_length(bytes, bounds)
    }

    /// Reserves memory for a text of at most this length.
    pub(super) fn of_length(bytes: usize, bounds: &Bounds<'_>) -> Result<InstancesText> {
        let held = bounds.memory.hold(bytes)?;
        let mut text = String::with_capacity(bytes);
        text.push('[');
        Ok(InstancesText { text, held })
    }

    /// Adds the instance that `write` writes. `write` fails if the row has too few values.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut String) -> Option<()>) -> Result<()> {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        write(&mut self.text).ok_or_else(|| Error::internal("a row has fewer values than columns"))?;
        // Only long texts of numbers are longer than expected.
        self.held.grow_to(self.text.capacity())
    }

    pub(super) fn finish<'a>(self) -> Result<Instances<'a>> {
        let InstancesText { mut text, held } = self;
        text.push(']');
        let text = RawValue::from_string(text).map_err(Error::internal)?;
        Ok(Instances { text: Cow::Owned(text), _held: Some(held) })
    }
}

/// Checks the number of rows before instances are made of them.
pub(super) fn check_rows(rows: usize, max_rows: NonZeroUsize) -> Result<()> {
    match rows {
        0 => Err(Error::InvalidInput("there are no rows; send at least one".to_owned())),
        rows if rows > max_rows.get() => Err(Error::InvalidInput(format!(
            "there are more than {max_rows} rows, which is the limit for one request to this model; send them in several"
        ))),
        _ => Ok(()),
    }
}
