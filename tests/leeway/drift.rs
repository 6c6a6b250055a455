//! Drift against the shipped baseline: of unchanged digits, and of digits that were changed.

use std::collections::BTreeMap;

use leeway::config::DriftSeries;
use serde_json::{Value, json};

use crate::harness::{TestApp, checkout, held_out};

/// Eight rows of eight pixels, 0 to 16.
type Digit = Vec<i64>;

const REQUESTS: usize = 1_000;

/// Returns the held-out digits for which `wanted` is true.
fn digits(is_wanted: fn(i64) -> bool) -> Vec<Digit> {
    let held_out = held_out("digits");
    let labels = held_out["digits"].as_array().unwrap().iter().map(|digit| digit.as_i64().unwrap());
    let pixels = |instance: &Value| instance.as_array().unwrap().iter().map(|pixel| pixel.as_i64().unwrap()).collect();
    let both = held_out["instances"].as_array().unwrap().iter().zip(labels);
    both.filter(|(_, label)| is_wanted(*label)).map(|(instance, _)| pixels(instance)).collect()
}

/// Sends `REQUESTS` requests of one digit each, repeating the digits. Returns the digits that were sent.
async fn serve(app: &TestApp, digits: &[Digit]) -> Vec<Digit> {
    let served: Vec<Digit> = digits.iter().cycle().take(REQUESTS).cloned().collect();
    for some in served.chunks(50) {
        let request = |digit: &Digit| {
            let body = json!({ "instances": [digit] }).to_string();
            let request = app.client.post(app.url("/predict")).body(body);
            tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
        };
        for answered in some.iter().map(request).collect::<Vec<_>>() {
            assert_eq!(answered.await.unwrap(), 200);
        }
    }
    served
}

async fn drift(app: &TestApp) -> Value {
    let report = app.admin_get("/admin/v1/models/digits/drift?version=2&window_s=3600").await;
    assert_eq!(report.status, 200, "{}", report.text);
    report.json()["versions"][0].clone()
}

/// Returns the status of each feature, or part of the predictions.
fn statuses(report: &Value, side: &str) -> BTreeMap<String, String> {
    let found = report[side].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    found.map(|feature| (text(&feature["name"]), text(&feature["status"]))).collect()
}

/// Computes the PSI of a pixel by its definition, from the baseline's file and the digits that were sent. Values out of the
/// range of the training data are not compared.
fn psi(feature: &Value, values: impl Iterator<Item = f64>) -> f64 {
    let number = |value: &Value| value.as_f64().unwrap();
    let range = number(&feature["summary"]["min"])..=number(&feature["summary"]["max"]);
    let edges: Vec<f64> = feature["bins"]["edges"].as_array().unwrap().iter().map(number).collect();
    let inner: Vec<f64> = edges.iter().copied().filter(|edge| range.contains(edge) && edge != range.end()).collect();
    let bin = |value: f64| inner.iter().filter(|edge| **edge < value).count();
    let (mut baseline, mut window) = (vec![0.0; inner.len() + 1], vec![0.0; inner.len() + 1]);
    let ends = edges.iter().copied().chain([f64::INFINITY]);
    for (count, end) in feature["counts"].as_array().unwrap().iter().zip(ends) {
        baseline[bin(end)] += number(count);
    }
    for value in values.filter(|value| range.contains(value)) {
        window[bin(value)] += 1.0;
    }
    let share =
        |counts: &[f64], bin: usize| (counts[bin] + 0.5) / (counts.iter().sum::<f64>() + counts.len() as f64 / 2.0);
    if window.iter().sum::<f64>() == 0.0 {
        return f64::NAN;
    }
    (0..baseline.len())
        .map(|bin| (share(&baseline, bin), share(&window, bin)))
        .map(|(p, q)| (q - p) * (q / p).ln())
        .sum()
}

