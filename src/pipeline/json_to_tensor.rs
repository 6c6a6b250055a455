//! JSON → tensor: reads `instances` straight into the model's input buffers.
//!
//! No value tree is built: each number goes from its text into the buffer of its element type. What does not
//! fit the signature is an error that names the place, as in
//! `instances[2].pixels[5]: found a string, expected a number`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use half::{bf16, f16};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::tensor::{Data, Dim, Element, Tensor, TensorSpec, Tensors, for_each_element_type, with_element_type};

/// Reads `instances`: one row per instance for every input.
///
/// With one input an instance is its value (a number, an array, or nested arrays, as the shape has it); with
/// several it is an object of such values by input name, which is accepted for one input too.
pub(super) fn read_instances(instances: &RawValue, inputs: &[TensorSpec]) -> Result<Tensors> {
    let mut columns: Vec<Column<'_>> = inputs.iter().map(Column::new).collect();
    let mut place = Place::default();
    let mut json = serde_json::Deserializer::from_str(instances.get());
    let rows = Instances { columns: &mut columns, place: &mut place }
        .deserialize(&mut json)
        .map_err(|error| Error::InvalidInput(place.message(&error, inputs)))?;
    if rows == 0 {
        return Err(Error::InvalidInput("instances: the array is empty; send at least one instance".to_owned()));
    }
    columns.into_iter().map(|column| column.into_tensor(rows)).collect()
}

/// A column of the batch: one input's values for all instances, as they are read.
struct Column<'a> {
    spec: &'a TensorSpec,
    data: Data,
    /// The shape of a row. A dimension the model leaves open is `None` until the first instance fixes it.
    row: Vec<Option<usize>>,
    /// How many elements a row has, where that is known before it is read.
    expected: usize,
}

impl<'a> Column<'a> {
    fn new(spec: &'a TensorSpec) -> Column<'a> {
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => Some(*length),
            Dim::Dynamic(_) => None,
        };
        let row: Vec<Option<usize>> = spec.dims.iter().skip(1).map(length).collect();
        // The model names these lengths, so a row may be large, but never larger than what a body can hold.
        let expected =
            row.iter().flatten().fold(1usize, |product, &length| product.saturating_mul(length)).min(1 << 20);
        Column { spec, data: with_element_type!(spec.dtype, T => T::into_data(Vec::new())), row, expected }
    }

    fn into_tensor(self, rows: usize) -> Result<(Arc<str>, Tensor)> {
        let shape = [rows].into_iter().chain(self.row.into_iter().map(|length| length.unwrap_or(0))).collect();
        Ok((Arc::clone(&self.spec.name), Tensor::new(shape, self.data)?))
    }
}

// ===== where an error happened =====

/// The place of an error, written down on its way out and so from the inside to the outside. Reading without
/// an error never touches it.
#[derive(Default)]
struct Place {
    steps: Vec<Step>,
}

enum Step {
    Index(usize),
    Input(usize),
}

impl Place {
    fn message(&self, error: &serde_json::Error, inputs: &[TensorSpec]) -> String {
        let mut place = "instances".to_owned();
        let mut input = (inputs.len() == 1).then_some(0);
        for step in self.steps.iter().rev() {
            match step {
                Step::Index(index) => place.push_str(&format!("[{index}]")),
                Step::Input(index) => {
                    place.push_str(&format!(".{}", inputs[*index].name));
                    input = Some(*index);
                }
            }
        }
        let text = in_json_words(&error.to_string());
        match input {
            Some(input) => {
                format!("{place}: {text} (the model's input {:?} is {})", inputs[input].name, inputs[input].describe())
            }
            None => format!("{place}: {text}"),
        }
    }
}

/// serde's message in the words of JSON. Its line and column count from the beginning of `instances`: the place
/// says it better.
fn in_json_words(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let Some(found) = message.strip_prefix("invalid type: ") else {
        return message.chars().take(300).collect();
    };
    let found = match found.split_once(", expected ") {
        Some(("sequence", expected)) => format!("an array, expected {expected}"),
        Some(("map", expected)) => format!("an object, expected {expected}"),
        _ => found.to_owned(),
    };
    format!("found {}", found.chars().take(300).collect::<String>())
}

