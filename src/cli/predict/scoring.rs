//! Makes the predictions for all rows: some requests at one time, as large as their duration allows, in the order of the
//! rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::predictor::{Predictor, Reply};
use super::rows::{Envelope, Rows, Wanted};
use crate::authoring::{Place, RowText};

/// Number of rows in the first requests.
const FIRST_ROWS: usize = 64;
/// Number of bytes of a request beyond which no more rows are added: images can be large.
const MAX_BYTES: usize = 1 << 20;
/// Number of refused rows, from the first row on, after which no other is tried.
const MAX_REFUSED_AT_FIRST: u64 = 100;
/// Time for which a request is sent again, if there is too little capacity or the server does not answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shortest and longest pause before a request is sent again.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// The predictions for the rows of some data.
pub(super) struct Scoring<'a> {
    pub(super) predictor: &'a dyn Predictor,
    /// Number of requests at one time.
    pub(super) in_flight: usize,
    /// Maximum number of rows in one request.
    pub(super) max_rows: usize,
    /// True if rows that are refused do not end the predictions.
    pub(super) keep_going: bool,
}

/// The prediction for a row, or the reason why there is none.
#[derive(Debug)]
pub(super) enum Outcome {
    Prediction(Box<RawValue>),
    Refused(Refused),
}

/// A row that was refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) place: Place,
    pub(super) problem: String,
}

/// Rows of one request.
struct Chunk {
    number: u64,
    envelope: Arc<Envelope>,
    rows: Vec<RowText>,
}

/// The outcomes of a chunk, or the error that ends everything.
type Solved = (u64, Result<Vec<Outcome>>);

/// Number of rows in a request, which follows the durations of requests.
struct Size {
    rows: AtomicUsize,
    /// The model takes fewer rows than this at one time.
    limit: AtomicUsize,
}

