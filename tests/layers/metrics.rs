//! Each metric is declared once.

use std::collections::BTreeMap;

use crate::sources::sources;

/// The strings of a text that are names of metrics.
fn names(code: &str) -> impl Iterator<Item = &str> {
    let name =
        |quoted: &str| quoted.starts_with("leeway_") && quoted.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    code.split('"').filter(move |quoted| name(quoted))
}

/// A search for the name of a metric finds its declaration and nothing else.
#[test]
fn the_name_of_a_metric_is_in_one_place() {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in sources() {
        names(&source.code).for_each(|name| places.entry(name).or_default().push(&source.file));
    }
    assert!(places.len() > 60, "{places:?}");
    let several: Vec<_> = places.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(several.is_empty(), "these metrics are in several places: {several:?}");
    let elsewhere: Vec<_> = places.iter().filter(|(_, files)| !files[0].starts_with("monitor/")).collect();
    assert!(elsewhere.is_empty(), "these metrics are not in monitor/: {elsewhere:?}");
}

/// Prometheus appends these suffixes to the names of histograms and summaries; `promtool check metrics` refuses them in
/// other names.
#[test]
fn no_metric_is_named_like_a_part_of_a_histogram() {
    for source in sources() {
        let suffixes = ["_sum", "_count", "_bucket"];
        let wrong = names(&source.code).find(|name| suffixes.iter().any(|suffix| name.ends_with(suffix)));
        assert_eq!(wrong, None, "{}", source.file);
    }
}
