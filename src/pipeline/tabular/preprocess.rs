//! `kind = "tabular"`: an instance is an object by column name, like a row of a table.
//!
//! Each column becomes a part of one of the model's inputs. All columns may share one `[rows, columns]` tensor, each
//! may have its own input (as in a scikit-learn pipeline that is exported as a whole), or some may share an input.
//! Drift is monitored on the values as they were sent.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::reader::{Fits, Reader, misfit, quoted, shortened};
use crate::pipeline::json::whole_numbers::whole_number;
use crate::pipeline::tabular::categories::{Category, Place};
use crate::pipeline::tabular::columns::{ColumnSettings, Values};
use crate::pipeline::tabular::numbers::{Number, Quantity, put};
use crate::pipeline::tabular::schema::{ColumnSchema, instance};
use crate::pipeline::{
    FormColumn, InstanceForm, Origin, Prepared, Preprocessor, StageContext, Table, TableColumn, TableRows, some_of,
};
use crate::tensor::{
    DType, Data, Dim, Element, Signature, Tensor, TensorSpec, for_each_element_type, with_element_type,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Settings of the columns, in their order in a shared input; by default, one column per input of the model.
    columns: Option<Vec<ColumnSettings>>,
    /// Treatment of keys of an instance that are not columns.
    #[serde(default)]
    extra_columns: ExtraColumns,
}

/// Treatment of keys of an instance that are not columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExtraColumns {
    /// Refuses keys that are not columns, so that a typo does not become a missing value.
    #[default]
    Error,
    /// Skips keys that are not columns.
    Ignore,
}

/// Maximum work per byte of a body that is read on a thread that serves connections. Such a thread should only read
/// bodies that take at most half a millisecond. Above this maximum, the length of a body is a poor estimate of the
/// time.
const MAX_WORK_PER_BYTE: usize = 8;

struct TabularPreprocessor {
    columns: Vec<Column>,
    by_name: HashMap<Arc<str>, usize>,
    extra_columns: ExtraColumns,
    inputs: Vec<Input>,
    schema: FeatureSchema,
    most_rows: NonZeroUsize,
}

struct Column {
    name: Arc<str>,
    values: Values,
    /// Position of the input that the column is part of, and the column's position in a row of the input.
    input: usize,
    at: usize,
    /// Position of the column among the features of its kind.
    feature: usize,
}

struct Input {
    spec: TensorSpec,
    /// True if the input takes whole numbers only.
    is_whole: bool,
    /// Number of elements of a row of the input.
    width: usize,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let Settings { columns, extra_columns } = context.config.settings()?;
    let signature = context.signature;
    let settings =
        columns.unwrap_or_else(|| signature.inputs.iter().map(|input| ColumnSettings::named(&input.name)).collect());
    let mut stage = TabularPreprocessor {
        columns: Vec::new(),
        by_name: HashMap::new(),
        extra_columns,
        inputs: signature.inputs.iter().map(Input::new).collect(),
        schema: FeatureSchema::default(),
        most_rows: context.max_instances,
    };
    for column in settings {
        stage.add(column, signature)?;
    }
    for input in &stage.inputs {
        input.check()?;
    }
    stage.most_rows = context.most_rows(stage.inputs.iter().map(|input| input.width).sum());
    Ok(Box::new(stage))
}

impl TabularPreprocessor {
    fn add(&mut self, settings: ColumnSettings, signature: &Signature) -> Result<(), SetupError> {
        let name: Arc<str> = settings.name.as_str().into();
        let wrong = |problem: String| Err(SetupError::Config(format!("column {name:?}: {problem}")));
        let named = |name: &str| signature.inputs.iter().position(|input| *input.name == *name);
        let input = match &settings.input {
            Some(input) => named(input),
            None => named(&name).or((signature.inputs.len() == 1).then_some(0)),
        };
        let Some(input) = input else {
            let names: Vec<&str> = signature.inputs.iter().map(|input| &*input.name).collect();
            let names = names.join(", ");
            return wrong(format!("input: say which of the model's inputs it is part of; one of: {names}"));
        };
        let dtype = self.inputs[input].spec.dtype;
        let values = settings.values(dtype)?;
        if let Values::Number(Number { missing: Some(missing), .. }) = &values
            && !is_taken(&values, *missing, dtype)
        {
            return wrong(format!(
                "missing: {missing} is not a value of type {dtype}, or is not one after its conversion"
            ));
        }
        if self.by_name.insert(Arc::clone(&name), self.columns.len()).is_some() {
            return wrong("it occurs twice".to_owned());
        }
        let known = if values.are_categories() { &mut self.schema.texts } else { &mut self.schema.numbers };
        let feature = known.len();
        known.push(Arc::clone(&name));
        let at = self.inputs[input].width;
        self.inputs[input].width += values.width();
        self.columns.push(Column { name, values, input, at, feature });
        Ok(())
    }