/// Serves the digits, compares every feature's index with its definition, and returns the report.
async fn check(digits: &[Digit]) -> Value {
    let mut config = crate::harness::config();
    config.monitoring.drift_series = DriftSeries::All;
    let app = TestApp::with(config).await;
    let served = serve(&app, digits).await;
    let report = drift(&app).await;
    assert_eq!((&report["rows"], &report["not_watched"]), (&json!(REQUESTS), &json!([])));

    let baseline = std::fs::read_to_string(checkout().join("models/digits/2/baseline.json")).unwrap();
    let baseline: Value = serde_json::from_str(&baseline).unwrap();
    let metrics = app.get("/metrics").await.text;
    for (pixel, feature) in baseline["features"].as_array().unwrap().iter().enumerate() {
        let expected = psi(feature, served.iter().map(|digit| digit[pixel] as f64));
        let name = feature["name"].as_str().unwrap();
        let found = report["features"].as_array().unwrap().iter().find(|found| found["name"] == name).unwrap();
        let Some(found) = found["psi"].as_f64() else {
            assert!(expected.is_nan(), "{name}: {expected}");
            continue;
        };
        assert!((found - expected).abs() < 1e-9, "{name}: {found} is not {expected}");
        let series = format!("leeway_feature_psi{{model=\"digits\",version=\"2\",feature=\"{name}\"}} ");
        let shown: f64 = metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap();
        // Four digits.
        assert!((shown - expected).abs() <= 5e-4 * expected, "{name}: {shown} is not {expected}");
    }
    // Sorted by the size of the difference, the largest first.
    let drifted = report["features"].as_array().unwrap().iter().filter(|feature| feature["status"] == "drifted");
    let sizes: Vec<f64> = drifted.map(size).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    report
}

/// Returns the adjusted PSI of a feature, or the largest increase of a share, where it is larger.
fn size(feature: &Value) -> f64 {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let increases = feature["shares"].as_array().unwrap().iter();
    let increases = increases.map(|share| number(&share["window_share"]) - number(&share["baseline_share"]));
    increases.fold(number(&feature["psi_adjusted"]), f64::max)
}

