//! Reads feedback from the JSON body of a request.
//!
//! Limits apply while reading: on the number of items, the number of amounts of an item, and the length of each text. A
//! label and an amount are single values. An array or an object instead of one is refused at its first byte.

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::pipeline::Object;

/// Maximum number of items in one request.
pub const MAX_ITEMS: usize = 10_000;
/// Maximum number of business amounts in one item. A `model.toml` can declare the same number of business metrics.
const MAX_AMOUNTS: usize = 32;
/// Maximum length of a prediction id or a class name, in bytes. The content of a longer text is not kept.
const MAX_TEXT_BYTES: usize = 1_024;

/// Body of a request with feedback: `{"feedback": […]}`
#[derive(Debug)]
pub struct Batch {
    pub(super) items: Vec<Item>,
}

/// Feedback on one prediction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    /// Id of the prediction, from the response of the server.
    pub(super) prediction_id: Text,
    /// The true class of the instance.
    #[serde(default)]
    pub(super) label: Option<WrittenLabel>,
    /// The true number, if the model predicts a number.
    #[serde(default)]
    pub(super) value: Option<f64>,
    /// Amounts of business metrics, by the name of the metric.
    #[serde(default)]
    pub(super) metrics: Object<Amounts>,
}

/// A true class, as written in the body.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum WrittenLabel {
    Yes(bool),
    Whole(i64),
    Number(f64),
    Text(Text),
}

/// A prediction id or a class name. Longer texts than the limit are not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    Kept(Box<str>),
    /// The text is too long for an id or a class. Holds its length in bytes.
    TooLong(usize),
}

/// The amount of a business metric: a number or a boolean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Amount {
    Yes(bool),
    Number(f64),
}

/// Amounts of business metrics, by the name of the metric.
#[derive(Debug, Default)]
pub(super) struct Amounts(pub(super) Vec<(Box<str>, Amount)>);

// ===== reading =====

impl Batch {
    /// Reads a batch of feedback from the body of a request.
    ///
    /// ```
    /// use leeway::feedback::Batch;
    /// assert!(Batch::read(br#"{"feedback": [{"prediction_id": "x", "label": 3}]}"#).is_ok());
    /// let refused = Batch::read(br#"{"feedback": [{"prediction_id": "x", "label": [3]}]}"#).unwrap_err();
    /// assert!(refused.contains("a label is a number, a string, true or false"), "{refused}");
    /// ```
    pub fn read(body: &[u8]) -> Result<Batch, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            feedback: Items,
        }
        let read = serde_json::from_slice::<Object<Body>>(body);
        let Object(Body { feedback: Items(items) }) =
            read.map_err(|error| error.to_string().chars().take(300).collect::<String>())?;
        Ok(Batch { items })
    }
}

