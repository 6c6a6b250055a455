//! Tests that every implementation of the journal, the ledger and the fleet must pass, and tests of the state file. Those of
//! rollouts are in `tests/rollouts.rs`, and those of a database in `tests/postgres.rs`.

mod postgres;
mod rollouts;

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::memory::KEPT_IN_MEMORY;
use super::sqlite::database::Database;
use super::sqlite::journal::SqliteJournal;
use super::sqlite::ledger::SqliteLedger;
use super::sqlite::unwritable_disk::{FrozenJournal, disk_problem};
use super::*;
use crate::api::admin::{Deployment, Replica, ReplicaModel};
use crate::deploy::{Appended, ChangeNote, Fleet, Latest, Transition};
use crate::error::OperatorError;
use crate::feedback::{Entry, Ledger, LedgerKey, NotRecorded, Recorded};

async fn database_and_journal(path: &Path) -> (Arc<Database>, SqliteJournal) {
    let database = Arc::new(Database::open(path).await.unwrap());
    (Arc::clone(&database), SqliteJournal::new(database))
}

async fn journal_at(path: &Path) -> SqliteJournal {
    database_and_journal(path).await.1
}

async fn read_only(path: &Path) -> SqliteJournal {
    SqliteJournal::new(Arc::new(Database::read_only(path).await.unwrap()))
}

async fn database_and_ledger(path: &Path) -> (Arc<Database>, SqliteLedger) {
    let database = Arc::new(Database::open(path).await.unwrap());
    (Arc::clone(&database), SqliteLedger::new(database, three()))
}

async fn ledger_at(path: &Path) -> SqliteLedger {
    database_and_ledger(path).await.1
}

// ===== the journal =====

fn first() -> Deployment {
    Deployment::first("digits".parse().unwrap(), "1".parse().unwrap(), Timestamp::UNIX_EPOCH)
}

fn promoted(from: &Deployment, version: &str) -> Deployment {
    let note = ChangeNote { by: "a test".to_owned(), reason: String::new(), at: Timestamp::UNIX_EPOCH };
    from.after(&Transition::Promote(version.parse().unwrap()), &note).unwrap().unwrap()
}

async fn latest(journal: &dyn Journal) -> Vec<Deployment> {
    let Latest { deployments, unreachable } = journal.latest().await.unwrap();
    assert_eq!(unreachable, None);
    deployments
}

async fn check_journal(journal: &dyn Journal) {
    let one = first();
    assert_eq!(journal.append(&one).await.unwrap(), Appended::Written);
    let (two, other) = (promoted(&one, "2"), promoted(&one, "3"));
    assert_eq!(journal.append(&two).await.unwrap(), Appended::Written);
    assert_eq!(journal.append(&other).await.unwrap(), Appended::Lost(Some(two.clone())));
    assert_eq!(journal.append(&promoted(&promoted(&two, "4"), "5")).await.unwrap(), Appended::Lost(Some(two.clone())));
    assert_eq!(latest(journal).await, std::slice::from_ref(&two));
    assert_eq!(journal.history(&one.model, u64::MAX, 10).await.unwrap(), [two.clone(), one.clone()]);
    assert_eq!(journal.history(&one.model, 2, 10).await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(journal.history(&one.model, u64::MAX, 1).await.unwrap(), [two]);
    assert_eq!(journal.history(&"other".parse().unwrap(), u64::MAX, 1).await.unwrap(), []);
}

#[tokio::test]
async fn the_faster_one_is_written_and_the_other_is_told() {
    check_journal(&MemoryJournal::default()).await;
    let folder = tempfile::tempdir().unwrap();
    check_journal(&journal_at(&folder.path().join("new/journal.db")).await).await;
}

/// Of many changes at one time, by servers with connections of their own, one after the other is made.
async fn check_races(journals: &[Arc<dyn Journal>]) {
    const CHANGES: u64 = 20;
    assert_eq!(journals[0].append(&first()).await.unwrap(), Appended::Written);
    let mut operators = tokio::task::JoinSet::new();
    for (index, journal) in journals.iter().cloned().enumerate() {
        operators.spawn(async move {
            let (mut present, mut written) = (first(), Vec::new());
            for change in 0..CHANGES {
                loop {
                    let next = promoted(&present, &format!("{}", 10 * (index as u64 + 1) + change % 2));
                    match journal.append(&next).await.unwrap() {
                        Appended::Written => {
                            written.push(next.generation);
                            present = next;
                            break;
                        }
                        Appended::Lost(latest) => present = latest.unwrap(),
                    }
                }
            }
            written
        });
    }
    let mut written: Vec<u64> = operators.join_all().await.concat();
    written.sort_unstable();
    let expected: Vec<u64> = (2..2 + CHANGES * journals.len() as u64).collect();
    assert_eq!(written, expected);
    let history = journals[0].history(&first().model, u64::MAX, 1_000).await.unwrap();
    let generations: Vec<u64> = history.iter().rev().map(|deployment| deployment.generation).collect();
    assert_eq!(generations[1..], expected);
}

/// A change is noticed by those who share a journal, wherever it is made.
async fn check_changes(one: &dyn Journal, other: &dyn Journal) {
    // The first call says that there may be changes.
    for journal in [one, other] {
        journal.changed().await;
    }
    let (mut noticed, mut noticed_here) = (Box::pin(other.changed()), Box::pin(one.changed()));
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), &mut noticed).await;
    assert!(nothing.is_err(), "nothing has changed");
    let present = latest(one).await.pop().unwrap();
    assert_eq!(one.append(&promoted(&present, "77")).await.unwrap(), Appended::Written);
    noticed.as_mut().await;
    noticed_here.as_mut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_file_write_one_history() {
    let folder = tempfile::tempdir().unwrap();
    let mut journals: Vec<Arc<dyn Journal>> = Vec::new();
    for _ in 0..3 {
        journals.push(Arc::new(journal_at(&folder.path().join("leeway.db")).await));
    }
    check_races(&journals).await;
    check_changes(&*journals[0], &*journals[1]).await;
}

