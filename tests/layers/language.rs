//! The language of documentation comments.

use crate::sources::sources;

/// Maximum number of documentation lines that begin with a question word, as a wrapped line may.
const MAX_QUESTIONS: usize = 20;

/// Documentation names a thing ("Deadline of the request") or what a function does ("Returns true if …"). An indirect
/// question ("When it has to be done") makes the reader guess the name.
#[test]
fn documentation_names_things_and_does_not_ask() {
    const QUESTIONS: [&str; 7] = ["What", "Whether", "How", "Who", "Where", "When", "Why"];
    let is_question = |line: &&str| {
        let line = line.trim_start();
        let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else { return false };
        QUESTIONS.contains(&text.trim_start().split(|c: char| !c.is_alphabetic()).next().unwrap())
    };
    let mut found = Vec::new();
    for source in sources() {
        found.extend(
            source.text.lines().filter(is_question).map(|line| format!("src/{}: {}", source.file, line.trim())),
        );
    }
    assert!(found.len() <= MAX_QUESTIONS, "{} lines ask instead of naming:\n{}", found.len(), found.join("\n"));
}
