//! Tests of all forms of rows.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pipeline::{Elements, FormColumn};
use crate::tensor::{DType, Data, Dim, Tensor, TensorSpec};

fn table() -> InstanceForm {
    let columns = vec![
        FormColumn::scalar("age", DType::F32, true),
        FormColumn::scalar("city", DType::Text, false),
        FormColumn::scalar("member", DType::Bool, true),
    ];
    InstanceForm::Object { columns, ignores_others: false }
}

fn input(name: &str, row: &[Option<usize>]) -> TensorSpec {
    let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
    TensorSpec { name: name.into(), dtype: DType::F32, dims: [Dim::Dynamic(None)].into_iter().chain(row).collect() }
}

fn tensor(inputs: &[TensorSpec], names: Option<&[&str]>) -> InstanceForm {
    let names: Option<Vec<String>> = names.map(|names| names.iter().map(ToString::to_string).collect());
    InstanceForm::of_inputs(inputs, &BTreeMap::new(), names.as_deref())
}

fn text() -> InstanceForm {
    let column = FormColumn::scalar("text", DType::Text, true);
    InstanceForm::Value { column, elements: Elements::Second("text_pair".into()) }
}

/// Compares the instances of at most four rows, or the message of the error.
#[track_caller]
fn check(rows: &NamedRows<'_>, form: &InstanceForm, expected: Result<&str, &str>) {
    let memory = MemoryBudget::new(1 << 16, NonZeroUsize::MIN);
    let found = instances_of(rows, Some(form), NonZeroUsize::new(4).unwrap(), &memory);
    let found = found.map(|instances| instances.json().get().to_owned()).map_err(|error| error.to_string());
    assert_eq!(found.as_deref().map_err(|error| &**error), expected);
    assert_eq!(memory.held(), 0);
}

#[track_caller]
fn check_columns(columns: &str, form: &InstanceForm, expected: Result<&str, &str>) {
    let crate::pipeline::Members(members) = serde_json::from_str(columns).unwrap();
    let column = |(name, values)| NamedColumn { name, cells: Cells::Json(values) };
    check(&NamedRows::Columns(members.into_iter().map(column).collect()), form, expected);
}

