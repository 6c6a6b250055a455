//! Tests of the state in a real PostgreSQL database.

use leeway_testkit::Postgres;

use super::rollouts::check_rollouts;
use super::*;

/// A state in a database of its own, with a ledger that remembers three entries.
async fn in_postgres(postgres: &Postgres, last_seen: &Path) -> State {
    let url = StateUrl::try_from(postgres.url()).unwrap();
    open(&StateConfig { last_seen: last_seen.to_owned(), ..StateConfig::at(url) }, three()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_database_write_one_history() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let last_seen = folder.path().join("last-seen.json");
    // They also create the tables at the same time.
    let [one, two, three] =
        [in_postgres(&postgres, &last_seen), in_postgres(&postgres, &last_seen), in_postgres(&postgres, &last_seen)];
    let (one, two, three) = tokio::join!(one, two, three);
    check_races(&[one.journal, Arc::clone(&two.journal), Arc::clone(&three.journal)]).await;
    check_changes(&*two.journal, &*three.journal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_in_a_database_keeps_the_rules() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let last_seen = folder.path().join("last-seen.json");
    let state = in_postgres(&postgres, &last_seen).await;
    check_journal(&*state.journal).await;
    check_ledger(&*state.ledger).await;
    let other = in_postgres(&postgres, &last_seen).await;
    assert_eq!(first_time(&*other.ledger, &[1, 7]).await, [false, true]);
    assert_eq!(first_time(&*state.ledger, &[7]).await, [false]);
    assert_eq!(state.ledger.key().await.unwrap(), other.ledger.key().await.unwrap());
    check_fleet(&*state.fleet, &*other.fleet).await;
    check_rollouts(&*state.rollouts, &*other.rollouts).await;
    // The lock belongs to a connection, and is free when its server is gone.
    assert!(state.rollouts.leads().await.unwrap() && state.rollouts.leads().await.unwrap());
    assert!(!other.rollouts.leads().await.unwrap());
    drop(state.rollouts);
    while !other.rollouts.leads().await.unwrap() {
        tokio::task::yield_now().await;
    }
    let url = StateUrl::try_from(postgres.url()).unwrap();
    let PastJournal::Written(journal) = past_journal(&StateConfig::at(url)).await.unwrap() else { panic!() };
    assert_eq!(latest(&*journal).await, latest(&*state.journal).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrections_in_a_database_keep_the_rules() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    check_corrections(&*in_postgres(&postgres, &folder.path().join("last-seen.json")).await.ledger).await;
}

/// Whatever the order, an entry that two servers record at one time is the first on one of them.
#[tokio::test(flavor = "multi_thread")]
async fn racing_servers_record_each_entry_once() {
    let (postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let url = StateUrl::try_from(postgres.url()).unwrap();
    let config = StateConfig { last_seen: folder.path().join("last-seen.json"), ..StateConfig::at(url) };
    let mut servers = tokio::task::JoinSet::new();
    for server in 0..4u64 {
        let state = open(&config, NonZeroUsize::new(10_000).unwrap()).await.unwrap();
        servers.spawn(async move {
            let mut first = 0;
            for batch in 0..25u64 {
                // The same keys for all servers, in different orders.
                let mut keys: Vec<u64> = (0..40).map(|key| batch * 40 + (key * 7 + server * 3) % 40).collect();
                keys.rotate_left(server as usize * 5);
                first += first_time(&*state.ledger, &keys).await.into_iter().filter(|first| *first).count();
            }
            first
        });
    }
    assert_eq!(servers.join_all().await.into_iter().sum::<usize>(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_is_told_and_comes_back() {
    let (mut postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let last_seen = folder.path().join("last-seen.json");
    let state = in_postgres(&postgres, &last_seen).await;
    assert_eq!(state.journal.append(&first()).await.unwrap(), Appended::Written);
    assert_eq!(latest(&*state.journal).await, [first()]);
    let key = state.ledger.key().await.unwrap();
    postgres.kill();
    let two = promoted(&first(), "2");
    assert!(matches!(state.journal.append(&two).await, Err(OperatorError::Journal(_))));
    assert!(matches!(state.journal.latest().await, Err(SetupError::StateUnreachable(_))));
    let entry = Entry { key: 1, said: 7, may_replace: false };
    assert!(matches!(state.ledger.record(&[entry]).await, Err(NotRecorded::Unreachable(_))));
    // A server that starts now has what this machine has seen, and says so. Without that it has nothing.
    let starting = in_postgres(&postgres, &last_seen).await;
    let seen = starting.journal.latest().await.unwrap();
    assert_eq!(seen.deployments, [first()]);
    assert!(seen.unreachable.unwrap().contains("PostgreSQL database postgres"));
    assert_eq!(starting.ledger.key().await.unwrap(), key);
    assert!(matches!(starting.journal.latest().await, Err(SetupError::StateUnreachable(_))));
    let stranger = in_postgres(&postgres, &folder.path().join("nothing.json")).await;
    assert!(matches!(stranger.journal.latest().await, Err(SetupError::StateUnreachable(_))));
    assert!(matches!(stranger.ledger.key().await.unwrap(), LedgerKey::Unknown { .. }));
    postgres.start_again();
    for state in [&state, &starting, &stranger] {
        assert_eq!(latest(&*state.journal).await, [first()]);
        assert_eq!(state.ledger.key().await.unwrap(), key);
    }
    assert_eq!(starting.journal.append(&two).await.unwrap(), Appended::Written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_ends_the_start_with_its_words() {
    let postgres = Postgres::start();
    let check = async |url: String, expected: &str| {
        let config = StateConfig::at(StateUrl::try_from(url).unwrap());
        let error = open(&config, three()).await.unwrap_err().to_string();
        assert!(error.starts_with("state.url: ") && error.contains(expected), "{error}");
    };
    check(postgres.url().replace("user=leeway", "user=nobody"), "role \"nobody\" does not exist").await;
    check(postgres.url().replace("///postgres", "///nothing"), "database \"nothing\" does not exist").await;
    check("postgres://db:port/leeway".to_owned(), "port").await;
    let folder = tempfile::tempdir().unwrap();
    drop(in_postgres(&postgres, &folder.path().join("last-seen.json")).await);
    let url = StateUrl::try_from(postgres.url()).unwrap();
    let config = StateConfig { password_file: Some(folder.path().join("none")), ..StateConfig::at(url) };
    let error = open(&config, three()).await.unwrap_err().to_string();
    assert!(error.starts_with("state.password_file: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_reached_by_tls_with_a_password_of_a_file() {
    let (mut postgres, folder) = (Postgres::start(), tempfile::tempdir().unwrap());
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    postgres.write("server.crt", &own.cert.pem());
    postgres.write("server.key", &own.signing_key.serialize_pem());
    let [trusted, untrusted, password] = ["own.pem", "other.pem", "password"].map(|name| folder.path().join(name));
    std::fs::write(&trusted, own.cert.pem()).unwrap();
    std::fs::write(&untrusted, other.cert.pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    postgres.restart_with(&["listen_addresses=127.0.0.1", &format!("port={port}"), "ssl=on"]);
    let opened = async |root: &Path, written: &str| {
        std::fs::write(&password, written).unwrap();
        let root = root.display();
        let url = format!("postgres://leeway@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={root}");
        let state = StateConfig::at(StateUrl::try_from(url).unwrap());
        let last_seen = folder.path().join("last-seen.json");
        open(&StateConfig { password_file: Some(password.clone()), last_seen, ..state }, three()).await
    };
    let problem = opened(&trusted, "wrong\n").await.unwrap_err().to_string();
    assert!(problem.contains("password authentication failed"), "{problem}");
    let problem = opened(&untrusted, "leeway\n").await.unwrap_err().to_string();
    assert!(problem.contains("certificate"), "{problem}");
    // The password that the cluster was made with.
    let state = opened(&trusted, "leeway\n").await.unwrap();
    assert_eq!(state.journal.append(&first()).await.unwrap(), Appended::Written);
    // The password is changed, and then the server is restarted: the file is read again.
    let url = postgres.url().replace("host=", &format!("port={port}&host="));
    let local = sqlx::PgPool::connect(&url).await.unwrap();
    sqlx::query("ALTER ROLE leeway PASSWORD 'changed'").execute(&local).await.unwrap();
    local.close().await;
    std::fs::write(&password, "changed\n").unwrap();
    postgres.kill();
    postgres.start_again();
    let mut found = state.journal.latest().await;
    for _ in 0..2 {
        if found.is_err() {
            found = state.journal.latest().await;
        }
    }
    assert_eq!(found.unwrap().deployments, [first()]);
}
