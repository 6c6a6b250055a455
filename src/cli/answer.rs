//! The output of a command: the server's JSON, or a text for people.

use std::io::Write;
use std::marker::PhantomData;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::terminal;

/// Response of the admin API. Its JSON is kept, so that `--json` also prints members that this program does not know.
pub(super) struct Answer<T> {
    json: Value,
    kind: PhantomData<T>,
}

impl<T> Answer<T> {
    /// Parses a response from its JSON text.
    pub(super) fn parse(text: &str) -> serde_json::Result<Answer<T>> {
        Ok(Answer { json: serde_json::from_str(text)?, kind: PhantomData })
    }

    /// Makes the response that a server would send, for a command that ran without a server.
    pub(super) fn of(value: &T) -> Result<Answer<T>>
    where
        T: Serialize,
    {
        Ok(Answer { json: serde_json::to_value(value)?, kind: PhantomData })
    }

    /// Returns the response as its type.
    pub(super) fn parsed(&self) -> Result<T>
    where
        T: DeserializeOwned,
    {
        T::deserialize(&self.json).context("the answer is from another version of Leeway")
    }

    /// Prints the JSON, or the text that `for_people` writes.
    pub(super) fn show(self, as_json: bool, for_people: impl FnOnce(&mut dyn Write, T) -> Result<()>) -> Result<()>
    where
        T: DeserializeOwned,
    {
        if as_json {
            return Ok(writeln!(std::io::stdout(), "{:#}", self.json)?);
        }
        match T::deserialize(&self.json) {
            Ok(answer) => for_people(&mut terminal::stdout(), answer),
            // The command has succeeded, but a server of another version may send values that this program cannot read.
            Err(problem) => {
                let problem =
                    format!("the answer is from another version of Leeway ({problem}); it is printed as received:");
                writeln!(std::io::stderr(), "{problem}")?;
                Ok(writeln!(std::io::stdout(), "{:#}", self.json)?)
            }
        }
    }
}
