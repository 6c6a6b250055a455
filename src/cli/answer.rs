//! The answer to a command, as the server's JSON or for people.

use std::io::Write;
use std::marker::PhantomData;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::terminal;

/// An answer of the admin API. Its JSON is kept beside its type, so that `--json` prints what this version does not know, too.
pub(super) struct Answer<T> {
    json: Value,
    kind: PhantomData<T>,
}

impl<T> Answer<T> {
    /// The answer with this text.
    pub(super) fn parse(text: &str) -> serde_json::Result<Answer<T>> {
        Ok(Answer { json: serde_json::from_str(text)?, kind: PhantomData })
    }

    /// The answer that a server would give, of a command that did its work itself.
    pub(super) fn of(value: &T) -> Result<Answer<T>>
    where
        T: Serialize,
    {
        Ok(Answer { json: serde_json::to_value(value)?, kind: PhantomData })
    }

    /// Prints the JSON, or what this function writes.
    pub(super) fn show(self, as_json: bool, for_people: impl FnOnce(&mut dyn Write, T) -> Result<()>) -> Result<()>
    where
        T: DeserializeOwned,
    {
        if as_json {
            return Ok(writeln!(std::io::stdout(), "{:#}", self.json)?);
        }
        match T::deserialize(&self.json) {
            Ok(answer) => for_people(&mut terminal::stdout(), answer),
            // What was asked for is done. A server of another version may have values that are not known here.
            Err(problem) => {
                let problem =
                    format!("the answer is not of this version of Leeway ({problem}); here it is as it came:");
                writeln!(std::io::stderr(), "{problem}")?;
                Ok(writeln!(std::io::stdout(), "{:#}", self.json)?)
            }
        }
    }
}
