//! A JSON array of instances that grows, with the memory that is held for it.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::budget::{Held, HeldBytes, MemoryBudget};
use crate::error::{Error, Result};

/// A JSON array of instances, with the memory that is held for it.
pub type ChainInstances = Arc<Held<Box<RawValue>>>;

/// An array that is being written. Its memory is held before it is allocated.
#[derive(Debug)]
pub(super) struct InstanceArray {
    text: String,
    held: HeldBytes,
    is_empty: bool,
}

impl InstanceArray {
    /// Begins an array.
    pub(super) fn new(memory: &MemoryBudget) -> Result<InstanceArray> {
        let mut array = InstanceArray { text: String::new(), held: memory.nothing(), is_empty: true };
        array.add("[")?;
        Ok(array)
    }

    /// Begins the next instance.
    pub(super) fn begin_instance(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.is_empty, false) {
            true => Ok(()),
            false => self.add(","),
        }
    }

    /// Adds a part of the present instance.
    pub(super) fn add(&mut self, part: &str) -> Result<()> {
        let needed = self.text.len() + part.len();
        if needed > self.text.capacity() {
            let capacity = needed + needed / 4;
            self.held.grow_to(capacity)?;
            self.text.reserve_exact(capacity - self.text.len());
        }
        self.text.push_str(part);
        Ok(())
    }

    /// Ends the array.
    pub(super) fn finish(mut self) -> Result<ChainInstances> {
        self.add("]")?;
        Ok(Arc::new(self.held.of(RawValue::from_string(self.text).map_err(Error::internal)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    #[test]
    fn an_array_holds_its_memory_while_it_grows() {
        let memory = MemoryBudget::new(1000, NonZeroUsize::MIN);
        let mut array = InstanceArray::new(&memory).unwrap();
        for part in ["1", "[2,3]", "{}"] {
            array.begin_instance().unwrap();
            array.add(part).unwrap();
        }
        let array = array.finish().unwrap();
        assert_eq!(array.get(), "[1,[2,3],{}]");
        assert!(memory.held() >= array.get().len());
        drop(array);
        assert_eq!(memory.held(), 0);
        assert_eq!(InstanceArray::new(&memory).unwrap().finish().unwrap().get(), "[]");

        let mut endless = InstanceArray::new(&memory).unwrap();
        assert!((0..1000).any(|_| endless.add("0123456789").is_err()));
    }
}
