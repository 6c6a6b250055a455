//! `leeway predict` for a table of 1,000,000 rows, compared with the rate at which the same server answers the same rows in
//! requests that are only sent: by the load generator oha, in turn, over as many connections.
//!
//!     make bench-predict
//!
//! `LEEWAY_BENCH_ROWS` and `LEEWAY_BENCH_ROUNDS` set the size. The server's rate is that of the best of some numbers of rows
//! in a request. The ratio is the server's rate divided by that of the command within a round: 1 is the best that the command
//! can do. The command shares the cores with the server; oha does, too, but reads no table and writes no predictions.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use leeway_testkit::{
    KillOnDrop, Load, OHA, Repository, Server, Spread, held_out, leeway, median, number_from, oha, summarize, workshop,
};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

const TEXTS: [&str; 2] = ["island", "sex"];
const NUMBERS: [&str; 4] = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"];
/// Requests of the command at one time, and so connections of oha.
const CONNECTIONS: usize = 4;
/// Numbers of rows in a request of oha.
const SIZES: [usize; 4] = [64, 256, 1024, 4096];
/// Number of rows that are in memory at one time.
const BATCH: usize = 1 << 16;

/// A run of the command.
struct Run {
    rows_per_second: f64,
    /// Largest resident memory, in mebibytes.
    memory: f64,
}

fn main() {
    oha();
    let rows = number_from("LEEWAY_BENCH_ROWS", 1_000_000) as usize;
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let time = Duration::from_secs(number_from("LEEWAY_BENCH_SECONDS", 3));
    let cores = std::thread::available_parallelism().unwrap();
    let repository = Repository::in_workshop("predict").with_shipped("penguins", &[2]);
    // The rate counts only if no request is refused, and thousands of rows take a large part of the usual budget.
    let model_toml = repository.path().join("penguins/model.toml");
    let settings = std::fs::read_to_string(&model_toml).unwrap().replace("total_ms = 200", "total_ms = 10000");
    assert!(settings.contains("total_ms = 10000"));
    std::fs::write(&model_toml, settings).unwrap();
    let server = Server::measured(repository.path(), &[]);
    let (csv, parquet) = (workshop().join("penguins.csv"), workshop().join("penguins.parquet"));
    write_tables(rows, &csv, &parquet);
    println!(
        "{rows} penguins (6 columns, a forest of 40 trees), {cores} cores shared with oha {OHA}, {rounds} rounds\n"
    );

    let url = server.url("/v1/models/penguins:predict");
    let rate_of = |size: usize| {
        let body = write_body(size);
        summarize(&url, &body, Load::Closed(CONNECTIONS), time).all_good().per_second * size as f64
    };
    let rates: Vec<(f64, usize)> = SIZES.iter().map(|size| (rate_of(*size), *size)).collect();
    for (rate, size) in &rates {
        println!("the server, {size:>4} rows in a request of oha: {rate:>8.0} rows/s");
    }
    let (_, best) = rates.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).unwrap();

    let address = server.url("");
    let models = repository.path().to_str().unwrap();
    let by_server = ["--server", &*address];
    let in_process = ["--models", models];
    let cases = [
        ("CSV to JSON lines, by the server", &csv, "predictions.jsonl", by_server),
        ("CSV to CSV, by the server", &csv, "predictions.csv", by_server),
        ("Parquet to JSON lines, by the server", &parquet, "predictions.jsonl", by_server),
        ("Parquet to CSV, by the server", &parquet, "predictions.csv", by_server),
        ("CSV to CSV, in process", &csv, "predictions.csv", in_process),
    ];
    println!("\nthe server with {best} rows in a request, beside each run:");
    for (name, table, output, by) in cases {
        let mut measured = Vec::new();
        for _ in 0..rounds {
            let own = rate_of(best);
            let run = predict(rows, table, &workshop().join(output), by);
            measured.push((own, run));
        }
        println!(
            "{name:<36}: {:>8.0} rows/s, server's own rate / that {}, {:.0} MiB at most",
            median(measured.iter().map(|(_, run)| run.rows_per_second)),
            Spread::of(measured.iter().map(|(own, run)| own / run.rows_per_second)),
            measured.iter().map(|(_, run)| run.memory).fold(0.0, f64::max),
        );
    }
}

