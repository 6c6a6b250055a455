//! Checks of properties that must hold when any input is read as feedback. For the fuzz targets of `fuzz/`.

use super::batch::{Item, MAX_ITEMS, WrittenLabel};
use super::*;

/// Maximum length of a message about a body or one of its items, in bytes.
const MAX_PROBLEM: usize = 2_000;
/// Maximum length of a stored text, in bytes.
const MAX_TEXT_BYTES: usize = 1_024;

/// Reads a body of feedback, and judges each item twice: for a predicted class and for a predicted number.
pub(crate) fn feedback(body: &[u8]) {
    let Batch { items } = match Batch::read(body) {
        Ok(batch) => batch,
        Err(problem) => return assert_is_short(&problem),
    };
    // An accepted body is JSON with the same number of items, and nothing else.
    let written = serde_json::from_slice::<serde_json::Value>(body).ok();
    let counted = written.as_ref().and_then(|written| Some((written.as_object()?, written["feedback"].as_array()?)));
    assert_eq!(counted.map(|(body, items)| (body.len(), items.len())), Some((1, items.len())));
    assert!(items.len() <= MAX_ITEMS);

    let signer = Signer::new(b"a key that no caller has");
    let classes = ["setosa", "7", "true", "3.5"].map(str::to_owned);
    for item in items {
        if let Text::Kept(id) = &item.prediction_id {
            assert!(id.len() <= MAX_TEXT_BYTES);
            assert!(signer.verify(id).is_none(), "an id that was not signed");
        }
        if let Some(WrittenLabel::Text(Text::Kept(label))) = &item.label {
            assert!(label.len() <= MAX_TEXT_BYTES);
        }
        judge(&item, &Predicted::Class("setosa".into(), 0.5), &classes);
        judge(&item, &Predicted::Value(1.0), &classes);
        for (name, amount) in item.metrics.0.0 {
            assert!(name.len() <= MAX_TEXT_BYTES);
            for kind in [BusinessKind::Rate, BusinessKind::Sum] {
                match amount.of(kind) {
                    Ok(amount) => assert!(amount.is_finite(), "{name}: {amount}"),
                    Err(problem) => assert_is_short(&problem),
                }
            }
        }
    }
}

fn judge(item: &Item, predicted: &Predicted, classes: &[String]) {
    match truth(item, Some(predicted), classes) {
        Ok(Some(Truth::Label { class, name })) => assert_eq!(classes.get(class).map(String::as_str), Some(&*name)),
        Ok(Some(Truth::Value(value))) => assert!(value.is_finite(), "{value}"),
        Ok(None) => {}
        Err(problem) => assert_is_short(&problem),
    }
}

fn assert_is_short(problem: &str) {
    assert!(problem.len() <= MAX_PROBLEM, "a problem of {} bytes: {problem}", problem.len());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The properties hold for the seed inputs of the fuzz target, which include inputs that once failed.
    #[test]
    fn what_has_to_be_true_is_true_of_every_seed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/feedback");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            eprintln!("{}", path.display());
            super::feedback(&std::fs::read(path).unwrap());
        }
    }
}