    /// Returns the maximum work for a row per byte of its text. If most values may be missing, or a category takes many
    /// elements, a few bytes become many elements.
    fn most_work_per_byte(&self) -> usize {
        // Work is counted in bytes of text. A value takes as long as about two bytes, and an element with a default as
        // about a tenth of a byte.
        let work = self.columns.iter().map(|column| 20 + column.values.width()).sum::<usize>() / 10;
        // The shortest row: `{}`, and `"name":0,` for each required column.
        let needed = self.columns.iter().filter(|column| column.values.is_needed());
        let bytes = 2 + needed.map(|column| column.name.len() + 5).sum::<usize>();
        work / bytes
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| &*column.name).collect();
        names.join(", ")
    }
}

/// Returns true if an input of this type can hold the number after its conversion.
fn is_taken(values: &Values, number: Quantity, dtype: DType) -> bool {
    let Values::Number(column) = values else { return false };
    let mut one = with_element_type!(dtype, T => T::into_data(vec![Default::default()]));
    column.transformed(number).is_some_and(|number| put(&mut one, 0, number))
}

impl Input {
    fn new(spec: &TensorSpec) -> Input {
        let is_whole =
            !matches!(spec.dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64 | DType::Bool | DType::Text);
        Input { spec: spec.clone(), is_whole, width: 0 }
    }

    /// Checks that the columns of the input fill its rows exactly.
    fn check(&self) -> Result<(), SetupError> {
        let Input { spec, width, .. } = self;
        let row = spec.dims.get(1..).unwrap_or_default();
        let fixed = |dim: &Dim| if let Dim::Fixed(length) = dim { Some(*length) } else { None };
        let declared = row.iter().map(fixed).try_fold(1, |product: usize, length| product.checked_mul(length?));
        let fits = match declared {
            Some(declared) => declared == *width,
            None => row.len() == 1 && *width > 0,
        };
        if fits {
            return Ok(());
        }
        Err(SetupError::Config(format!(
            "columns: those of the model's input {:?}, which is {}, have {width} elements a row",
            spec.name,
            spec.describe()
        )))
    }

    fn tensor(&self, rows: usize, data: Data) -> Result<(Arc<str>, Tensor)> {
        let dims = self.spec.dims.iter().skip(1);
        let row = dims.map(|dim| if let Dim::Fixed(length) = dim { *length } else { self.width });
        Ok((Arc::clone(&self.spec.name), Tensor::new([rows].into_iter().chain(row).collect(), data)?))
    }
}

impl Preprocessor for TabularPreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let data = self.inputs.iter().map(|input| with_element_type!(input.spec.dtype, T => T::into_data(Vec::new())));
        let mut table = RowsRead { data: data.collect(), features: Features::default(), row: 0 };
        let mut is_read = vec![false; self.columns.len()];
        let read = |json: &mut Reader<'_>| self.row(json, &mut table, &mut is_read);
        let rows = Reader::instances(instances.get(), (self.most_rows, deadline), read, Error::from)?;
        let mut features = Features::with_rows(rows);
        (features.numbers, features.texts) = (table.features.numbers, table.features.texts);
        let tensors = self.inputs.iter().zip(table.data).map(|(input, data)| input.tensor(rows, data));
        let inputs = tensors.collect::<Result<Vec<_>>>()?.into_iter().collect();
        Ok(Prepared { inputs, features, origin: Origin::Unknown })
    }

    /// Returns true if the size of a body is a poor estimate of the time for reading it.
    fn is_heavy(&self) -> bool {
        self.most_work_per_byte() > MAX_WORK_PER_BYTE
    }

    fn features(&self) -> FeatureSchema {
        self.schema.clone()
    }

    fn table(&self) -> Option<Table> {
        let column =
            |column: &Column| TableColumn { name: column.name.to_string(), is_text: column.values.are_texts() };
        Some(Table { columns: self.columns.iter().map(column).collect(), rows: TableRows::Objects })
    }

    fn instance_form(&self) -> Option<InstanceForm> {
        let column = |column: &Column| {
            let dtype = column.values.dtype_sent(self.inputs[column.input].spec.dtype);
            FormColumn::scalar(&column.name, dtype, column.values.is_needed())
        };
        Some(InstanceForm::Object {
            columns: self.columns.iter().map(column).collect(),
            ignores_others: self.extra_columns == ExtraColumns::Ignore,
        })
    }

    fn instance_schema(&self) -> Value {
        let columns = self.columns.iter().map(|column| ColumnSchema {
            name: &column.name,
            values: &column.values,
            dtype: self.inputs[column.input].spec.dtype,
        });
        instance(columns, self.extra_columns == ExtraColumns::Ignore)
    }

    fn samples(&self) -> Option<[String; 3]> {
        let instance = |row: usize| {
            let cells = self.columns.iter().zip(0..).map(|(column, place)| {
                let dtype = self.inputs[column.input].spec.dtype;
                (column.name.to_string(), column.values.sample(row, place, dtype))
            });
            Value::Object(cells.collect()).to_string()
        };
        Some([0, 1, 2].map(instance))
    }

    fn assumptions(&self) -> Vec<String> {
        let several = self.inputs.iter().enumerate().filter_map(|(index, input)| {
            let columns = self.columns.iter().filter(|column| column.input == index);
            let names: Vec<&str> = columns.map(|column| &*column.name).collect();
            (names.len() > 1).then(|| {
                let (input, names) = (&input.spec.name, some_of(&names));
                format!("the columns are in the input {input:?} in the order of model.toml, which must be the order of training: {names}")
            })
        });
        several.collect()
    }
}