#[track_caller]
fn check_rows_of(columns: &[&'static str], rows: &str, form: &InstanceForm, expected: Result<&str, &str>) {
    let columns = columns.iter().map(|name| Cow::Borrowed(*name)).collect();
    check(&NamedRows::Rows { columns, rows: serde_json::from_str(rows).unwrap() }, form, expected);
}

#[track_caller]
fn check_csv(text: &str, header: CsvHeader, form: &InstanceForm, expected: Result<&str, &str>) {
    check(&NamedRows::Csv { text, header }, form, expected);
}

#[test]
fn columns_become_objects_of_a_table() {
    let expected = Ok(r#"[{"age":30,"city":"Den Haag","member":true},{"age":4.0,"city":null,"member":false}]"#);
    check_columns(r#"{"member": [true, false], "age": [30, 4.0], "city": ["Den Haag", null]}"#, &table(), expected);
    // TensorFlow's models take columns as tensors with rows of one element.
    check_columns(
        r#"{"member": [[true], [false]], "age": [[30], [ 4.0 ]], "city": ["Den Haag", [null]]}"#,
        &table(),
        expected,
    );
    check_columns(r#"{"age": [1], "member": [true]}"#, &table(), Ok(r#"[{"age":1,"member":true}]"#));
    let known = "the columns are: age, city, member";
    for (columns, problem) in [
        (r#"{"age": [1], "member": [true], "beak": [2]}"#, "unknown column \"beak\""),
        (r#"{"age": [1]}"#, "the column \"member\" is missing"),
        (r#"{"age": [1], "member": [true], "age": [1]}"#, "the column \"age\" occurs twice"),
        ("{}", "the column \"age\" is missing"),
    ] {
        check_columns(columns, &table(), Err(&format!("{problem}; {known}")));
    }
    for (columns, problem) in [
        (
            r#"{"age": [1, 2], "member": [true]}"#,
            "the column \"member\" has 1 values, but \"age\" has 2; all columns have one value for each row",
        ),
        (r#"{"age": [], "member": []}"#, "there are no rows; send at least one"),
        (r#"{"age": 1, "member": [true]}"#, "the column \"age\": expected an array with a value for each row"),
        (
            r#"{"age": [1, 2, 3, 4, 5], "member": [1, 2, 3, 4, 5]}"#,
            "there are more than 4 rows, which is the limit for one request to this model; send them in several",
        ),
    ] {
        check_columns(columns, &table(), Err(problem));
    }
    let InstanceForm::Object { columns, .. } = table() else { panic!() };
    let lenient = InstanceForm::Object { columns, ignores_others: true };
    check_columns(r#"{"beak": [2], "member": [true], "age": [1]}"#, &lenient, Ok(r#"[{"age":1,"member":true}]"#));
}

#[test]
fn columns_become_values_of_a_tensor() {
    let matrix = tensor(&[input("x", &[Some(2)])], None);
    check_columns(r#"{"x": [[1, 2], [3, 4]]}"#, &matrix, Ok("[[1, 2], [3, 4]]"));
    check_columns(r#"{"0": [1, 3], "1": [2, 4]}"#, &matrix, Ok("[[1,2],[3,4]]"));
    let known = "the only column is \"x\" with lists of 2 elements, whose elements have no names (columns in \
                 [preprocess] of model.toml)";
    check_columns(
        r#"{"1": [1, 3], "0": [2, 4]}"#,
        &matrix,
        Err(&format!("the columns do not have the names 0, 1, 2, …; {known}")),
    );
    check_columns(r#"{"a": [1], "b": [2], "c": [3]}"#, &matrix, Err(&format!("found 3 columns, expected 2; {known}")));
    check_columns(r#"{"y": [[1, 2]]}"#, &matrix, Err(&format!("unknown column \"y\"; {known}")));
    let named = tensor(&[input("x", &[Some(2)])], Some(&["a", "b"]));
    check_columns(r#"{"b": [2, 4], "a": [1, 3]}"#, &named, Ok("[[1,2],[3,4]]"));
    check_columns(r#"{"x": [[1, 2]]}"#, &named, Ok("[[1, 2]]"));
    check_columns(
        r#"{"a": [2]}"#,
        &named,
        Err("the column \"b\" is missing; the columns are: a, b; or \"x\" with lists"),
    );
    let several = tensor(&[input("x", &[Some(1)]), input("y", &[]), input("z", &[Some(2), Some(1)])], None);
    check_columns(r#"{"z": [[[1],[2]]], "x": [1], "y": [[2]]}"#, &several, Ok(r#"[{"x":[1],"y":2,"z":[[1],[2]]}]"#));
    check(&NamedRows::Values(serde_json::from_str("[[1, 2]]").unwrap()), &matrix, Ok("[[1, 2]]"));
    check(
        &NamedRows::Values(serde_json::from_str("[1]").unwrap()),
        &several,
        Err("the values have no names; send an object of columns; the columns are: x, y, z"),
    );
}

#[test]
fn columns_become_texts_and_files() {
    check_columns(r#"{"text": ["a", ["b"]]}"#, &text(), Ok(r#"["a","b"]"#));
    check_columns(r#"{"text_pair": ["b"], "text": ["a"]}"#, &text(), Ok(r#"[["a","b"]]"#));
    let known = "the columns are: text, and optionally text_pair";
    check_columns(r#"{"text_pair": ["b"]}"#, &text(), Err(&format!("the column \"text\" is missing; {known}")));
    check_columns(r#"{"texts": ["b"]}"#, &text(), Err(&format!("unknown column \"texts\"; {known}")));
    let image = InstanceForm::file("image");
    check_columns(r#"{"image": ["R0lG", {"b64": "UE5H"}, 5]}"#, &image, Ok(r#"[{"b64":"R0lG"},{"b64": "UE5H"},5]"#));
}

#[test]
fn tensors_become_columns() {
    let numbers = Tensor::new(vec![2, 1], Data::F32(vec![0.1, f32::NAN])).unwrap();
    let flags = Tensor::new(vec![2], Data::Bool(vec![true, false])).unwrap();
    let columns = vec![
        NamedColumn { name: "age".into(), cells: Cells::Tensor(&numbers) },
        NamedColumn { name: "member".into(), cells: Cells::Tensor(&flags) },
    ];
    let expected = r#"[{"age":0.1,"member":true},{"age":null,"member":false}]"#;
    check(&NamedRows::Columns(columns), &table(), Ok(expected));
}

#[test]
fn rows_have_the_names_of_their_columns() {
    check_rows_of(
        &["city", "age", "member"],
        r#"[["Den Haag", 30, true], [null, 4, false]]"#,
        &table(),
        Ok(r#"[{"age":30,"city":"Den Haag","member":true},{"age":4,"city":null,"member":false}]"#),
    );
    let names = ["city", "age", "member"];
    let check_error = |rows: &str, problem: &str| check_rows_of(&names, rows, &table(), Err(problem));
    check_error(r#"[["a", 1, true], ["a", 1]]"#, "the rows: row 1 has 2 values, expected one for each column: 3");
    check_error(r#"[["a", 1, true, 1, 1]]"#, "the rows: row 0 has 4 or more values, expected one for each column: 3");
    check_error("[1]", "the rows: row 0 is not an array of values");
    check_error("{}", "the rows: expected an array of arrays");
    check_error("[]", "there are no rows; send at least one");
    let matrix = tensor(&[input("x", &[Some(2)])], None);
    check_rows_of(&["0", "1"], "[[1, 2], [3, 4]]", &matrix, Ok("[[1,2],[3,4]]"));
}

#[test]
fn csv_has_a_header_or_the_order_of_the_columns() {
    use CsvHeader::{Absent, Present, Recognised};
    let expected = Ok(r#"[{"age":30,"city":"12","member":true},{"age":-4e1,"city":null,"member":false}]"#);
    check_csv("30,12,true\r\n-4e1,,False", Recognised, &table(), expected);
    check_csv("\u{feff}age,city,member\n30,12,true\n\n-4e1,,False\n", Recognised, &table(), expected);
    check_csv("member,age,city\nTRUE,30,\"12\"\nfalse, -4e1,\n", Recognised, &table(), expected);
    check_csv("member,age\ntrue,1", Present, &table(), Ok(r#"[{"age":1,"member":true}]"#));
    check_csv(
        "1,\"say \"\"hi\"\",\nor not\\\",true",
        Absent,
        &table(),
        Ok(r#"[{"age":1,"city":"say \"hi\",\nor not\\","member":true}]"#),
    );
    // What is no number of JSON is a text, which the preprocessor refuses.
    check_csv(
        "+1,a,1\n0x1,a,nan",
        Recognised,
        &table(),
        Ok(r#"[{"age":"+1","city":"a","member":1},{"age":"0x1","city":"a","member":"nan"}]"#),
    );
    // A number of JSON, and more than a float can hold.
    check_csv("8e531,a,1", Recognised, &table(), Ok(r#"[{"age":8e531,"city":"a","member":1}]"#));
    let known = "the columns are: age, city, member";
    check_csv(
        "age,city\n1,2",
        Recognised,
        &table(),
        Err(&format!("the CSV: line 1 has 2 fields, which are not those of a row; {known}")),
    );
    check_csv(
        "age,city,member\n1,2,true\n1,2",
        Recognised,
        &table(),
        Err("the CSV: line 3 has 2 fields, but line 1 has 3"),
    );
    // Empty lines and those of a text in quotes count.
    for (text, line) in [
        ("age,city,member\n\n1,\"a\nb\",true\n\n1,2", 6),
        ("age,city,member\r\n\r\n\r\n1,2\r\n1,a,true", 4),
        ("age,city,member\n1,2\n", 2),
    ] {
        let expected = format!("the CSV: line {line} has 2 fields, but line 1 has 3");
        check_csv(text, Recognised, &table(), Err(&expected));
    }
    check_csv("1,2,3,4", Recognised, &table(), Err(&format!("the CSV: a line has more than 3 fields; {known}")));
    check_csv("beak,age,member\n1,2,3", Present, &table(), Err(&format!("unknown column \"beak\"; {known}")));
    check_csv("age,city,member\n", Recognised, &table(), Err("there are no rows; send at least one"));
    check_csv("\n\n", Recognised, &table(), Err("the CSV: it has no lines; send at least one row"));
    check_csv("1,\"a,true", Recognised, &table(), Err("the CSV: a quote is not closed"));
    let many = "1,2,true\n".repeat(9);
    let problem = "there are more than 4 rows, which is the limit for one request to this model; send them in several";
    check_csv(&many, Recognised, &table(), Err(problem));
    let matrix = tensor(&[input("x", &[Some(2)])], None);
    check_csv("1,2\n3,\n", Recognised, &matrix, Ok("[[1,2],[3,null]]"));
    check_csv("a,b\n1,2\n", Recognised, &tensor(&[input("x", &[Some(2)])], Some(&["b", "a"])), Ok("[[2,1]]"));
    check_csv("text\na\n1", Recognised, &text(), Ok(r#"["a","1"]"#));
    check_csv("a,b", Recognised, &text(), Ok(r#"[["a","b"]]"#));
    check_csv("R0lG\n", Recognised, &InstanceForm::file("image"), Ok(r#"[{"b64":"R0lG"}]"#));
}

#[test]
fn each_json_text_is_an_instance() {
    let check = |text: &str, between, expected| check(&NamedRows::JsonTexts { text, between }, &table(), expected);
    check("{\"a\": 1}\n\n [2, 3]\r\n\"x\"", JsonSeparator::LineFeed, Ok("[{\"a\": 1},[2, 3],\"x\"]"));
    check("\u{1e}{\"a\":\n1}\n\u{1e}2\n", JsonSeparator::RecordSeparator, Ok("[{\"a\":\n1},2]"));
    check(
        "1\n2, 3",
        JsonSeparator::LineFeed,
        Err("line 2 is not the JSON of an instance: trailing characters at line 1 column 2"),
    );
    check(
        "\u{1e}1\u{1e}{",
        JsonSeparator::RecordSeparator,
        Err("text 2 is not the JSON of an instance: EOF while parsing an object at line 1 column 1"),
    );
    check("\n\n", JsonSeparator::LineFeed, Err("there are no rows; send at least one"));
    let problem = "there are more than 4 rows, which is the limit for one request to this model; send them in several";
    check("1\n2\n3\n4\n5\n{", JsonSeparator::LineFeed, Err(problem));
}

#[test]
fn instances_are_charged_before_they_are_made() {
    let memory = MemoryBudget::new(2_000, NonZeroUsize::MIN);
    let text = "1,2,true\n".repeat(100);
    let rows = NamedRows::Csv { text: &text, header: CsvHeader::Recognised };
    let most = NonZeroUsize::new(1_000).unwrap();
    let refused = instances_of(&rows, Some(&table()), most, &memory);
    assert!(matches!(refused, Err(Error::BodyMemoryFull { .. })), "{refused:?}");
    assert_eq!(memory.held(), 0);
    assert!(instances_of(&rows, None, most, &memory).is_err_and(|error| error.to_string().contains("have no columns")));
}

/// Every field and every line is read, whatever the size of the reader's buffers.
#[test]
fn csv_of_any_size_is_read_to_its_end() {
    let memory = MemoryBudget::new(1 << 24, NonZeroUsize::MIN);
    let matrix = tensor(&[input("x", &[None])], None);
    for columns in [1, 2, 511, 512, 513, 1023, 1024, 1025, 5000] {
        let line = vec!["7"; columns].join(",");
        let text = [&*line; 3].join("\n");
        let rows = NamedRows::Csv { text: &text, header: CsvHeader::Recognised };
        let instances = instances_of(&rows, Some(&matrix), NonZeroUsize::new(3).unwrap(), &memory).unwrap();
        assert_eq!(instances.json().get(), format!("[[{line}],[{line}],[{line}]]"));
    }
}

/// Rows of any number of texts.
fn lists_of_texts() -> InstanceForm {
    let dims = vec![Dim::Dynamic(None), Dim::Dynamic(None)];
    let spec = TensorSpec { name: "x".into(), dtype: DType::Text, dims };
    InstanceForm::Value { column: FormColumn::of_input(&spec, false), elements: Elements::Unnamed(None) }
}

proptest! {
    /// The fields are those that the crate `csv` reads.
    #[test]
    fn csv_has_the_fields_that_another_reader_finds(text in "[a1,\\.\"\n\r ü-]{0,40}|(a,\"b\"\"\n\",\r?\n){0,5}") {
        let memory = MemoryBudget::new(1 << 20, NonZeroUsize::MIN);
        let rows = NamedRows::Csv { text: &text, header: CsvHeader::Absent };
        let ours = instances_of(&rows, Some(&lists_of_texts()), NonZeroUsize::new(100).unwrap(), &memory);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        let field = |field: &str| Some(field.to_owned()).filter(|field| !field.is_empty());
        let theirs: Vec<Vec<Option<String>>> =
            reader.records().map(|record| record.unwrap().iter().map(field).collect()).collect();
        let is_regular = theirs.iter().all(|row| row.len() == theirs[0].len());
        match ours {
            Ok(instances) => {
                let ours: Vec<Vec<Option<String>>> = serde_json::from_str(instances.json().get()).unwrap();
                prop_assert_eq!(ours, theirs);
            }
            Err(_) => prop_assert!(!is_regular || theirs.is_empty() || text.matches('"').count() % 2 == 1),
        }
        prop_assert_eq!(memory.held(), 0);
    }
}
