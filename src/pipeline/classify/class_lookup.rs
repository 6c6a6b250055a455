//! Finds a class by a label that a person wrote.

use crate::identity::printable;

/// Maximum number of classes that an error message lists.
const NAMED: usize = 10;
/// Maximum length of a class name in an error message, in bytes.
const QUOTED: usize = 64;

/// Returns the class with exactly this name. Classes without names are named by their numbers, from 0.
///
/// ```
/// use leeway::pipeline::class_named;
/// let classes = ["no", "yes"].map(str::to_owned);
/// assert_eq!([class_named("yes", &classes), class_named("Yes", &classes), class_named("7", &[])], [Some(1), None, Some(7)]);
/// ```
pub fn class_named(text: &str, classes: &[String]) -> Option<usize> {
    if !classes.is_empty() {
        return classes.iter().position(|class| class == text);
    }
    // The number of a class without a name, written as in the response.
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number as usize)
}

/// Returns the class whose name is this number, in any notation.
///
/// ```
/// use leeway::pipeline::class_numbered;
/// assert_eq!(class_numbered(3.0, &["2.0".to_owned(), "3.0".to_owned()]), Some(1));
/// ```
pub fn class_numbered(number: f64, classes: &[String]) -> Option<usize> {
    // Class names such as "inf" are words, although they can be parsed as numbers.
    let is_it = |class: &String| {
        class.bytes().any(|b| b.is_ascii_digit()) && class.parse::<f64>().is_ok_and(|class| class == number)
    };
    classes.iter().position(is_it)
}

/// Returns the message about a label that is none of the classes.
pub fn unknown_class(written: &str, classes: &[String]) -> String {
    if classes.is_empty() {
        return format!("{written} is not one of the model's classes, which have no names: send their numbers, from 0");
    }
    let names: Vec<String> =
        classes.iter().take(NAMED).map(|class| format!("\"{}\"", printable(class, QUOTED))).collect();
    let more = if classes.len() > NAMED { format!(", … ({} in all)", classes.len()) } else { String::new() };
    format!("{written} is not one of the model's classes: {}{more}", names.join(", "))
}
