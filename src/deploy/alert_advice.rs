//! The advice of `docs/alerts.md` on an alert, which is a part of the program, so that a console can show it.

/// The page of the documentation.
const PAGE: &str = include_str!("../../docs/alerts.md");

/// Advice on an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advice {
    /// Place in the documentation, as in `alerts.md#requests`.
    pub(super) runbook: String,
    /// The advice as plain text.
    pub(super) text: String,
}

/// Returns the advice on the alert with this name; `None` if the page has none.
pub(super) fn advice_on(alert: &str) -> Option<Advice> {
    let begin = format!("\n**{alert}** (");
    let at = PAGE.find(&begin)?;
    let section = PAGE[..at].lines().rev().find_map(|line| line.strip_prefix("### "))?;
    let paragraph = PAGE[at + begin.len()..].split("\n\n").next()?;
    let (_, text) = paragraph.split_once("). ")?;
    Some(Advice { runbook: format!("alerts.md#{}", section.to_lowercase().replace(' ', "-")), text: plain(text) })
}

/// Removes the marks of Markdown from a paragraph: links, bold and code.
fn plain(markdown: &str) -> String {
    let mut plain = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, from_link)) = rest.split_once('[') {
        plain.push_str(before);
        match from_link.split_once("](").and_then(|(text, after)| Some((text, after.split_once(')')?.1))) {
            Some((text, after)) => {
                plain.push_str(text);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = from_link;
            }
        }
    }
    plain.push_str(rest);
    plain.replace("**", "").replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_a_paragraph_of_the_page() {
        let Advice { runbook, text } = advice_on("LeewayAccuracyFell").unwrap();
        assert_eq!(runbook, "alerts.md#outcomes");
        assert!(text.starts_with("Over the labels of the last day, accuracy is"), "{text}");
        assert!(!text.contains(['[', '`', '\n', '*']), "{text}");
        assert_eq!(advice_on("LeewayNothing"), None);
    }
}
