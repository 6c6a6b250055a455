//! The labelled rows of the demo.

use csv::Reader;
use serde::{Deserialize, Serialize};

/// Rows that the model was not trained on, with their species. `examples/penguins/make_demo.py` makes them.
const ROWS: &[u8] = include_bytes!("penguins.csv");

/// A row of the table, as the model takes it. A value that is `None` is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Penguin {
    island: String,
    bill_length_mm: Option<f64>,
    bill_depth_mm: Option<f64>,
    flipper_length_mm: Option<f64>,
    body_mass_g: Option<f64>,
    sex: Option<String>,
}

/// A row of the file.
#[derive(Debug, Deserialize)]
struct Labelled {
    species: String,
    island: String,
    bill_length_mm: Option<f64>,
    bill_depth_mm: Option<f64>,
    flipper_length_mm: Option<f64>,
    body_mass_g: Option<f64>,
    sex: Option<String>,
}

impl Penguin {
    /// Returns the same penguin with its lengths in centimetres.
    pub(super) fn in_centimetres(self) -> Penguin {
        let tenth = |length: Option<f64>| length.map(|length| length / 10.0);
        Penguin {
            bill_length_mm: tenth(self.bill_length_mm),
            bill_depth_mm: tenth(self.bill_depth_mm),
            flipper_length_mm: tenth(self.flipper_length_mm),
            ..self
        }
    }
}

/// Returns the rows, each with its species.
pub(super) fn labelled() -> Result<Vec<(Penguin, String)>, csv::Error> {
    let rows = Reader::from_reader(ROWS).into_deserialize().map(|row| {
        let Labelled { species, island, bill_length_mm, bill_depth_mm, flipper_length_mm, body_mass_g, sex } = row?;
        Ok((Penguin { island, bill_length_mm, bill_depth_mm, flipper_length_mm, body_mass_g, sex }, species))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_can_be_read_and_some_values_are_missing() {
        let rows = labelled().unwrap();
        assert_eq!(rows.len(), 100);
        assert!(rows.iter().any(|(penguin, _)| penguin.sex.is_none()));
        let (penguin, species) = &rows[0];
        assert_eq!((penguin.bill_length_mm, species.as_str()), (Some(39.2), "Adelie"));
        let shifted = penguin.clone().in_centimetres();
        assert_eq!((shifted.flipper_length_mm, shifted.body_mass_g), (Some(19.6), penguin.body_mass_g));
    }
}