#[cfg(target_os = "linux")]
#[test]
fn a_quota_that_is_used_up_is_a_full_disk() {
    let check = |code: i32, expected: Option<&str>| {
        assert_eq!(disk_problem(&io::Error::from_raw_os_error(code)).as_deref(), expected);
    };
    // ENOSPC, EDQUOT, EROFS; EACCES.
    check(28, Some("its disk is full"));
    check(122, Some("its disk quota is used up"));
    check(30, Some("its disk is read-only"));
    check(13, None);
}

#[tokio::test]
async fn in_memory_the_oldest_are_forgotten() {
    let journal = MemoryJournal::default();
    let mut deployment = first();
    for change in 0..KEPT_IN_MEMORY + 10 {
        journal.append(&deployment).await.unwrap();
        deployment = promoted(&deployment, if change % 2 == 0 { "2" } else { "3" });
    }
    let kept = journal.history(&deployment.model, u64::MAX, u32::MAX).await.unwrap();
    let generations = [kept[0].generation, kept[kept.len() - 1].generation];
    assert_eq!(generations, [KEPT_IN_MEMORY as u64 + 10, 11]);
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    journal_at(&path).await.append(&first()).await.unwrap();
    assert_eq!(latest(&journal_at(&path).await).await, [first()]);
}

#[tokio::test]
async fn what_would_not_last_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let journal = journal_at(&path).await;
    journal.append(&first()).await.unwrap();
    let kept = folder.path().join("kept.db");
    std::fs::rename(&path, &kept).unwrap();
    let two = promoted(&first(), "2");
    let error = journal.append(&two).await.unwrap_err().to_string();
    assert!(error.contains("no longer exists"), "{error}");
    std::fs::write(&path, "another").unwrap();
    let error = journal.append(&two).await.unwrap_err().to_string();
    assert!(error.contains("is a different file now"), "{error}");
    // Once the file is back, writing works again, and nothing was written meanwhile.
    std::fs::rename(&kept, &path).unwrap();
    assert_eq!(journal.append(&two).await.unwrap(), Appended::Written);
}