// ===== the array of instances =====

struct Instances<'a, 'm> {
    columns: &'a mut [Column<'m>],
    place: &'a mut Place,
}

impl<'de> DeserializeSeed<'de> for Instances<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Instances<'_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of instances")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut instances: A) -> Result<usize, A::Error> {
        let mut rows = 0;
        loop {
            match instances.next_element_seed(Instance { columns: self.columns, place: self.place }) {
                Ok(Some(())) => rows += 1,
                Ok(None) => return Ok(rows),
                Err(error) => {
                    self.place.steps.push(Step::Index(rows));
                    return Err(error);
                }
            }
        }
    }
}

// ===== one instance =====

struct Instance<'a, 'm> {
    columns: &'a mut [Column<'m>],
    place: &'a mut Place,
}

impl Instance<'_, '_> {
    /// Reads the value of the only input; with several, the instance has to be an object.
    fn only_input<'de, D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        match self.columns {
            [column] => Row { column, place: self.place }.deserialize(value),
            columns => Err(de::Error::custom(format_args!("expected an object with {}", keys(columns)))),
        }
    }
}

fn keys(columns: &[Column<'_>]) -> String {
    let names: Vec<String> = columns.iter().map(|column| format!("{:?}", column.spec.name)).collect();
    format!("the key{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

impl<'de> DeserializeSeed<'de> for Instance<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Instance<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.columns {
            [column] => f.write_str(&describe_level(&column.row, column.spec)),
            columns => write!(f, "an object with {}", keys(columns)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<(), A::Error> {
        self.only_input(de::value::SeqAccessDeserializer::new(values))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.only_input(value.into_deserializer())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.only_input(value.into_deserializer())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.only_input(value.into_deserializer())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.only_input(value.into_deserializer())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.only_input(value.into_deserializer())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut read = vec![false; self.columns.len()];
        while let Some(key) = entries.next_key::<std::borrow::Cow<'de, str>>()? {
            let Some(index) = self.columns.iter().position(|column| *column.spec.name == *key) else {
                let shown: String = key.chars().take(64).collect();
                return Err(de::Error::custom(format_args!("unknown key {shown:?}, expected {}", keys(self.columns))));
            };
            if std::mem::replace(&mut read[index], true) {
                return Err(de::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            if let Err(error) = entries.next_value_seed(Row { column: &mut self.columns[index], place: self.place }) {
                self.place.steps.push(Step::Input(index));
                return Err(error);
            }
        }
        match read.iter().position(|read| !read) {
            Some(missing) => {
                Err(de::Error::custom(format_args!("the key {:?} is missing", self.columns[missing].spec.name)))
            }
            None => Ok(()),
        }
    }
}

// ===== one input's value in one instance =====

struct Row<'a, 'm> {
    column: &'a mut Column<'m>,
    place: &'a mut Place,
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Column { spec, data, row, expected } = self.column;
        for_each_element_type!(data, values => {
            values.reserve(*expected);
            Nested { row, values, spec, place: self.place }.deserialize(deserializer)
        })
    }
}

/// An array of a row's outermost dimension, or a number once there is none left.
struct Nested<'a, T> {
    row: &'a mut [Option<usize>],
    values: &'a mut Vec<T>,
    spec: &'a TensorSpec,
    place: &'a mut Place,
}

impl<'de, T: FromJson> DeserializeSeed<'de> for Nested<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.row.is_empty() {
            self.values.push(T::from_json(deserializer)?);
            Ok(())
        } else {
            deserializer.deserialize_seq(self)
        }
    }
}

impl<'de, T: FromJson> Visitor<'de> for Nested<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe_level(self.row, self.spec))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Some((length, inner)) = self.row.split_first_mut() else {
            return Err(de::Error::custom("an array is nested too deeply"));
        };
        let mut count = 0;
        loop {
            let element =
                Nested { row: &mut *inner, values: &mut *self.values, spec: self.spec, place: &mut *self.place };
            match elements.next_element_seed(element) {
                Ok(Some(())) => count += 1,
                Ok(None) => break,
                Err(error) => {
                    self.place.steps.push(Step::Index(count));
                    return Err(error);
                }
            }
        }
        match *length {
            Some(expected) if expected != count => Err(de::Error::custom(format_args!(
                "found {count} {}, expected {expected}{}",
                if inner.is_empty() { "values" } else { "arrays" },
                if self.spec.dims.contains(&Dim::Fixed(expected)) { "" } else { " as in the first instance" },
            ))),
            _ => {
                *length = Some(count);
                Ok(())
            }
        }
    }
}