/// Rows of a request that were read so far.
struct RowsRead {
    /// Values of each input of the model.
    data: Vec<Data>,
    features: Features,
    /// Index of the row that is being read.
    row: usize,
}

impl TabularPreprocessor {
    fn row(&self, json: &mut Reader<'_>, table: &mut RowsRead, is_read: &mut [bool]) -> Fits<()> {
        if json.peek() != b'{' {
            return Err(json.found_instead_of("an object with the columns as keys"));
        }
        for (data, input) in table.data.iter_mut().zip(&self.inputs) {
            for_each_element_type!(data, values => values.resize(values.len() + input.width, Default::default()));
        }
        let (numbers, texts) = (&mut table.features.numbers, &mut table.features.texts);
        numbers.resize(numbers.len() + self.schema.numbers.len(), f32::NAN);
        texts.resize(texts.len() + self.schema.texts.len(), None);
        is_read.fill(false);
        // Most rows have the same order of keys, usually that of the columns.
        let mut next = 0;
        json.object(|json, key| {
            let place = match self.columns.get(next) {
                Some(column) if *column.name == *key => Some(next),
                _ => self.by_name.get(&*key).copied(),
            };
            let Some(place) = place else {
                if self.extra_columns == ExtraColumns::Ignore {
                    json.skip();
                    return Ok(());
                }
                return Err(misfit(format!("unknown column {}; the columns are: {}", quoted(&key), self.names())));
            };
            next = place + 1;
            if std::mem::replace(&mut is_read[place], true) {
                return Err(misfit(format!("the column {key:?} occurs twice")));
            }
            let column = &self.columns[place];
            self.cell(json, column, table).map_err(|misfit| misfit.at_key(&key))
        })?;
        for (column, _) in self.columns.iter().zip(is_read).filter(|(_, is_read)| !**is_read) {
            self.missing(column, table).map_err(|misfit| misfit.at_key(&column.name))?;
        }
        table.row += 1;
        Ok(())
    }

    /// Reads the value of a column, which may be null.
    fn cell(&self, json: &mut Reader<'_>, column: &Column, table: &mut RowsRead) -> Fits<()> {
        let next = json.peek();
        if next == b'n' {
            json.word();
            return self.missing(column, table);
        }
        match &column.values {
            Values::Number(number) => {
                let (value, sent) = json.quantity(self.inputs[column.input].is_whole)?;
                table.features.numbers[self.number_at(column, table.row)] = value.as_f64() as f32;
                self.put_number(column, number, (value, sent), table)
            }
            Values::Category(category) => {
                let (place, text) = found(json, next, category)?;
                table.features.texts[self.text_at(column, table.row)] = Some(text);
                self.put_category(column, category, place, table)
            }
            Values::Boolean { .. } => {
                let value = boolean(json, next)?;
                table.features.texts[self.text_at(column, table.row)] = Some(value.to_string());
                self.put(column, 0, Quantity::Integer(value.into()), table)
            }
            Values::Text { .. } => {
                let value: String = json.element()?;
                table.features.texts[self.text_at(column, table.row)] = Some(value.clone());
                self.put_text(column, value, table)
            }
        }
    }

    /// Writes the replacement for a value of the column that is null or missing.
    fn missing(&self, column: &Column, table: &mut RowsRead) -> Fits<()> {
        let needed = || misfit("the value is missing, and the model needs it".to_owned());
        match &column.values {
            Values::Number(number) => {
                let value = number.missing.ok_or_else(needed)?;
                self.put_number(column, number, (value, "null"), table)
            }
            Values::Category(category) => {
                let place = category.of_missing().ok_or_else(needed)?;
                self.put_category(column, category, place, table)
            }
            Values::Boolean { missing } => {
                let value = missing.ok_or_else(needed)?;
                self.put(column, 0, value, table)
            }
            Values::Text { missing } => {
                let value = missing.clone().ok_or_else(needed)?;
                self.put_text(column, value, table)
            }
        }
    }