#[tokio::test]
async fn a_deployment_that_cannot_be_read_names_the_file_and_ways_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let (database, journal) = database_and_journal(&path).await;
    journal.append(&first()).await.unwrap();
    sqlx::query("UPDATE deployments SET deployment = '{\"model\"'").execute(&database.pool).await.unwrap();
    let error = journal.latest().await.unwrap_err().to_string();
    let file = path.display();
    assert!(
        error.starts_with(&format!(
            "state.url: the deployment journal {file} cannot be read: generation 1 of model digits: EOF"
        )),
        "{error}"
    );
    assert!(error.contains("restore the file from a copy") && error.contains("move it away"), "{error}");
    assert!(
        error
            .contains(&format!("sqlite3 {file} \"DELETE FROM deployments WHERE model = 'digits' AND generation = 1\"")),
        "{error}"
    );
}

/// A journal on a read-only disk is read completely, with and without changes that are only in its log.
#[tokio::test]
async fn a_journal_that_cannot_be_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let (database, journal) = database_and_journal(&path).await;
    journal.append(&first()).await.unwrap();
    assert_eq!(latest(&read_only(&path).await).await, [first()]);
    database.pool.close().await;
    assert_eq!(latest(&read_only(&path).await).await, [first()]);
    let frozen = |path: PathBuf| FrozenJournal::new(path, vec![first()], "its disk is full".to_owned());
    let nowhere = frozen("/proc/leeway/journal.db".into());
    assert_eq!(latest(&nowhere).await, [first()]);
    let second = promoted(&first(), "2");
    assert!(matches!(nowhere.append(&second).await, Err(OperatorError::Journal(_))));
    // The disk has space again.
    let thawed = frozen(path.clone());
    assert_eq!(thawed.append(&second).await.unwrap(), Appended::Written);
    assert_eq!(latest(&thawed).await, std::slice::from_ref(&second));
    assert_eq!(latest(&journal_at(&path).await).await, [second]);
}

#[tokio::test]
async fn a_file_that_is_no_journal_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    std::fs::write(&path, "this is not a database, but it is long enough to look at").unwrap();
    let error = Database::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("state.url") && error.contains("not a database"), "{error}");
    let later = folder.path().join("later.db");
    let (database, journal) = database_and_journal(&later).await;
    sqlx::query("PRAGMA user_version = 2").execute(&database.pool).await.unwrap();
    drop(journal);
    let error = Database::open(&later).await.unwrap_err().to_string();
    assert!(error.contains("written by a later version of Leeway"), "{error}");
}

// ===== the ledger =====

/// Records these keys. Returns true for each that was recorded for the first time.
async fn first_time(ledger: &dyn Ledger, keys: &[u64]) -> Vec<bool> {
    let entries: Vec<Entry> = keys.iter().map(|key| Entry { key: *key, said: 7, may_replace: false }).collect();
    ledger.record(&entries).await.unwrap().iter().map(|recorded| *recorded == Recorded::First).collect()
}

async fn check_ledger(ledger: &dyn Ledger) {
    assert_eq!(first_time(ledger, &[1, u64::MAX, 1]).await, [true, true, false]);
    assert_eq!(first_time(ledger, &[u64::MAX, 2]).await, [false, true]);
    assert_eq!(first_time(ledger, &[]).await, [false; 0]);
    // Three entries are remembered: a fourth replaces the oldest.
    assert_eq!(first_time(ledger, &[3]).await, [true]);
    assert_eq!(first_time(ledger, &[2, 3, u64::MAX]).await, [false; 3]);
    assert_eq!(first_time(ledger, &[1]).await, [true]);
}

/// Checks that a statement is remembered exactly, and that a later one replaces it if allowed.
async fn check_corrections(ledger: &dyn Ledger) {
    let entry = |said: f64, may_replace| Entry { key: 1, said: said.to_bits(), may_replace };
    let before = |said: f64| Recorded::Replaced { before: said.to_bits() };
    let said = vec![
        entry(-1.5, true),
        entry(-1.5, true),
        entry(2.0, false),
        entry(2.0, true),
        entry(f64::MAX, true),
        entry(-1.5, true),
    ];
    let expected = [Recorded::First, Recorded::Same, Recorded::Differs, before(-1.5), before(2.0), before(f64::MAX)];
    assert_eq!(ledger.record(&said).await.unwrap(), expected);
    let again = vec![entry(-1.5, true), entry(3.0, false), entry(3.0, true)];
    assert_eq!(ledger.record(&again).await.unwrap(), [Recorded::Same, Recorded::Differs, before(-1.5)]);
}

fn three() -> NonZeroUsize {
    NonZeroUsize::new(3).unwrap()
}