/// What is expected at a level of nesting, as in `an array of 64 numbers`.
fn describe_level(row: &[Option<usize>], spec: &TensorSpec) -> String {
    let (one, many) = match spec.dtype {
        crate::tensor::DType::Bool => ("true or false", "booleans"),
        crate::tensor::DType::Text => ("a string", "strings"),
        _ => ("a number", "numbers"),
    };
    match row {
        [] => one.to_owned(),
        [Some(length)] => format!("an array of {length} {many}"),
        [None] => format!("an array of {many}"),
        [Some(length), ..] => format!("an array of {length} arrays"),
        [None, ..] => "an array of arrays".to_owned(),
    }
}

// ===== one number =====

/// An element type that is read from one JSON value.
trait FromJson: Element {
    fn from_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

struct Number<T>(PhantomData<T>);

/// A number of this type from each of the three forms in which JSON numbers arrive; `None` if it does not fit.
trait FromNumber: Sized {
    const NAME: &'static str;
    fn from_unsigned(value: u64) -> Option<Self>;
    fn from_signed(value: i64) -> Option<Self>;
    fn from_float(value: f64) -> Option<Self>;
}

impl<T: FromNumber> Visitor<'_> for Number<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        T::from_unsigned(value).ok_or_else(|| out_of_range::<T, E>(&value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        T::from_signed(value).ok_or_else(|| out_of_range::<T, E>(&value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<T, E> {
        T::from_float(value).ok_or_else(|| out_of_range::<T, E>(&format_args!("{value:e}")))
    }
}

fn out_of_range<T: FromNumber, E: de::Error>(value: &dyn fmt::Display) -> E {
    E::custom(format_args!("{value} is not a value of type {}", T::NAME))
}

macro_rules! floats {
    ($($type:ty: $narrow:expr),* $(,)?) => {$(
        impl FromNumber for $type {
            const NAME: &'static str = <$type as Element>::DTYPE.name();

            fn from_unsigned(value: u64) -> Option<Self> {
                Self::from_float(value as f64)
            }

            fn from_signed(value: i64) -> Option<Self> {
                Self::from_float(value as f64)
            }

            /// A value that becomes infinite by narrowing is refused: 1e39 is no float32.
            fn from_float(value: f64) -> Option<Self> {
                let narrow: fn(f64) -> $type = $narrow;
                Some(narrow(value)).filter(|narrowed| narrowed.is_finite())
            }
        }
    )*};
}

macro_rules! integers {
    ($($type:ty),* $(,)?) => {$(
        impl FromNumber for $type {
            const NAME: &'static str = <$type as Element>::DTYPE.name();

            fn from_unsigned(value: u64) -> Option<Self> {
                value.try_into().ok()
            }

            fn from_signed(value: i64) -> Option<Self> {
                value.try_into().ok()
            }

            /// An integer is written as one: 1.5 has no place here, and 1.0 is a float's spelling.
            fn from_float(_: f64) -> Option<Self> {
                None
            }
        }
    )*};
}

macro_rules! numbers {
    ($($type:ty),* $(,)?) => {$(
        impl FromJson for $type {
            fn from_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_f64(Number(PhantomData))
            }
        }
    )*};
}

floats!(f32: |value| value as f32, f64: |value| value, f16: f16::from_f64, bf16: bf16::from_f64);
integers!(i8, i16, i32, i64, u8, u16, u32, u64);
numbers!(f32, f64, f16, bf16, i8, i16, i32, i64, u8, u16, u32, u64);

impl FromJson for bool {
    fn from_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::Deserialize::deserialize(deserializer)
    }
}

impl FromJson for String {
    fn from_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::Deserialize::deserialize(deserializer)
    }
}
