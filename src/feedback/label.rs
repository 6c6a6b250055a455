//! Finds the class of a model that a label in feedback means.

use super::batch::{Text, WrittenLabel};
use crate::identity::printable;
use crate::monitor::Truth;
use crate::pipeline::{class_named, class_numbered, unknown_class};

/// Maximum length of a label that an error message quotes, in bytes.
const QUOTED: usize = 64;

/// Returns the class that a label means, or an error for the caller. Classes without names are named by their numbers,
/// from 0.
///
/// A text means the class with exactly that name. A number means the class whose name is that number, in any notation
/// (`3`, `3.0`). True and false mean the classes with these names, in the spelling of JSON or of Python.
pub(super) fn class_of(label: &WrittenLabel, classes: &[String]) -> Result<Truth, String> {
    let found = match label {
        WrittenLabel::Text(Text::Kept(text)) => class_named(text, classes),
        WrittenLabel::Text(Text::TooLong(length)) => {
            return Err(format!("a text of {length} bytes is not one of the model's classes"));
        }
        WrittenLabel::Whole(number) => {
            class_named(&number.to_string(), classes).or_else(|| class_numbered(*number as f64, classes))
        }
        // Adding 0 turns -0.0, which is formatted as -0, into 0. 3.0 is formatted as 3.
        WrittenLabel::Number(number) => {
            class_named(&(number + 0.0).to_string(), classes).or_else(|| class_numbered(*number, classes))
        }
        WrittenLabel::Yes(yes) => {
            let spellings = if *yes { ["true", "True"] } else { ["false", "False"] };
            spellings.into_iter().find_map(|name| classes.iter().position(|class| class == name))
        }
    };
    let Some(class) = found else { return Err(none(label, classes)) };
    let name = classes.get(class).cloned().unwrap_or_else(|| class.to_string());
    Ok(Truth::Label { class, name })
}

fn none(label: &WrittenLabel, classes: &[String]) -> String {
    let written = match label {
        WrittenLabel::Text(Text::Kept(text)) => format!("\"{}\"", printable(text, QUOTED)),
        WrittenLabel::Text(Text::TooLong(length)) => format!("a text of {length} bytes"),
        WrittenLabel::Whole(number) => number.to_string(),
        WrittenLabel::Number(number) => number.to_string(),
        WrittenLabel::Yes(yes) => yes.to_string(),
    };
    unknown_class(&written, classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(label: &WrittenLabel, classes: &[&str], expected: Option<&str>) {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        let found = class_of(label, &classes).map(|truth| match truth {
            Truth::Label { name, .. } => name,
            Truth::Value(_) => String::new(),
        });
        assert_eq!(found.as_deref().ok(), expected, "{label:?} of {classes:?}: {found:?}");
    }

    fn text(text: &str) -> WrittenLabel {
        WrittenLabel::Text(Text::Kept(text.into()))
    }

    #[test]
    fn a_label_is_one_of_the_classes_or_none() {
        let digits = ["0", "1", "2", "3", "4"];
        check(&WrittenLabel::Whole(4), &digits, Some("4"));
        check(&WrittenLabel::Number(4.0), &digits, Some("4"));
        check(&WrittenLabel::Number(-0.0), &digits, Some("0"));
        check(&text("4"), &digits, Some("4"));
        for none in [text("four"), text("4 "), text(" 4"), text(""), text("4.0"), text("04"), text("Zero")] {
            check(&none, &digits, None);
        }
        for none in
            [WrittenLabel::Number(3.5), WrittenLabel::Number(1e300), WrittenLabel::Whole(5), WrittenLabel::Whole(-1)]
        {
            check(&none, &digits, None);
        }
        for yes in [true, false] {
            check(&WrittenLabel::Yes(yes), &digits, None);
        }
        check(&WrittenLabel::Text(Text::TooLong(1 << 20)), &digits, None);
    }

    #[test]
    fn a_number_is_the_class_of_that_number_and_a_text_is_spelled_as_it_is() {
        check(&WrittenLabel::Whole(1), &["0.0", "1.0"], Some("1.0"));
        check(&WrittenLabel::Number(0.5), &["0.50", "inf"], Some("0.50"));
        check(&text("1"), &["0.0", "1.0"], None);
        // An exact match of the name takes precedence.
        check(&WrittenLabel::Whole(1), &["1.0", "1"], Some("1"));
        check(&WrittenLabel::Yes(true), &["False", "True"], Some("True"));
        check(&WrittenLabel::Yes(false), &["true", "false"], Some("false"));
        check(&text("True"), &["false", "true"], None);
        check(&WrittenLabel::Whole(1), &["false", "true"], None);
    }

    #[test]
    fn classes_without_names_have_numbers() {
        check(&WrittenLabel::Whole(7), &[], Some("7"));
        check(&text("7"), &[], Some("7"));
        for none in
            [text("07"), text("seven"), WrittenLabel::Whole(-1), WrittenLabel::Number(0.5), WrittenLabel::Yes(true)]
        {
            check(&none, &[], None);
        }
        let why = class_of(&text("seven"), &[]).unwrap_err();
        assert_eq!(why, "\"seven\" is not one of the model's classes, which have no names: send their numbers, from 0");
    }

    #[test]
    fn what_is_none_is_quoted_within_bounds() {
        let classes: Vec<String> =
            (0..1_000).map(|class| format!("class {class} \u{1b}[2J{}", "x".repeat(5_000))).collect();
        let why = class_of(&text(&"y\u{0}".repeat(500)), &classes).unwrap_err();
        assert!(why.len() < 2_000 && !why.contains(char::is_control), "{why}");
        assert!(why.ends_with("(1000 in all)"), "{why}");
    }
}
