//! The elements of a JSON array, one after the other.

use super::reader::Reader;

/// The texts of the elements of an array in valid JSON.
#[derive(Debug)]
pub(crate) struct Items<'a> {
    json: Reader<'a>,
    is_first: bool,
}

impl<'a> Items<'a> {
    /// Returns the elements of an array; `None` if the text is another value.
    pub(crate) fn of(text: &'a str) -> Option<Items<'a>> {
        let mut json = Reader::new(text);
        json.take(b'[').then_some(Items { json, is_first: true })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if std::mem::take(&mut self.is_first) {
            if self.json.peek() == b']' {
                return None;
            }
        } else if !self.json.take(b',') {
            return None;
        }
        let skip = |json: &mut Reader<'a>| {
            json.skip();
            Ok(())
        };
        self.json.written(skip).ok().map(|(_, text)| text.trim_ascii_end())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn the_elements_are_the_texts_between_the_commas() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(Items::of(text).unwrap().collect::<Vec<_>>(), expected, "{text}");
        };
        check("[]", &[]);
        check(" [ ] ", &[]);
        check("[1]", &["1"]);
        check(
            "[ 1 ,\n\"a,]\\\"\", [2, [3]] , {\"a\": [\"}\"]}, null ]",
            &["1", "\"a,]\\\"\"", "[2, [3]]", "{\"a\": [\"}\"]}", "null"],
        );
        assert!(Items::of("{}").is_none() && Items::of("5").is_none() && Items::of("\"[1]\"").is_none());
    }

    proptest! {
        #[test]
        fn the_elements_are_those_that_serde_json_reads(text in "[\\[\\]{}:, \"a1.e\\-]{0,24}|\\[(\\[|\\]|,|1|-0|\"\"|null|true|\\{\"x\":|\\}| )*\\]") {
            if let Ok(theirs) = serde_json::from_str::<Vec<&RawValue>>(&text) {
                let ours: Vec<&str> = Items::of(&text).unwrap().collect();
                prop_assert_eq!(ours, theirs.iter().map(|item| item.get()).collect::<Vec<_>>());
            }
        }
    }
}