#[tokio::test]
async fn in_memory_nothing_is_new_twice() {
    check_ledger(&MemoryLedger::new(three())).await;
    check_corrections(&MemoryLedger::new(three())).await;
}

#[tokio::test]
async fn in_a_file_nothing_is_new_twice_for_whoever_shares_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leeway.db");
    let ledger = ledger_at(&path).await;
    check_ledger(&ledger).await;
    let other = ledger_at(&path).await;
    assert_eq!(first_time(&other, &[1, 7]).await, [false, true]);
    assert_eq!(first_time(&ledger, &[7]).await, [false]);
    assert_eq!(ledger.key().await.unwrap(), other.key().await.unwrap());
    let another = ledger_at(&folder.path().join("another.db")).await;
    check_corrections(&another).await;
}

#[tokio::test]
async fn of_what_was_said_before_corrections_were_taken_nothing_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leeway.db");
    let (database, ledger) = database_and_ledger(&path).await;
    first_time(&ledger, &[1]).await;
    sqlx::query("ALTER TABLE feedback_items DROP COLUMN said").execute(&database.pool).await.unwrap();
    drop(ledger);
    let ledger = ledger_at(&path).await;
    let again = Entry { key: 1, said: 8, may_replace: true };
    assert_eq!(ledger.record(&[again]).await.unwrap(), [Recorded::Same]);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leeway.db");
    let (database, ledger) = database_and_ledger(&path).await;
    ledger.key().await.unwrap();
    for (key, problem) in
        [("", "it has 0 bytes instead of 32"), ("abcd", "it has 2 bytes"), ("no key", "Invalid character")]
    {
        sqlx::query("UPDATE feedback_keys SET key = ?").bind(key).execute(&database.pool).await.unwrap();
        let error = ledger.key().await.unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("leeway.db") && error.contains("DELETE"), "{error}");
    }
}

/// Writes to a file that is no longer at its path are not acknowledged.
#[tokio::test]
async fn what_would_not_last_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leeway.db");
    let ledger = ledger_at(&path).await;
    assert_eq!(first_time(&ledger, &[1]).await, [true]);
    std::fs::remove_file(&path).unwrap();
    let entry = Entry { key: 2, said: 7, may_replace: false };
    let Err(NotRecorded::Failed(problem)) = ledger.record(&[entry]).await else { panic!() };
    assert!(problem.contains("no longer exists"), "{problem}");
}

// ===== the fleet =====

async fn check_fleet(one: &dyn Fleet, other: &dyn Fleet) {
    let replica = |id: &str, generation| Replica {
        id: id.to_owned(),
        name: format!("server-{id}:8081"),
        leeway: "0.1.0".to_owned(),
        started_at: Timestamp::UNIX_EPOCH,
        age_s: 0.0,
        models: [("digits".parse().unwrap(), ReplicaModel { generation, problem: None })].into(),
    };
    let known = async |fleet: &dyn Fleet, own: Replica| -> Vec<(String, u64)> {
        let known = fleet.report(&own).await.unwrap();
        assert!(known.iter().all(|replica| (0.0..5.0).contains(&replica.age_s)), "{known:?}");
        known.into_iter().map(|replica| (replica.id, replica.models.into_values().next().unwrap().generation)).collect()
    };
    let expected = |expected: &[(&str, u64)]| -> Vec<(String, u64)> {
        expected.iter().map(|(id, generation)| (id.to_string(), *generation)).collect()
    };
    assert_eq!(known(one, replica("a", 1)).await, expected(&[("a", 1)]));
    assert_eq!(known(other, replica("b", 1)).await, expected(&[("a", 1), ("b", 1)]));
    assert_eq!(known(one, replica("a", 2)).await, expected(&[("a", 2), ("b", 1)]));
    other.leave("b").await.unwrap();
    assert_eq!(known(one, replica("a", 2)).await, expected(&[("a", 2)]));
    one.leave("a").await.unwrap();
}

#[tokio::test]
async fn servers_that_share_a_file_know_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = StateConfig::at(StateUrl::Sqlite(folder.path().join("leeway.db")));
    let [one, other] = [open(&config, three()).await.unwrap(), open(&config, three()).await.unwrap()];
    check_fleet(&*one.fleet, &*other.fleet).await;
}