impl Scoring<'_> {
    /// Makes all predictions, and gives them to `take` in the order of the rows.
    pub(super) fn run(&self, wanted: &Wanted, take: &mut dyn FnMut(&Outcome) -> Result<()>) -> Result<()> {
        let size =
            Size { rows: AtomicUsize::new(FIRST_ROWS.min(self.max_rows)), limit: AtomicUsize::new(self.max_rows) };
        let is_over = AtomicBool::new(false);
        let (chunks, waiting) = sync_channel::<Chunk>(self.in_flight);
        let (solved, finished) = sync_channel::<Solved>(self.in_flight);
        // A place is taken for each chunk that is read, and left when it is written.
        let (places, left) = sync_channel::<()>(3 * self.in_flight);
        let waiting = Mutex::new(waiting);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.read(wanted, &size, &is_over, (chunks, places)));
            for _ in 0..self.in_flight {
                let (waiting, solved, size, is_over) = (&waiting, solved.clone(), &size, &is_over);
                scope.spawn(move || self.work(waiting, &solved, size, is_over));
            }
            drop(solved);
            let written = self.write(&finished, &left, take);
            is_over.store(true, Relaxed);
            // Threads that wait for a place or a reader notice that there is none any more.
            drop((finished, left));
            waiting.lock().try_iter().for_each(drop);
            let read = reader.join().map_err(|_| anyhow!("the thread that reads the rows has panicked"))?;
            written.and(read)
        })
    }

    /// Reads the rows, and cuts them into chunks.
    fn read(
        &self,
        wanted: &Wanted,
        size: &Size,
        is_over: &AtomicBool,
        (chunks, places): (SyncSender<Chunk>, SyncSender<()>),
    ) -> Result<()> {
        let Rows { envelope, rows } = wanted.open(self.predictor)?;
        let envelope = Arc::new(envelope);
        let (mut bytes, mut number, mut chunk) = (0, 0, Vec::new());
        let send = |number: u64, rows: Vec<RowText>| {
            let chunk = Chunk { number, envelope: Arc::clone(&envelope), rows };
            places.send(()).is_ok() && chunks.send(chunk).is_ok()
        };
        for row in rows {
            let row = row?;
            bytes += row.json.as_ref().map_or(0, String::len);
            chunk.push(row);
            if chunk.len() >= size.rows.load(Relaxed) || bytes >= MAX_BYTES {
                if is_over.load(Relaxed) || !send(number, std::mem::take(&mut chunk)) {
                    return Ok(());
                }
                (bytes, number) = (0, number + 1);
            }
        }
        if !chunk.is_empty() {
            send(number, chunk);
        }
        Ok(())
    }

    /// Makes the predictions of chunks, until there are no more.
    fn work(&self, waiting: &Mutex<Receiver<Chunk>>, solved: &SyncSender<Solved>, size: &Size, is_over: &AtomicBool) {
        loop {
            let next = waiting.lock().recv().ok();
            let Some(Chunk { number, envelope, rows }) = next.filter(|_| !is_over.load(Relaxed)) else { return };
            let mut outcomes = Vec::with_capacity(rows.len());
            let result = self.solve(&envelope, &rows, size, &mut outcomes).map(|_| outcomes);
            let has_failed = result.is_err();
            if solved.send((number, result)).is_err() || has_failed {
                return;
            }
        }
    }

    /// Gives the outcomes to `take` in the order of the rows.
    fn write(
        &self,
        finished: &Receiver<Solved>,
        left: &Receiver<()>,
        take: &mut dyn FnMut(&Outcome) -> Result<()>,
    ) -> Result<()> {
        let (mut early, mut next, mut written, mut refused) = (BTreeMap::new(), 0, 0u64, 0u64);
        for (number, outcomes) in finished {
            early.insert(number, outcomes);
            while let Some(outcomes) = early.remove(&next) {
                for outcome in outcomes? {
                    written += 1;
                    if let Outcome::Refused(Refused { place, problem }) = &outcome {
                        refused += 1;
                        if !self.keep_going {
                            bail!("{place}: {problem}; --keep-going goes on after such rows");
                        }
                        if refused == MAX_REFUSED_AT_FIRST && written == refused {
                            bail!("the first {refused} rows were all refused; {place}: {problem}");
                        }
                    }
                    take(&outcome)?;
                }
                next += 1;
                let _ = left.try_recv();
            }
        }
        Ok(())
    }

    /// Makes the predictions for some rows. Returns the number of refused rows, and stops at the first one unless the
    /// predictions keep going.
    fn solve(&self, envelope: &Envelope, rows: &[RowText], size: &Size, outcomes: &mut Vec<Outcome>) -> Result<usize> {
        let (mut refused, mut rest) = (0, rows);
        while !rest.is_empty() {
            let (readable, others) = rest.split_at(rest.iter().position(|row| row.json.is_err()).unwrap_or(rest.len()));
            refused += self.solve_readable(envelope, readable, size, outcomes)?;
            if refused > 0 && !self.keep_going {
                return Ok(refused);
            }
            let Some((RowText { place, json: Err(problem) }, others)) = others.split_first() else { break };
            outcomes.push(Outcome::Refused(Refused { place: place.clone(), problem: problem.clone() }));
            (refused, rest) = (refused + 1, others);
        }
        Ok(refused)
    }

    /// Makes the predictions for rows that could be read. If they are refused together, finds the rows that are to blame by
    /// halving.
    fn solve_readable(
        &self,
        envelope: &Envelope,
        rows: &[RowText],
        size: &Size,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<usize> {
        let Some(first) = rows.first() else { return Ok(0) };
        let body = envelope.body(rows.iter().filter_map(|row| row.json.as_deref().ok()));
        let is_slow = match self.ask(&body, rows.len(), size)? {
            Reply::Predictions(predictions) if predictions.len() == rows.len() => {
                outcomes.extend(predictions.into_iter().map(Outcome::Prediction));
                return Ok(0);
            }
            Reply::Predictions(predictions) => {
                bail!("{} rows were answered with {} predictions", rows.len(), predictions.len())
            }
            Reply::Busy(problem, _) => bail!("{}: {problem}", first.place),
            Reply::TooSlow(problem) if rows.len() == 1 => bail!("{}: {problem}", first.place),
            Reply::Refused(problem) if rows.len() == 1 => {
                let problem = of_the_only_row(&problem);
                outcomes.push(Outcome::Refused(Refused { place: first.place.clone(), problem }));
                return Ok(1);
            }
            Reply::Refused(_) => false,
            Reply::TooSlow(_) => true,
        };
        let (left, right) = rows.split_at(rows.len() / 2);
        if is_slow {
            size.rows.fetch_min(left.len(), Relaxed);
        }
        let refused = self.solve_readable(envelope, left, size, outcomes)?;
        if refused > 0 && !self.keep_going {
            return Ok(refused);
        }
        let refused = refused + self.solve_readable(envelope, right, size, outcomes)?;
        if refused == 0 && !is_slow {
            // No row is to blame: there were too many of them.
            size.limit(left.len());
        }
        Ok(refused)
    }

    /// Sends a request, and sends it again while there is too little capacity.
    fn ask(&self, body: &str, rows: usize, size: &Size) -> Result<Reply> {
        let (begin, mut pause) = (Instant::now(), PAUSES[0]);
        loop {
            let sent = Instant::now();
            match self.predictor.predict(body)? {
                Reply::Busy(_, after) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(after.unwrap_or(pause).min(PAUSES[1]));
                    pause = (2 * pause).min(PAUSES[1]);
                }
                Reply::TooSlow(_) if rows == 1 && begin.elapsed() < PATIENCE / 6 => std::thread::sleep(pause),
                reply => {
                    if matches!(reply, Reply::Predictions(_)) {
                        size.learn(rows, sent.elapsed(), self.predictor.request_time());
                    }
                    return Ok(reply);
                }
            }
        }
    }
}

