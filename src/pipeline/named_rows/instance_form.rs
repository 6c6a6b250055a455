//! Form of an instance, for requests that name the values of a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::tensor::{DType, Dim, TensorSpec};

/// Form of an instance of a preprocessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceForm {
    /// An object with the columns as keys.
    Object {
        /// The columns, in the order of the values if a row has no names.
        columns: Vec<FormColumn>,
        /// True if other columns are skipped, not refused.
        ignores_others: bool,
    },
    /// A value that stands alone. It has a name for requests that name all values.
    Value {
        /// The only column.
        column: FormColumn,
        /// The parts of the value that a request may send as columns.
        elements: Elements,
    },
}

/// A column whose values are a part of an instance, or the whole instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormColumn {
    /// Name, type and dimensions of the values of all rows. Files have the type of texts.
    pub spec: TensorSpec,
    /// Form of a value in an instance.
    pub cells: CellKind,
    /// True if every row must have a value.
    pub is_required: bool,
}

/// Form of a value in an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// A number, a text, a boolean or null. A list of one of these is taken as its element.
    Scalar,
    /// A list with one element. An element alone is taken as such a list.
    ListOfOne,
    /// A file: `{"b64": "…"}`. A text alone is taken as the base64 of a file.
    File,
    /// Any other value, which is taken as it is.
    Any,
}

/// The parts of a value that a request may send as columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elements {
    /// None: the value has one column.
    None,
    /// The elements of a list, which have names.
    Named(Vec<Arc<str>>),
    /// The elements of a list without names, and their number if it is fixed. pandas names such columns 0, 1, 2, ….
    Unnamed(Option<usize>),
    /// A second value, which is optional: both together are a list of two.
    Second(Arc<str>),
}

impl InstanceForm {
    /// Returns the columns of an instance.
    pub fn columns(&self) -> &[FormColumn] {
        match self {
            InstanceForm::Object { columns, .. } => columns,
            InstanceForm::Value { column, .. } => std::slice::from_ref(column),
        }
    }

    /// Returns true if a request may send a column with this name.
    pub fn has_column(&self, name: &str) -> bool {
        let is_element = match self {
            InstanceForm::Value { elements: Elements::Named(names), .. } => names.iter().any(|known| **known == *name),
            InstanceForm::Value { elements: Elements::Second(second), .. } => **second == *name,
            _ => false,
        };
        is_element || self.columns().iter().any(|column| column.name() == name)
    }

    /// Returns the form of a file, such as an image.
    pub fn file(name: &str) -> InstanceForm {
        InstanceForm::Value { column: FormColumn::file(name), elements: Elements::None }
    }

    /// Returns the form of instances that are the inputs of a model: the value of the only input, whose elements may
    /// have names, or else an object.
    pub(crate) fn of_inputs(
        inputs: &[TensorSpec],
        sequences: &BTreeMap<Arc<str>, DType>,
        names: Option<&[String]>,
    ) -> InstanceForm {
        let column = |spec: &TensorSpec| FormColumn::of_input(spec, sequences.contains_key(&spec.name));
        let [only] = inputs else {
            return InstanceForm::Object { columns: inputs.iter().map(column).collect(), ignores_others: false };
        };
        let elements = match (names, &*only.dims) {
            (Some(names), _) => Elements::Named(names.iter().map(|name| name.as_str().into()).collect()),
            (None, [_, Dim::Fixed(length)]) if column(only).cells == CellKind::Any => Elements::Unnamed(Some(*length)),
            (None, [_, Dim::Dynamic(_)]) if column(only).cells == CellKind::Any => Elements::Unnamed(None),
            _ => Elements::None,
        };
        InstanceForm::Value { column: column(only), elements }
    }
}

impl FormColumn {
    /// Creates a column of single values.
    pub(crate) fn scalar(name: &str, dtype: DType, is_required: bool) -> FormColumn {
        let spec = TensorSpec { name: name.into(), dtype, dims: vec![Dim::Dynamic(None)] };
        FormColumn { spec, cells: CellKind::Scalar, is_required }
    }

    /// Creates a column of files.
    pub(crate) fn file(name: &str) -> FormColumn {
        FormColumn { cells: CellKind::File, ..FormColumn::scalar(name, DType::Text, true) }
    }

    /// Creates a column of the values of a model's input.
    pub(crate) fn of_input(spec: &TensorSpec, is_sequence: bool) -> FormColumn {
        let cells = match &*spec.dims {
            _ if is_sequence => CellKind::Any,
            [_] => CellKind::Scalar,
            [_, Dim::Fixed(1)] => CellKind::ListOfOne,
            _ => CellKind::Any,
        };
        FormColumn { spec: spec.clone(), cells, is_required: true }
    }

    /// Returns the name of the column.
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}
