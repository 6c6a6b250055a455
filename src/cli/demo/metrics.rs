//! Reads single series out of the metrics of a server.

/// Beginning of the names of Leeway's metrics. Names are used without it here.
const PREFIX: &str = "leeway_";

/// The metrics of a server at one moment, in Prometheus' text format.
#[derive(Debug)]
pub(super) struct Metrics(pub(super) String);

impl Metrics {
    /// Returns the value of the first series with this name and these labels.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.series(name, labels).next()
    }

    /// Returns the sum of all series with this name and these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).sum()
    }

    fn series(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.strip_prefix(PREFIX)?.strip_prefix(name)?.rsplit_once(' ')?;
            let own = series.strip_prefix('{')?.strip_suffix('}')?;
            let has = |(label, value): &(&str, &str)| own.split(',').any(|own| own == format!("{label}=\"{value}\""));
            labels.iter().all(has).then(|| value.parse().ok()).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_their_name_and_labels() {
        let text = "# HELP leeway_a_total Requests.\nleeway_a_total{model=\"m\",version=\"2\",outcome=\"ok\"} 600\n\
                    leeway_a_total{model=\"m\",version=\"2\",outcome=\"shed\"} 3\n\
                    leeway_a_total{model=\"m\",version=\"3\"} 7\n\
                    leeway_a_total_more{model=\"m\",version=\"2\"} 1\nleeway_b{model=\"m\",version=\"2\"} NaN\n";
        let metrics = Metrics(text.to_owned());
        let of_2 = [("model", "m"), ("version", "2")];
        assert_eq!(metrics.sum("a_total", &of_2), 603.0);
        assert_eq!(metrics.value("a_total", &[("version", "3")]), Some(7.0));
        assert_eq!(metrics.value("a_total", &[("version", "4")]), None);
        assert!(metrics.value("b", &of_2).is_some_and(f64::is_nan));
    }
}
