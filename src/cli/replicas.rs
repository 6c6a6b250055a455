//! The servers that share a state, as a table for people.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;

use super::table_cells::{cell, seconds, table, text_of};
use crate::api::admin::{LaggingReplica, Replica};
use crate::identity::ModelName;

/// Writes the servers of a fleet. Writes nothing if there is only one.
pub(super) fn write_replicas(out: &mut dyn Write, replicas: &[Replica]) -> Result<()> {
    if replicas.len() < 2 {
        return Ok(());
    }
    let newest = newest(replicas);
    let mut table = table(["replica", "leeway", "started", "reported", "deployments"]);
    for replica in replicas {
        let behind: Vec<String> = lags(replica, &newest).map(|(name, behind)| describe(name, &behind)).collect();
        table.add_row([
            cell(&replica.name).to_string(),
            cell(&replica.leeway).to_string(),
            seconds(replica.started_at),
            format!("{:.1} s ago", replica.age_s),
            if behind.is_empty() { "current".to_owned() } else { behind.join("; ") },
        ]);
    }
    writeln!(out, "\n{}", text_of(&table))?;
    Ok(())
}

/// Returns a line for each deployment that is not in effect on a server because of a problem.
pub(super) fn problems_of_replicas(replicas: &[Replica]) -> Vec<String> {
    let newest = newest(replicas);
    let of_replica = |replica: &Replica| -> Vec<String> {
        let failed = lags(replica, &newest).filter(|(_, behind)| behind.problem.is_some());
        failed.map(|(name, behind)| format!("replica {}: {}", replica.name, describe(name, &behind))).collect()
    };
    replicas.iter().flat_map(of_replica).collect()
}

/// Returns the newest generation of each model that is in effect on a server.
fn newest(replicas: &[Replica]) -> BTreeMap<&ModelName, u64> {
    let mut newest = BTreeMap::new();
    for (name, model) in replicas.iter().flat_map(|replica| &replica.models) {
        let known = newest.entry(name).or_default();
        *known = model.generation.max(*known);
    }
    newest
}

/// Returns the models whose newest deployment is not in effect on a server.
fn lags<'a>(
    replica: &'a Replica,
    newest: &'a BTreeMap<&'a ModelName, u64>,
) -> impl Iterator<Item = (&'a ModelName, LaggingReplica)> {
    newest.iter().filter_map(|(name, generation)| Some((*name, replica.lagging(name, *generation)?)))
}

fn describe(model: &ModelName, LaggingReplica { generation, problem, .. }: &LaggingReplica) -> String {
    let at = generation.map_or("not there".to_owned(), |generation| format!("at generation {generation}"));
    problem.as_ref().map_or_else(|| format!("{model} {at}"), |problem| format!("{model} {at}: {}", cell(problem)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::admin::ReplicaModel;

    fn replica(name: &str, generation: u64, problem: Option<&str>) -> Replica {
        let model = ReplicaModel { generation, problem: problem.map(str::to_owned) };
        Replica {
            id: name.to_owned(),
            name: format!("{name}:8081"),
            leeway: "0.1.0".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            age_s: 0.25,
            models: [("digits".parse().unwrap(), model)].into(),
        }
    }

    #[test]
    fn servers_that_lag_are_shown_with_the_reason() {
        let fleet = [replica("a", 7, None), replica("b", 6, Some("version 3: not in the repository"))];
        let mut text = Vec::new();
        write_replicas(&mut text, &fleet).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("a:8081") && text.contains("current"), "{text}");
        assert!(text.contains("digits at generation 6: version 3: not in the repository"), "{text}");
        let problems = problems_of_replicas(&fleet);
        assert_eq!(problems, ["replica b:8081: digits at generation 6: version 3: not in the repository"]);
    }

    #[test]
    fn a_server_alone_is_no_fleet() {
        let mut text = Vec::new();
        write_replicas(&mut text, &[replica("a", 7, None)]).unwrap();
        assert!(text.is_empty());
        // A change that is still on its way is no problem.
        assert!(problems_of_replicas(&[replica("a", 7, None), replica("b", 6, None)]).is_empty());
    }
}
