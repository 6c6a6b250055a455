//! `leeway top`: a live view of a running server: rates, P95 by stage beside the budget, and drift.

use std::io::{IsTerminal, Write, stdout};
use std::iter::repeat;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};

use super::metrics_text::Metrics;
use super::servers::{ConnectionArgs, Servers};
use super::table_cells::{align_right, cell, milliseconds, table_of_width, text_of};
use super::terminal;
use super::version_numbers::{STAGES, VersionNumbers};

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Print the tables once, and end
    #[arg(long)]
    once: bool,

    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Timeout of a reading.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The numbers of a server at one moment.
struct Reading {
    at: Instant,
    server: String,
    is_ready: bool,
    versions: Vec<VersionNumbers>,
}

pub(super) fn run(args: TopArgs) -> Result<()> {
    let TopArgs { once, interval, connection } = args;
    let (servers, interval) = (connection.servers_within(TIMEOUT)?, Duration::from_secs(interval));
    let first = Reading::of(&servers)?;
    if once {
        std::thread::sleep(interval);
        let second = Reading::of(&servers)?;
        writeln!(terminal::stdout(), "{}", view(&first, &second, terminal::columns()))?;
        return Ok(());
    }
    if !stdout().is_terminal() {
        bail!("leeway top needs a terminal; leeway top --once prints its tables");
    }
    let screen = Screen::open()?;
    let watched = watch(&servers, first, interval);
    drop(screen);
    watched
}

impl Reading {
    fn of(servers: &Servers) -> Result<Reading> {
        servers.first(|client| {
            let scraped = client.read("/metrics")?;
            if let Some(problem) = scraped.problem() {
                bail!("{problem}");
            }
            let metrics = Metrics::parse(&scraped.text);
            Ok(Reading {
                at: Instant::now(),
                server: client.address().to_string(),
                is_ready: metrics.value("ready", &[]) == Some(1.0),
                versions: VersionNumbers::all(&metrics),
            })
        })
    }
}

// ===== the view =====

/// Returns the view of a server as text: its versions with their rates between two readings, and P95 by stage.
fn view(before: &Reading, now: &Reading, columns: Option<u16>) -> String {
    let (server, versions) = (&now.server, &now.versions);
    let readiness = if now.is_ready { "ready" } else { "NOT READY" };
    if versions.is_empty() {
        return format!("{server}: {readiness}, no version is loaded");
    }
    let traffic = traffic(before, now, columns);
    let stages = stages(versions, columns);
    let windows = "Budget and P95 in ms; the queue and the run share a part of the budget";
    format!("{server}: {readiness}, {} versions\n\n{traffic}\n\n{windows}\n\n{stages}", versions.len())
}

/// Returns the table of rates.
fn traffic(before: &Reading, now: &Reading, columns: Option<u16>) -> String {
    let elapsed = now.at.duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE);
    let header = ["model", "version", "traffic", "req/s", "err/s", "shed/s", "queue", "P95 ms", "drift"];
    let mut rows = table_of_width(header, columns);
    for version in &now.versions {
        let earlier = before
            .versions
            .iter()
            .find(|earlier| (&earlier.model, &earlier.version) == (&version.model, &version.version));
        let rate = |count: fn(&VersionNumbers) -> f64| {
            // Another server, which answered because the first one does not, has counts of its own.
            if before.server != now.server {
                return "-".to_owned();
            }
            // A version that was loaded again counts from zero.
            let earlier = earlier.map_or(0.0, count);
            let grown = if count(version) < earlier { count(version) } else { count(version) - earlier };
            format!("{:.1}", grown / elapsed)
        };
        rows.add_row([
            cell(&version.model),
            version.version.clone(),
            format!("{:.0}%", 100.0 * version.traffic),
            rate(|numbers| numbers.requests),
            rate(|numbers| numbers.errors),
            rate(|numbers| numbers.shed),
            format!("{:.0}", version.queue),
            milliseconds(version.p95_of_requests()),
            version.drift.shown(),
        ]);
    }
    align_right(&mut rows, 1..8);
    text_of(&rows)
}

/// Returns the table of P95 by stage, below the parts of the budget.
fn stages(versions: &[VersionNumbers], columns: Option<u16>) -> String {
    let names = STAGES.map(|(_, name)| name);
    let mut rows =
        table_of_width(["model", "version", names[0], names[1], names[2], names[3], names[4], names[5]], columns);
    let mut shown = None;
    for version in versions {
        let budget = Some((&version.model, version.budget));
        if shown != budget {
            let parts = version.budget.map(|part| part.map_or_else(|| "-".to_owned(), whole_milliseconds));
            rows.add_row([cell(&version.model), "budget".to_owned()].into_iter().chain(parts));
            shown = budget;
        }
        let cells = version.p95.iter().zip(version.budget).map(|(p95, part)| {
            let is_over = p95.zip(part).is_some_and(|(p95, part)| p95 > part);
            format!("{}{}", milliseconds(*p95), if is_over { "!" } else { "" })
        });
        rows.add_row([cell(&version.model), version.version.clone()].into_iter().chain(cells));
    }
    align_right(&mut rows, 1..8);
    text_of(&rows)
}

