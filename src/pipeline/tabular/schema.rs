//! JSON Schema of an instance of `kind = "tabular"`, from the columns and the conversions of their values.

use serde_json::{Map, Value, json};

use super::categories::Category;
use super::columns::Values;
use super::numbers::Number;
use crate::pipeline::json_schema::{input_element, is_float, nullable, object, with};
use crate::tensor::DType;

/// A column, as far as its values in instances depend on it.
pub(crate) struct ColumnSchema<'a> {
    pub(crate) name: &'a str,
    pub(crate) values: &'a Values,
    /// Type of the elements of the column's input.
    pub(crate) dtype: DType,
}

/// Returns the schema of a row. Columns that may be missing may also be null.
pub(crate) fn instance<'a>(
    columns: impl Iterator<Item = ColumnSchema<'a>> + Clone,
    takes_extra_columns: bool,
) -> Value {
    let needed: Vec<&str> =
        columns.clone().filter(|column| column.values.is_needed()).map(|column| column.name).collect();
    let row = object(columns.map(|column| (column.name, column.schema())));
    with(with(row, "required", json!(needed)), "additionalProperties", Value::Bool(takes_extra_columns))
}

impl ColumnSchema<'_> {
    fn schema(&self) -> Value {
        let schema = match self.values {
            Values::Number(number) => self.number(number),
            Values::Category(category) => self.category(category),
            Values::Boolean { .. } => {
                json!({ "anyOf": [{ "type": "boolean" }, { "type": "integer", "minimum": 0, "maximum": 1 }] })
            }
            Values::Text { .. } => input_element(DType::Text),
        };
        if self.values.is_needed() { schema } else { nullable(schema) }
    }

    fn number(&self, number: &Number) -> Value {
        let is_clipped_above_minus_one = number.clip.is_some_and(|[least, _]| least > -1.0);
        match self.dtype {
            DType::Bool if number.leaves_as_is() => json!({ "enum": [0, 1] }),
            dtype if number.leaves_as_is() => input_element(dtype),
            _ if number.log1p && !is_clipped_above_minus_one => json!({ "type": "number", "exclusiveMinimum": -1 }),
            // A conversion other than `clip` may make a whole number of any number.
            dtype if number.log1p || number.standardise.is_some() || is_float(dtype) => json!({ "type": "number" }),
            _ => json!({ "type": "integer" }),
        }
    }

    fn category(&self, category: &Category) -> Value {
        let known = category.vocabulary();
        if category.of_unknown().is_none() {
            return json!({ "enum": known });
        }
        // Unknown categories are accepted if they have the type of a known one.
        let kinds = [("string", category.takes_texts()), ("number", category.takes_numbers())];
        let kinds: Vec<&str> = kinds.into_iter().filter(|(_, is_taken)| *is_taken).map(|(kind, _)| kind).collect();
        let mut schema = Map::new();
        schema.insert("type".to_owned(), if let [only] = *kinds { json!(only) } else { json!(kinds) });
        schema.insert("examples".to_owned(), Value::Array(known));
        Value::Object(schema)
    }
}