impl Size {
    /// Adapts the number of rows to the duration of a request with this many.
    fn learn(&self, rows: usize, took: Duration, wanted: Duration) {
        let now = self.rows.load(Relaxed);
        if rows == now && took < wanted / 2 {
            self.rows.store((2 * now).min(self.limit.load(Relaxed)), Relaxed);
        } else if rows >= now && took > 2 * wanted {
            // Requests of the same size that are answered later find the number changed already.
            self.rows.fetch_min((rows / 2).max(1), Relaxed);
        }
    }

    fn limit(&self, rows: usize) {
        self.limit.fetch_min(rows.max(1), Relaxed);
        self.rows.fetch_min(rows.max(1), Relaxed);
    }
}

/// Removes the index from a message about the only row of a request.
fn of_the_only_row(problem: &str) -> String {
    match problem.strip_prefix("instances[0]") {
        Some(rest) => rest.trim_start_matches(['.', ':', ' ']).to_owned(),
        None => problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::predictor::KnownColumn;
    use super::*;
    use crate::authoring::DataPlace;

    /// Doubles numbers. Refuses requests with a 13, and those with more than 100 rows.
    struct Doubling;

    impl Predictor for Doubling {
        fn name(&self) -> String {
            "doubling".to_owned()
        }

        fn columns(&self) -> &[KnownColumn] {
            &[]
        }

        fn concurrency(&self) -> usize {
            3
        }

        fn request_time(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn predict(&self, body: &str) -> Result<Reply> {
            let numbers = body.strip_prefix("{\"instances\":[").unwrap().strip_suffix("]}").unwrap();
            let numbers: Vec<u64> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
            if let Some(at) = numbers.iter().position(|number| *number % 1_000 == 13) {
                return Ok(Reply::Refused(format!("instances[{at}]: 13 is not allowed")));
            }
            if numbers.len() > 100 {
                return Ok(Reply::Refused("too many rows".to_owned()));
            }
            let doubled = numbers.iter().map(|number| RawValue::from_string((2 * number).to_string()).unwrap());
            Ok(Reply::Predictions(doubled.collect()))
        }
    }

    fn score(lines: &str, keep_going: bool) -> (Vec<String>, Result<(), String>) {
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        let wanted = Wanted {
            place: DataPlace::Path(file.path().to_owned()),
            delimiter: None,
            ignored_columns: Vec::new(),
            progress: Arc::default(),
        };
        let scoring = Scoring { predictor: &Doubling, in_flight: 3, max_rows: 4_096, keep_going };
        let mut seen = Vec::new();
        let done = scoring.run(&wanted, &mut |outcome| {
            seen.push(match outcome {
                Outcome::Prediction(json) => json.get().to_owned(),
                Outcome::Refused(Refused { place, problem }) => format!("{place}: {problem}"),
            });
            Ok(())
        });
        (seen, done.map_err(|error| error.to_string()))
    }

    #[test]
    fn all_rows_are_predicted_in_order_whatever_the_size_of_requests() {
        let lines: String =
            (0..5_000).filter(|number| number % 1_000 != 13).map(|number| format!("{number}\n")).collect();
        let (seen, done) = score(&lines, false);
        assert_eq!(done, Ok(()));
        let expected: Vec<String> = lines.lines().map(|line| (2 * line.parse::<u64>().unwrap()).to_string()).collect();
        assert_eq!(seen, expected);
        assert_eq!(score("", false), (vec![], Ok(())));
    }

    #[test]
    fn a_refused_row_is_named_and_ends_the_predictions_unless_they_keep_going() {
        let lines: String =
            (0..3_000).map(|number| if number == 50 { "{\n".to_owned() } else { format!("{number}\n") }).collect();
        let (seen, done) = score(&lines, false);
        assert_eq!(done.unwrap_err(), "line 14: 13 is not allowed; --keep-going goes on after such rows");
        assert!(seen.len() <= 13 && seen.iter().zip(0..).all(|(seen, number)| *seen == (2 * number).to_string()));
        let (seen, done) = score(&lines, true);
        assert_eq!((done, seen.len()), (Ok(()), 3_000));
        let refused: Vec<&String> = seen.iter().filter(|seen| seen.starts_with("line")).collect();
        assert_eq!(refused.len(), 4, "{refused:?}");
        assert!(refused[1].starts_with("line 51: this is not an instance as JSON"), "{refused:?}");
        assert_eq!((&*seen[2_999], &**refused[3]), ("5998", "line 2014: 13 is not allowed"));
    }

    #[test]
    fn rows_that_are_all_refused_are_not_all_tried() {
        let (seen, done) = score(&"13\n".repeat(1_000), true);
        let problem = done.unwrap_err();
        assert!(problem.starts_with("the first 100 rows were all refused; line 100: 13"), "{problem}");
        assert_eq!(seen.len(), 99);
        assert!(score("1\n2\n{\"a\n", false).1.unwrap_err().contains("line 3: this is not an instance"));
    }
}