fn whole_milliseconds(seconds: f64) -> String {
    format!("{:.0}", 1_000.0 * seconds)
}

// ===== the screen =====

/// The alternate screen of the terminal, without a cursor. Its drop restores the terminal.
struct Screen;

impl Screen {
    fn open() -> Result<Screen> {
        enable_raw_mode()?;
        // Made before anything else can fail, so that the terminal is restored.
        let screen = Screen;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Shows a new reading after each interval, until the user ends it.
fn watch(servers: &Servers, first: Reading, interval: Duration) -> Result<()> {
    let (mut before, mut now) = (first, Reading::of(servers)?);
    let (mut scrolled, mut problem, mut next) = (0usize, None, Instant::now() + interval);
    loop {
        let (columns, lines) = size().ok().filter(|(columns, lines)| columns.min(lines) > &0).unwrap_or((80, 24));
        let text = match &problem {
            Some(problem) => format!("{problem}\n\n{}", view(&before, &now, Some(columns))),
            None => view(&before, &now, Some(columns)),
        };
        scrolled = scrolled.min(text.lines().count().saturating_sub(usize::from(lines).saturating_sub(1)));
        draw(&text, scrolled, (columns, lines))?;
        if poll(next.saturating_duration_since(Instant::now()))? {
            match key(&read()?) {
                Some(Key::Quit) => return Ok(()),
                Some(Key::Down) => scrolled += 1,
                Some(Key::Up) => scrolled = scrolled.saturating_sub(1),
                None => {}
            }
            continue;
        }
        match Reading::of(servers) {
            Ok(reading) => {
                before = std::mem::replace(&mut now, reading);
                problem = None;
            }
            // The server may be restarting.
            Err(error) => problem = Some(format!("{error:#}")),
        }
        next = Instant::now() + interval;
    }
}

enum Key {
    Quit,
    Up,
    Down,
}

/// Returns the meaning of an event. Others, such as a change of the window's size, only draw anew.
fn key(event: &Event) -> Option<Key> {
    let Event::Key(pressed) = event else { return None };
    let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    match pressed.code {
        _ if pressed.kind == KeyEventKind::Release => None,
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('c') if is_control => Some(Key::Quit),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
        _ => None,
    }
}

/// Draws the lines from `scrolled` on, and a line with the keys at the bottom.
fn draw(text: &str, scrolled: usize, (columns, lines): (u16, u16)) -> Result<()> {
    let mut out = stdout();
    let shown = text.lines().skip(scrolled).chain(repeat("")).take(usize::from(lines).saturating_sub(1));
    // Each line is cleared when it is written, so that the screen does not flicker.
    for (line, row) in shown.zip(0..) {
        queue!(out, MoveTo(0, row))?;
        let line: String = line.chars().take(usize::from(columns)).collect();
        write!(terminal::stdout(), "{line}")?;
        if line.chars().count() < usize::from(columns) {
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
    }
    queue!(out, MoveTo(0, lines.saturating_sub(1)))?;
    write!(out, "q quits, arrows scroll")?;
    queue!(out, Clear(ClearType::UntilNewLine))?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, requests: f64) -> Reading {
        let labels = "model=\"digits\",version=\"2\"";
        let mut text = format!(
            "leeway_ready 1\nleeway_model_info{{{labels}}} 1\nleeway_traffic_share_ratio{{{labels}}} 1\n\
             leeway_requests_total{{{labels},outcome=\"ok\"}} {requests}\n"
        );
        for (stage, _) in STAGES {
            text.push_str(&format!(
                "leeway_latency_quantile_seconds{{{labels},stage=\"{stage}\",quantile=\"0.95\"}} 0.05\n"
            ));
            text.push_str(&format!("leeway_budget_seconds{{{labels},part=\"{stage}\"}} 0.02\n"));
        }
        let metrics = Metrics::parse(&text);
        Reading { at, server: "127.0.0.1:8081".to_owned(), is_ready: true, versions: VersionNumbers::all(&metrics) }
    }

    #[test]
    fn the_view_fits_eighty_columns_and_shows_rates() {
        let begin = Instant::now();
        let shown = view(&reading(begin, 100.0), &reading(begin + Duration::from_secs(2), 300.0), Some(80));
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(shown.contains(" 100.0 ") && shown.contains("50.0!") && shown.contains("budget"), "{shown}");
        // Restarted in between.
        let shown = view(&reading(begin, 300.0), &reading(begin + Duration::from_secs(2), 20.0), Some(80));
        assert!(shown.contains(" 10.0 "), "{shown}");
    }
}
