//! Putting a server under load with oha, open or closed, and what becomes of every request.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::programs::oha;

/// How requests come.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// So many connections, each sending its next request when it has its answer.
    Closed(usize),
    /// So many requests a second, whatever becomes of them.
    Open(f64),
    /// The same, over so many connections.
    OpenOver(f64, usize),
}

/// One request and its answer, in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    /// When it was sent, from the beginning on.
    pub(crate) sent: f64,
    pub(crate) took: f64,
    /// 0 if there was no answer.
    pub(crate) status: u16,
}

/// Connections of an open load: more requests than this are never in flight at one time.
const OPEN_CONNECTIONS: usize = 512;

fn open(oha: &mut Command, rate: f64, connections: usize) -> &mut Command {
    oha.args(["-q", &format!("{rate:.0}"), "-c", &connections.to_string()])
}

/// Puts a URL under load and gives every request. `body` is a file.
pub(crate) fn fire(url: &str, body: Option<&Path>, load: Load, time: Duration) -> Vec<Hit> {
    let mut command = Command::new(oha());
    command.args(["--no-tui", "--output-format", "csv", "-z", &format!("{}ms", time.as_millis())]);
    if let Some(body) = body {
        command.args(["-m", "POST", "-T", "application/json", "-D"]).arg(body);
    }
    match load {
        Load::Closed(connections) => command.args(["-c", &connections.to_string()]),
        Load::Open(rate) => open(&mut command, rate, OPEN_CONNECTIONS),
        Load::OpenOver(rate, connections) => open(&mut command, rate, connections),
    };
    let output = command.arg(url).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().expect("oha's report is empty").split(',').collect();
    let column = |name| names.iter().position(|known| *known == name).expect("oha's report has other columns");
    let (sent, took, status) = (column("request-start"), column("request-duration"), column("status"));
    let hit = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        Hit {
            sent: fields[sent].parse().unwrap(),
            took: fields[took].parse().unwrap(),
            status: fields[status].parse().unwrap_or(0),
        }
    };
    lines.map(hit).collect()
}

/// The value below which this share of all lies.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * share) as usize).or(values.last()).copied().unwrap_or(f64::NAN)
}
