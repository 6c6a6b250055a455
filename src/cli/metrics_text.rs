//! The numbers of `GET /metrics`, which is Prometheus' text format, for `leeway status`, `top` and `outcomes`.

use std::collections::BTreeSet;

/// Beginning of the names of Leeway's metrics, before an underscore. The commands use the names without it.
const PREFIX: &str = "leeway";

/// The series of a scrape.
#[derive(Debug, Default)]
pub(super) struct Metrics(Vec<Sample>);

/// The value of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Metrics {
    /// Parses a scrape. Lines that cannot be read are skipped: they are of another version of the server.
    pub(super) fn parse(text: &str) -> Metrics {
        Metrics(text.lines().filter_map(Sample::parse).collect())
    }

    /// Returns the series of a metric that have these labels.
    pub(super) fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(label, value)| sample.label(label) == Some(value))
        })
    }

    /// Returns the value of the first of these series.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of(name, labels).next().map(|sample| sample.value)
    }

    /// Returns the sum of these series.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name, labels).map(|sample| sample.value).sum()
    }

    /// Returns the loaded versions: the names of their models, and their numbers.
    pub(super) fn versions(&self) -> Vec<(String, String)> {
        let version = |sample: &Sample| Some((sample.label("model")?.to_owned(), sample.label("version")?.to_owned()));
        let found: BTreeSet<(String, String)> = self.of("model_info", &[]).filter_map(version).collect();
        let mut found: Vec<(String, String)> = found.into_iter().collect();
        found.sort_by_key(|(model, version)| {
            (model.clone(), version.parse::<u32>().map_or(0, |number| u32::MAX - number))
        });
        found
    }
}

impl Sample {
    /// Returns the value of a label.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| &**value)
    }

    fn parse(line: &str) -> Option<Sample> {
        let line = line.strip_prefix(PREFIX)?.strip_prefix('_')?;
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            while !rest.starts_with('}') {
                let (label, after) = rest.split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.push((label.trim_start_matches(',').to_owned(), value));
                rest = after;
            }
            rest = &rest[1..];
        }
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Sample { name: name.to_owned(), labels, value })
    }
}

/// Returns the text up to the closing quote, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_scrape_are_found_by_their_labels() {
        let metrics = Metrics::parse(
            "# HELP a b\n\
             leeway_ready 1\n\
             leeway_model_info{model=\"a\",version=\"2\",sha256=\"0\"} 1\n\
             leeway_model_info{model=\"a\",version=\"10\",sha256=\"1\"} 1\n\
             leeway_of{class=\"a \\\"b\\\", {c}\\n\\\\\"} 2.5e3\n\
             leeway_empty{stage=\"total\"} NaN\n\
             leeway_broken{a=\"b 1\n\
             leeway_other words\nother 1\n",
        );
        assert_eq!(metrics.value("ready", &[]), Some(1.0));
        let versions = ["10", "2"].map(|version| ("a".to_owned(), version.to_owned()));
        assert_eq!(metrics.versions(), versions);
        assert_eq!(metrics.value("of", &[("class", "a \"b\", {c}\n\\")]), Some(2500.0));
        assert!(metrics.value("empty", &[("stage", "total")]).unwrap().is_nan());
        assert_eq!(metrics.value("broken", &[]), None);
        assert_eq!(metrics.sum("model_info", &[("model", "a")]), 2.0);
    }
}