struct Items(Vec<Item>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Items, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(Object(item)) = seq.next_element::<Object<Item>>()? {
                    if items.len() == MAX_ITEMS {
                        return Err(de::Error::custom(format_args!(
                            "more than {MAX_ITEMS} items; send them in several requests"
                        )));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amounts, D::Error> {
        struct AmountsVisitor;
        impl<'de> Visitor<'de> for AmountsVisitor {
            type Value = Amounts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of amounts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Amounts, A::Error> {
                let mut amounts = Vec::new();
                while let Some(amount) = map.next_entry()? {
                    if amounts.len() == MAX_AMOUNTS {
                        return Err(de::Error::custom(format_args!("more than {MAX_AMOUNTS} metrics in one item")));
                    }
                    amounts.push(amount);
                }
                amounts.shrink_to_fit();
                Ok(Amounts(amounts))
            }
        }
        deserializer.deserialize_map(AmountsVisitor)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text::new(text))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl Text {
    fn new(text: &str) -> Text {
        if text.len() > MAX_TEXT_BYTES { Text::TooLong(text.len()) } else { Text::Kept(text.into()) }
    }
}

impl<'de> Deserialize<'de> for WrittenLabel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WrittenLabel, D::Error> {
        struct LabelVisitor;
        impl Visitor<'_> for LabelVisitor {
            type Value = WrittenLabel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a label; a label is a number, a string, true or false")
            }

            fn visit_bool<E>(self, yes: bool) -> Result<WrittenLabel, E> {
                Ok(WrittenLabel::Yes(yes))
            }

            fn visit_i64<E>(self, number: i64) -> Result<WrittenLabel, E> {
                Ok(WrittenLabel::Whole(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<WrittenLabel, E> {
                // A number beyond the range of i64 can only be the name of a class, so it becomes a text.
                let text = || WrittenLabel::Text(Text::new(&number.to_string()));
                Ok(i64::try_from(number).map_or_else(|_| text(), WrittenLabel::Whole))
            }

            fn visit_f64<E>(self, number: f64) -> Result<WrittenLabel, E> {
                Ok(WrittenLabel::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<WrittenLabel, E> {
                Ok(WrittenLabel::Text(Text::new(text)))
            }
        }
        deserializer.deserialize_any(LabelVisitor)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        struct AmountVisitor;
        impl Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount; an amount is a number, true or false")
            }

            fn visit_bool<E>(self, yes: bool) -> Result<Amount, E> {
                Ok(Amount::Yes(yes))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Amount, E> {
                Ok(Amount::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Amount, E> {
                Ok(Amount::Number(number))
            }
        }
        deserializer.deserialize_any(AmountVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(members: &str) -> Result<Item, String> {
        Batch::read(format!(r#"{{"feedback": [{{"prediction_id": "x", {members}}}]}}"#).as_bytes())
            .map(|mut batch| batch.items.remove(0))
    }

    fn check(body: &str, problem: &str) {
        let error = Batch::read(body.as_bytes()).unwrap_err();
        assert!(error.starts_with(problem), "{body}: {error}");
    }

    #[test]
    fn a_label_is_one_value() {
        let label = |json: &str| item(&format!(r#""label": {json}"#)).map(|item| item.label);
        assert_eq!(label("3").unwrap(), Some(WrittenLabel::Whole(3)));
        let largest = WrittenLabel::Text(Text::Kept("18446744073709551615".into()));
        assert_eq!(label("18446744073709551615").unwrap(), Some(largest));
        assert_eq!(label("3.5").unwrap(), Some(WrittenLabel::Number(3.5)));
        assert_eq!(label("true").unwrap(), Some(WrittenLabel::Yes(true)));
        assert_eq!(label("\"4 \"").unwrap(), Some(WrittenLabel::Text(Text::Kept("4 ".into()))));
        assert_eq!(label("null").unwrap(), None);
        for deep in ["[3]", "[]", "{}", "{\"a\": 1}"] {
            assert!(label(deep).unwrap_err().contains("a label is a number, a string, true or false"), "{deep}");
        }
        let long = format!("\"{}\"", "x".repeat(1_025));
        assert_eq!(label(&long).unwrap(), Some(WrittenLabel::Text(Text::TooLong(1_025))));
    }

    #[test]
    fn what_is_nested_is_refused_at_its_first_byte() {
        // Reading on would fail differently, because the end is missing.
        for member in ["label", "value", "prediction_id"] {
            for begin in ["[", "{"] {
                let kind = if begin == "[" { "sequence" } else { "map" };
                check(&format!(r#"{{"feedback": [{{"{member}": {begin}"#), &format!("invalid type: {kind}"));
                check(
                    &format!(r#"{{"feedback": [{{"metrics": {{"a": {begin}"#),
                    &format!("invalid type: {kind}, expected an amount"),
                );
            }
        }
    }

    #[test]
    fn arrays_are_no_objects_and_names_stand_once() {
        check("[]", "invalid type: sequence, expected an object");
        check(r#"[[{"prediction_id": "x"}]]"#, "invalid type: sequence, expected an object");
        check(r#"{"feedback": [["x", 3]]}"#, "invalid type: sequence, expected an object");
        check(r#"{"feedback": {"prediction_id": "x"}}"#, "invalid type: map, expected an array of items");
        check(
            r#"{"feedback": [{"prediction_id": "x", "metrics": [1]}]}"#,
            "invalid type: sequence, expected an object",
        );
        check(r#"{"feedback": [], "feedback": []}"#, "the name \"feedback\" occurs twice");
        check(r#"{"feedback": [{"prediction_id": "x", "label": 1, "label": 2}]}"#, "the name \"label\" occurs twice");
        check(r#"{"feedback": [{"prediction_id": "x", "metrics": {"a": 1, "a": 1}}]}"#, "the name \"a\" occurs twice");
    }

    #[test]
    fn items_are_counted_while_they_are_read() {
        // The text ends after the first item beyond the limit.
        let body = format!(r#"{{"feedback": [{}"#, r#"{"prediction_id": "x"},"#.repeat(MAX_ITEMS + 1));
        check(&body, "more than 10000 items; send them in several requests");
        let amounts: Vec<String> = (0..=MAX_AMOUNTS).map(|amount| format!("\"m{amount}\": 1")).collect();
        let error = item(&format!(r#""metrics": {{{}}}"#, amounts.join(","))).unwrap_err();
        assert!(error.starts_with("more than 32 metrics in one item"), "{error}");
    }
}