/// Runs the command for a table, and checks that each row has a prediction.
fn predict(rows: usize, table: &Path, output: &Path, by: [&str; 2]) -> Run {
    let mut command: Command = leeway(&["predict", "penguins"]);
    command.arg(table).arg("--output").arg(output).args(by).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = KillOnDrop(command.spawn().unwrap());
    let (mut memory, status) = (0f64, format!("/proc/{}/status", child.0.id()));
    let ended = loop {
        let found = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = found.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes: Option<f64> = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
        memory = memory.max(kibibytes.unwrap_or_default() / 1024.0);
        if let Some(ended) = child.0.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let took = begin.elapsed();
    assert!(ended.success());
    let header = usize::from(output.extension().unwrap() == "csv");
    assert_eq!(BufReader::new(File::open(output).unwrap()).lines().count(), rows + header);
    Run { rows_per_second: rows as f64 / took.as_secs_f64(), memory }
}

/// Returns a penguin: one of those held out, a little heavier than the last time.
fn penguin(held_out: &[Value], row: usize) -> Value {
    let mut penguin = held_out[row % held_out.len()].clone();
    if let Some(mass) = penguin["body_mass_g"].as_f64() {
        penguin["body_mass_g"] = (mass + (row / held_out.len() % 500) as f64).into();
    }
    penguin
}

/// Writes a request with the first rows, in the form that the command uses.
fn write_body(rows: usize) -> PathBuf {
    let held_out = held_out("penguins")["instances"].as_array().unwrap().clone();
    let columns = [&TEXTS[..], &NUMBERS[..]].concat();
    let row = |row: usize| columns.iter().map(|column| penguin(&held_out, row)[*column].clone()).collect();
    let data: Vec<Value> = (0..rows).map(row).collect();
    let path = workshop().join(format!("penguins-{rows}.json"));
    std::fs::write(&path, json!({ "dataframe_split": { "columns": columns, "data": data } }).to_string()).unwrap();
    path
}

/// Writes the rows as CSV and as Parquet.
fn write_tables(rows: usize, csv: &Path, parquet: &Path) {
    let held_out = held_out("penguins")["instances"].as_array().unwrap().clone();
    let mut text = BufWriter::new(File::create(csv).unwrap());
    writeln!(text, "{},{}", TEXTS.join(","), NUMBERS.join(",")).unwrap();
    let mut writer = None;
    for begin in (0..rows).step_by(BATCH) {
        let penguins: Vec<Value> = (begin..rows.min(begin + BATCH)).map(|row| penguin(&held_out, row)).collect();
        for penguin in &penguins {
            let cell = |column: &&str| match &penguin[*column] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let cells: Vec<String> = TEXTS.iter().chain(&NUMBERS).map(cell).collect();
            writeln!(text, "{}", cells.join(",")).unwrap();
        }
        let texts = TEXTS.map(|column| {
            let cells: StringArray = penguins.iter().map(|penguin| penguin[column].as_str()).collect();
            (column, Arc::new(cells) as ArrayRef, true)
        });
        let numbers = NUMBERS.map(|column| {
            let cells: Float64Array = penguins.iter().map(|penguin| penguin[column].as_f64()).collect();
            (column, Arc::new(cells) as ArrayRef, true)
        });
        let batch = RecordBatch::try_from_iter_with_nullable(texts.into_iter().chain(numbers)).unwrap();
        let new = || ArrowWriter::try_new(File::create(parquet).unwrap(), batch.schema(), None).unwrap();
        writer.get_or_insert_with(new).write(&batch).unwrap();
    }
    writer.unwrap().close().unwrap();
    text.flush().unwrap();
}
