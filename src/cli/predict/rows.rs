//! The rows of the data, in the form of requests that the model accepts.

use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::value::RawValue;

use super::predictor::{ColumnKind, KnownColumn, Predictor, Reply};
use crate::authoring::{
    Cells, ColumnToRead, DataPlace, Delimiter, HeaderColumn, ReadProgress, RowData, RowText, RowTexts,
    is_index_of_pandas, names, open_rows,
};

/// Number of rows that are tried to find the form of requests.
const TRIED: usize = 5;

/// The wanted rows.
pub(super) struct Wanted {
    pub(super) place: DataPlace,
    pub(super) delimiter: Option<Delimiter>,
    /// Columns of a table that are not features.
    pub(super) ignored_columns: Vec<String>,
    pub(super) progress: Arc<ReadProgress>,
}

/// Form of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Envelope {
    /// Each row is an instance.
    Instances,
    /// Each row is an array with a value for each of these columns.
    Named(Vec<String>),
}

/// Rows, and the form of requests for them.
pub(super) struct Rows {
    pub(super) envelope: Envelope,
    pub(super) rows: RowTexts,
}

impl Envelope {
    /// Returns the body of a request for these rows.
    pub(super) fn body<'a>(&self, rows: impl Iterator<Item = &'a str> + Clone) -> String {
        let length = rows.clone().map(|row| row.len() + 1).sum::<usize>();
        let mut body = String::with_capacity(length + 64);
        match self {
            Envelope::Instances => body.push_str("{\"instances\":["),
            Envelope::Named(names) => {
                body.push_str("{\"dataframe_split\":{\"columns\":");
                body.push_str(&serde_json::to_string(names).unwrap_or_default());
                body.push_str(",\"data\":[");
            }
        }
        for (index, row) in rows.enumerate() {
            if index > 0 {
                body.push(',');
            }
            body.push_str(row);
        }
        body.push_str(match self {
            Envelope::Instances => "]}",
            Envelope::Named(_) => "]}}",
        });
        body
    }
}

impl Wanted {
    /// Opens the data, and finds the form of requests that the model accepts.
    pub(super) fn open(&self, predictor: &dyn Predictor) -> Result<Rows> {
        let data = open_rows(&self.place, self.delimiter, &self.progress)?;
        match data {
            RowData::Table(table) => {
                let (columns, envelopes) = choose(&table.header, &self.ignored_columns, predictor.columns())?;
                in_form(table.rows(columns)?, envelopes, predictor)
            }
            _ if !self.ignored_columns.is_empty() => {
                bail!("--ignore-column is for tables: CSV, Parquet and Arrow; leave it out")
            }
            RowData::Instances(rows) => Ok(Rows { envelope: Envelope::Instances, rows }),
            RowData::Named(names, rows) => Ok(Rows { envelope: Envelope::Named(names), rows }),
        }
    }
}

/// Chooses the columns of a table that the model takes, and the forms of requests that it may accept.
fn choose(
    header: &[HeaderColumn],
    ignored: &[String],
    known: &[KnownColumn],
) -> Result<(Vec<ColumnToRead>, Vec<Envelope>)> {
    let there = || names(header);
    if let Some(unknown) = ignored.iter().find(|name| !header.iter().any(|column| column.name == **name)) {
        bail!("there is no column {unknown:?} to ignore; there are: {}", there());
    }
    let is_free = |column: &HeaderColumn| !ignored.contains(&column.name) && !is_index_of_pandas(&column.name);
    let kind_of = |name: &str| known.iter().find(|column| column.name == name).map(|column| column.kind);
    let by_name = header.iter().any(|column| is_free(column) && kind_of(&column.name).is_some());
    let only = match known {
        [only] => Some(only),
        _ => None,
    };
    let is_read = |column: &HeaderColumn| is_free(column) && (!by_name || kind_of(&column.name).is_some());
    let chosen: Vec<(usize, &HeaderColumn)> = header.iter().enumerate().filter(|(_, column)| is_read(column)).collect();
    if chosen.is_empty() || (!by_name && only.is_none()) {
        let wanted: Vec<&str> = known.iter().map(|column| &*column.name).collect();
        bail!("the table has none of the model's columns ({}); it has: {}", wanted.join(", "), there());
    }
    if let Some((_, column)) = chosen.iter().find(|(_, column)| column.unusable.is_some()) {
        let (name, dtype) = (&column.name, column.unusable.as_deref().unwrap_or_default());
        bail!(
            "the column {name:?} has values of type {dtype}, which cannot be a part of an instance; convert it, or leave it out with --ignore-column"
        );
    }
    let column = |(place, column): &(usize, &HeaderColumn)| {
        let kind = kind_of(&column.name).or(only.map(|only| only.kind)).unwrap_or(ColumnKind::Number);
        let cells = match kind {
            ColumnKind::Text => Cells::TextsOrNothing,
            ColumnKind::Boolean => Cells::AsTheyRead,
            ColumnKind::Number => Cells::Numbers,
        };
        ColumnToRead { place: *place, cells }
    };
    let names: Vec<String> = chosen.iter().map(|(_, column)| column.name.clone()).collect();
    let columns = chosen.iter().map(column).collect();
    let envelopes = match (by_name, only) {
        (false, Some(only)) if names.len() == 1 => {
            vec![Envelope::Named(vec![only.name.clone()]), Envelope::Named(names)]
        }
        // The elements of the only input have names that the model's settings know, or none.
        (false, Some(_)) => {
            let places = (0..names.len()).map(|place| place.to_string()).collect();
            vec![Envelope::Named(names), Envelope::Named(places)]
        }
        _ => vec![Envelope::Named(names)],
    };
    Ok((columns, envelopes))
}