    /// Writes a number to its input; `sent` is its text.
    fn put_number(&self, column: &Column, number: &Number, value: (Quantity, &str), table: &mut RowsRead) -> Fits<()> {
        let (value, sent) = value;
        let Some(put) = number.transformed(value) else {
            return Err(misfit(format!("found {}, which has no log1p; expected a number above -1", shortened(sent))));
        };
        self.put(column, 0, put, table).map_err(|mut misfit| {
            let (sent, dtype) = (shortened(sent), self.inputs[column.input].spec.dtype);
            misfit.problem = match number.leaves_as_is() {
                true => format!("{sent} is not a value of type {dtype}"),
                false => format!("found {sent}, which becomes {put}, and that is not a value of type {dtype}"),
            };
            misfit
        })
    }

    fn put_category(&self, column: &Column, category: &Category, place: Place, table: &mut RowsRead) -> Fits<()> {
        match place {
            Place::At(place) if category.is_one_hot() => self.put(column, place, Quantity::Integer(1), table),
            Place::At(place) => self.put(column, 0, Quantity::Integer(place as i128), table),
            Place::Nowhere => Ok(()),
        }
    }

    fn put(&self, column: &Column, place: usize, value: Quantity, table: &mut RowsRead) -> Fits<()> {
        let input = &self.inputs[column.input];
        if put(&mut table.data[column.input], table.row * input.width + column.at + place, value) {
            return Ok(());
        }
        Err(misfit(format!("{value} is not a value of type {}", input.spec.dtype)))
    }

    fn put_text(&self, column: &Column, value: String, table: &mut RowsRead) -> Fits<()> {
        if let Data::Text(values) = &mut table.data[column.input] {
            values[table.row * self.inputs[column.input].width + column.at] = value;
        }
        Ok(())
    }

    fn number_at(&self, column: &Column, row: usize) -> usize {
        row * self.schema.numbers.len() + column.feature
    }

    fn text_at(&self, column: &Column, row: usize) -> usize {
        row * self.schema.texts.len() + column.feature
    }
}

/// Reads a boolean, which is often stored as 1 or 0.
fn boolean(json: &mut Reader<'_>, next: u8) -> Fits<bool> {
    match next {
        b't' | b'f' => json.element(),
        b'-' | b'0'..=b'9' => {
            let word = json.word();
            match whole_number(word) {
                Some(0) => Ok(false),
                Some(1) => Ok(true),
                _ => Err(misfit(format!("found the number {}, expected true, false, 1 or 0", shortened(word)))),
            }
        }
        _ => Err(json.found_instead_of("true, false, 1 or 0")),
    }
}

/// Reads a category. Returns its position in the vocabulary, and the category as it was sent.
fn found(json: &mut Reader<'_>, next: u8, category: &Category) -> Fits<(Place, String)> {
    let refused =
        |shown: String| misfit(format!("found {shown}, expected one of the categories {}", category.some_of_it()));
    match next {
        b'"' if category.takes_texts() => {
            let text = json.string()?;
            let place = category.of_text(&text).ok_or_else(|| refused(quoted(&text)))?;
            Ok((place, text.into_owned()))
        }
        b'-' | b'0'..=b'9' if category.takes_numbers() => {
            let word = json.word();
            // pandas writes a whole number as 3.0 in a column with gaps.
            let number = whole_number(word).and_then(|number| i64::try_from(number).ok());
            let place = number.map_or_else(|| category.of_unknown(), |number| category.of_number(number));
            let place = place.ok_or_else(|| refused(shortened(word).to_owned()))?;
            Ok((place, shortened(word).to_owned()))
        }
        // `unknown` applies to values outside the vocabulary, not to values of another type.
        _ => Err(json.found_instead_of(category.expected())),
    }
}

impl<'a> Reader<'a> {
    /// Reads a number and its text. The number is exact if `is_whole` is set.
    fn quantity(&mut self, is_whole: bool) -> Fits<(Quantity, &'a str)> {
        if !is_whole {
            let (value, sent) = self.written(Reader::element)?;
            return Ok((Quantity::Float(value), sent));
        }
        if !matches!(self.peek(), b'-' | b'0'..=b'9') {
            return Err(self.found_instead_of("a number"));
        }
        let sent = self.word();
        let float = || sent.parse().ok().filter(|value: &f64| value.is_finite()).map(Quantity::Float);
        let value = sent.parse().ok().or_else(|| whole_number(sent)).map(Quantity::Integer).or_else(float);
        let value = value.ok_or_else(|| misfit(format!("{} is not a value of type float64", shortened(sent))))?;
        Ok((value, sent))
    }
}

#[cfg(test)]
mod tests;