fn pixel(row: usize, column: usize) -> String {
    format!("pixels[{}]", 8 * row + column)
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_as_they_are_are_quiet() {
    let report = check(&digits(|_| true)).await;
    assert_eq!(report["status"], "ok");
    for side in ["features", "predictions"] {
        assert!(statuses(&report, side).values().all(|status| status == "ok"), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_that_are_shifted_by_a_column_are_named_pixel_by_pixel() {
    let shift = |digit: Digit| digit.chunks(8).flat_map(|row| [&[0], &row[..7]].concat()).collect();
    let report = check(&digits(|_| true).into_iter().map(shift).collect::<Vec<Digit>>()).await;
    let features = statuses(&report, "features");
    // In the middle of the picture, ink begins and ends one column later.
    for row in 1..7 {
        assert_eq!((&*features[&pixel(row, 2)], &*features[&pixel(row, 6)]), ("drifted", "drifted"), "{row}");
    }
    // The first column never had ink, and still has none.
    assert_eq!(features[&pixel(0, 0)], "ok");
    assert_eq!(statuses(&report, "predictions")["confidence"], "drifted");
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_with_noise_are_named_where_there_was_paper() {
    // A linear congruential generator (Numerical Recipes): 0 to 7 on every pixel.
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        i64::from(state >> 29)
    };
    let mut noisy = |digit: Digit| digit.into_iter().map(|pixel| (pixel + noise()).min(16)).collect();
    let report = check(&digits(|_| true).into_iter().map(&mut noisy).collect::<Vec<Digit>>()).await;
    let features = statuses(&report, "features");
    for row in 0..8 {
        for column in [0, 7] {
            assert_eq!(features[&pixel(row, column)], "drifted");
        }
    }
    assert_eq!(statuses(&report, "predictions")["confidence"], "drifted");
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_that_are_inverted_are_named_everywhere() {
    let inverted = |digit: Digit| digit.into_iter().map(|pixel| 16 - pixel).collect();
    let report = check(&digits(|_| true).into_iter().map(inverted).collect::<Vec<Digit>>()).await;
    let verdict = &report["verdict"];
    assert_eq!((&verdict["status"], &verdict["reason"]), (&json!("drifted"), &json!("shares")));
    assert_eq!(verdict["features"].as_array().unwrap().len(), 5, "{verdict}");
    let features = statuses(&report, "features");
    // All pixels but some in the middle, which have ink as often as not.
    let drifted = features.values().filter(|status| *status == "drifted").count();
    assert!(drifted >= 50, "{features:?}");
    for row in 0..8 {
        assert_eq!((&*features[&pixel(row, 0)], &*features[&pixel(row, 7)]), ("drifted", "drifted"), "{row}");
    }
    let predictions = statuses(&report, "predictions");
    assert_eq!((&*predictions["class"], &*predictions["confidence"]), ("drifted", "drifted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_classes_are_told_by_the_predictions() {
    let report = check(&digits(|digit| digit < 5)).await;
    assert_eq!(report["predictions"][0]["name"], "class");
    assert_eq!(report["predictions"][0]["status"], "drifted");
    let bins = report["predictions"][0]["bins"].as_array().unwrap();
    let gone = bins.iter().filter(|bin| "56789".contains(bin["bin"].as_str().unwrap()));
    assert!(gone.map(|bin| bin["window_count"].as_u64().unwrap()).sum::<u64>() < 50, "{bins:?}");
    // The model is as certain about these as about the others.
    assert_eq!(statuses(&report, "predictions")["confidence"], "ok");
}

/// A request of a probe is answered and counted as a request, but neither its features nor its predictions are.
#[tokio::test(flavor = "multi_thread")]
async fn synthetic_requests_are_not_monitored() {
    let app = TestApp::start().await;
    let body = json!({ "instances": [digits(|_| true)[0]] }).to_string();
    let send = async |synthetic: &str| {
        let request = app.client.post(app.url("/predict")).header("X-Leeway-Synthetic", synthetic).body(body.clone());
        crate::harness::Answer::of(request.send().await.unwrap()).await
    };
    for (synthetic, rows) in [("true", 0), ("True", 0), ("false", 1)] {
        assert_eq!(send(synthetic).await.status, 200);
        assert_eq!(drift(&app).await["rows"], rows, "{synthetic}");
    }
    let refused = send("yes").await;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("x-leeway-synthetic: found \\\"yes\\\", expected true or false"), "{}", refused.text);
    assert_eq!(app.metric("leeway_requests_total{model=\"digits\",version=\"2\",outcome=\"ok\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_drift_is_checked() {
    let app = TestApp::start().await;
    let get = async |query: &str| app.admin_get(&format!("/admin/v1/models/digits/drift{query}")).await;
    let both = get("").await.json();
    let versions: Vec<&Value> = both["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(versions, [&json!(2), &json!(1)]);
    assert_eq!(both["versions"][0]["status"], "not_enough_data");
    assert_eq!(both["versions"][0]["baseline_rows"], 1437);
    for (query, status, problem) in [
        ("?window_s=0", 400, "window_s: expected 1 to 604800 seconds"),
        ("?window_s=604801", 400, "window_s: expected 1 to 604800 seconds"),
        ("?window=5", 400, "unknown field `window`"),
        ("?version=9", 404, "9"),
    ] {
        let answer = get(query).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text);
        assert!(answer.text.contains(problem), "{query}: {}", answer.text);
    }
    assert_eq!(app.admin_get("/admin/v1/models/nobody/drift").await.status, 404);
}

/// `/metrics` has only the features that drift most, and the number of all features.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_features_that_drift_most() {
    let mut config = crate::harness::config();
    config.monitoring.top_features = 3;
    let app = TestApp::with(config).await;
    let series = async |name: &str| -> Vec<String> {
        let begin = format!("leeway_{name}{{model=\"digits\",version=\"2\",");
        let text = app.get("/metrics").await.text;
        text.lines().filter(|line| line.starts_with(&begin)).map(str::to_owned).collect()
    };
    // Without enough data there are no series.
    for name in ["feature_bin_total", "feature_psi", "prediction_psi", "feature_baseline_ratio"] {
        assert_eq!(series(name).await, [""; 0], "{name}");
    }
    assert!(app.get("/metrics").await.text.len() < 200_000);
    let inverted = |digit: Digit| digit.into_iter().map(|pixel| 16 - pixel).collect();
    let inverted: Vec<Digit> = digits(|_| true).into_iter().map(inverted).collect();
    for _ in 0..3 {
        app.predict("/predict", json!({ "instances": inverted }).to_string()).await.predictions();
    }
    let psi = series("feature_psi_adjusted").await;
    assert_eq!((psi.len(), series("prediction_psi_adjusted").await.len()), (3, 3), "{psi:?}");
    assert_eq!(series("feature_bin_total").await, [""; 0]);
    let value = |line: &String| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
    let worst = psi.iter().map(value).fold(0.0, f64::max);
    let summary =
        app.metric("leeway_drift_psi_adjusted{model=\"digits\",version=\"2\",of=\"features\",measure=\"max\"}").await;
    assert_eq!(worst, summary);
    let drifted = app.metric("leeway_drift_features{model=\"digits\",version=\"2\",status=\"drifted\"}").await;
    assert!(drifted > 40.0, "{drifted}");
    // The series that leeway.recording.yml needs exist for each of them.
    for (name, least) in [("psi_adjusted", 0.2), ("drift_z", 0.0), ("window_values", 1.0), ("bins", 1.0)] {
        let lines = series(&format!("feature_{name}")).await;
        assert!(lines.len() == 3 && lines.iter().all(|line| value(line) >= least), "{lines:?}");
    }
    // The next scrape has the same series, so that an alert can wait for them.
    let names =
        |lines: &[String]| lines.iter().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&series("feature_psi_adjusted").await), names(&psi));
}