/// Finds the form of requests in which the model accepts one of the first rows.
fn in_form(mut rows: RowTexts, envelopes: Vec<Envelope>, predictor: &dyn Predictor) -> Result<Rows> {
    if let [only] = &*envelopes {
        return Ok(Rows { envelope: only.clone(), rows });
    }
    let mut tried: Vec<RowText> = Vec::new();
    let mut problems: Vec<String> = Vec::new();
    while tried.len() < TRIED {
        let Some(row) = rows.next().transpose()? else { break };
        let json = row.json.clone().ok();
        tried.push(row);
        let Some(json) = json else { continue };
        for envelope in &envelopes {
            match predictor.predict(&envelope.body(std::iter::once(&*json)))? {
                Reply::Refused(problem) if !problems.contains(&problem) => problems.push(problem),
                Reply::Refused(_) => {}
                // A form that is read is right, even if there is no prediction in time.
                Reply::Predictions(_) | Reply::Busy(..) | Reply::TooSlow(_) => {
                    let rows = Box::new(tried.into_iter().map(Ok).chain(rows));
                    return Ok(Rows { envelope: envelope.clone(), rows });
                }
            }
        }
    }
    match &*problems {
        [] => Ok(Rows {
            envelope: envelopes.into_iter().next().unwrap_or(Envelope::Instances),
            rows: Box::new(tried.into_iter().map(Ok).chain(rows)),
        }),
        problems => bail!(
            "the model does not take the first rows: {}. Columns that are not features can be left out with \
             --ignore-column",
            problems.join("; ")
        ),
    }
}

/// Reads the predictions of an answer.
pub(super) fn predictions_of(answer: &str) -> serde_json::Result<Vec<Box<RawValue>>> {
    #[derive(serde::Deserialize)]
    struct Answer {
        predictions: Vec<Box<RawValue>>,
    }
    serde_json::from_str(answer).map(|Answer { predictions }| predictions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(names: &[&str]) -> Vec<HeaderColumn> {
        names.iter().map(|name| HeaderColumn { name: (*name).to_owned(), unusable: None }).collect()
    }

    fn known(columns: &[(&str, ColumnKind)]) -> Vec<KnownColumn> {
        columns.iter().map(|(name, kind)| KnownColumn { name: (*name).to_owned(), kind: *kind }).collect()
    }

    fn named(names: &[&str]) -> Envelope {
        Envelope::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn columns_are_found_by_name_or_by_their_place() {
        let choose = |names: &[&str], ignored: &[&str], columns: &[(&str, ColumnKind)]| {
            let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
            choose(&header(names), &ignored, &known(columns)).map_err(|error| error.to_string())
        };
        let table = [("age", ColumnKind::Number), ("city", ColumnKind::Text)];
        let (columns, envelopes) = choose(&["id", "city", "age"], &[], &table).unwrap();
        assert_eq!(envelopes, [named(&["city", "age"])]);
        let read = |place, cells| ColumnToRead { place, cells };
        assert_eq!(columns, [read(1, Cells::TextsOrNothing), read(2, Cells::Numbers)]);

        let pixels = [("pixels", ColumnKind::Number)];
        let (columns, envelopes) = choose(&["p0", "p1", "label"], &["label"], &pixels).unwrap();
        assert_eq!(envelopes, [named(&["p0", "p1"]), named(&["0", "1"])]);
        assert_eq!(columns.len(), 2);
        let (_, envelopes) = choose(&["review"], &[], &[("text", ColumnKind::Text)]).unwrap();
        assert_eq!(envelopes[0], named(&["text"]));

        assert!(
            choose(&["a"], &[], &table).unwrap_err().contains("none of the model's columns (age, city); it has: a")
        );
        assert!(choose(&["age"], &["x"], &table).unwrap_err().contains("no column \"x\" to ignore"));
    }

    #[test]
    fn rows_become_the_body_of_a_request() {
        let rows = ["[1]", "[2]"];
        assert_eq!(Envelope::Instances.body(rows.into_iter()), "{\"instances\":[[1],[2]]}");
        let expected = "{\"dataframe_split\":{\"columns\":[\"a\\\"b\"],\"data\":[[1],[2]]}}";
        assert_eq!(named(&["a\"b"]).body(rows.into_iter()), expected);
    }
}
