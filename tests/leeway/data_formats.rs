//! Training data and golden examples in the formats of data science. `tests/data/make_formats.py` writes the files, with
//! pandas, polars, pyarrow and NumPy.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, checkout, copy_folder, held_out, leeway, run};

fn shared(file: &str) -> PathBuf {
    checkout().join("tests/data/formats").join(file)
}

/// Makes a baseline for version 1 of a model, and returns it, or what the command said.
fn baseline(repository: &Repository, model: &str, data: &Path, more: &[&str]) -> Result<(Value, String), String> {
    let models = repository.0.path().to_str().unwrap();
    let arguments = ["baseline", model, "1", "--models", models, "--data", data.to_str().unwrap()];
    let (code, said) = run(&mut leeway(&[&arguments, more].concat()));
    if code != 0 {
        return Err(said);
    }
    let made = std::fs::read(repository.0.path().join(model).join("1/baseline.json")).unwrap();
    Ok((serde_json::from_slice(&made).unwrap(), said))
}

/// Writes a file beside the models.
fn file(repository: &Repository, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = repository.0.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_table_has_the_same_baseline_in_each_format() {
    let repository = Repository::new().with_shipped("penguins", &[1]);
    let (from_csv, said) = baseline(&repository, "penguins", &shared("penguins.csv"), &[]).unwrap();
    assert_eq!(from_csv["rows"], 60);
    assert!(
        said.contains("the baseline has only 60 rows: by chance alone, the PSI of a numeric feature is about 0.15"),
        "{said}"
    );
    let missing = |baseline: &Value| {
        let features = baseline["features"].as_array().unwrap().iter();
        features.map(|feature| feature["missing"].as_u64().unwrap()).sum::<u64>()
    };
    assert!(missing(&from_csv) > 20, "{from_csv}");
    for name in [
        "pandas_snappy.parquet",
        "polars_zstd.parquet",
        "pyarrow_gzip.parquet",
        "pyarrow_plain.parquet",
        "pandas_lz4.feather",
        "polars.arrow",
        "pyarrow_stream.arrows",
    ] {
        let (made, _) = baseline(&repository, "penguins", &shared(name), &[]).unwrap();
        assert_eq!(made, from_csv, "{name}");
    }
    // The content decides, not the name.
    let renamed = file(&repository, "renamed.csv", std::fs::read(shared("polars_zstd.parquet")).unwrap());
    assert_eq!(baseline(&repository, "penguins", &renamed, &[]).unwrap().0, from_csv);
}

#[test]
fn columns_that_cannot_be_features_are_named() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    for (name, more, problem) in [
        ("pandas_snappy.parquet", &[][..], "the column \"seen\" has values of type Timestamp"),
        ("pandas_lz4.feather", &["--ignore-column", "seen"], "the column \"eggs\" has values of type List"),
        ("polars.arrow", &["--ignore-column", "when"], "there is no column \"when\" to ignore; there are: id, island"),
        // An index that pandas has stored is no column of the table.
        (
            "pandas_snappy.parquet",
            &["--ignore-column", "seen", "--ignore-column", "eggs", "--ignore-column", "species"],
            "unknown key \"bill_depth_mm\", expected the key \"x\"",
        ),
        ("polars.arrow", &["--delimiter", ";"], "only text has a delimiter"),
    ] {
        let said = baseline(&repository, "plus", &shared(name), more).unwrap_err();
        assert!(said.contains(problem), "{name} {more:?}: {said}");
    }
    let penguins = Repository::new().with_shipped("penguins", &[1]);
    let said = baseline(&penguins, "penguins", &shared("pyarrow_brotli.parquet"), &[]).unwrap_err();
    assert!(said.contains("compressed with Brotli, which is not supported; write it with Zstandard"), "{said}");
}

#[test]
fn arrays_have_the_baseline_of_the_same_rows_as_text() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN).with("table", 1, "table", PLAIN);
    let lines = file(&repository, "rows.jsonl", "[1, 20]\n[3, 40]\n[-5, 60]\n[7, 80]\n");
    let (expected, _) = baseline(&repository, "plus", &lines, &[]).unwrap();
    for name in ["float32.npy", "fortran.npy", "big_endian.npy"] {
        assert_eq!(baseline(&repository, "plus", &shared(name), &[]).unwrap().0, expected, "{name}");
    }
    let csv = file(&repository, "rows.csv", "country,age\nNL,30\n12,40\n");
    let (expected, _) = baseline(&repository, "table", &csv, &[]).unwrap();
    for name in ["table.npz", "table_compressed.npz"] {
        assert_eq!(baseline(&repository, "table", &shared(name), &[]).unwrap().0, expected, "{name}");
    }
    for (model, name, more, problem) in [
        ("plus", "objects.npy", &[][..], "Python objects in a pickle, which can run code when it is read"),
        ("plus", "table.npz", &[], "there is no array \"x\", which is an input of the model; there are: age, country"),
        ("table", "float32.npy", &[], "the pipeline does not take the first row: as a row of the array: instances[0]"),
        (
            "plus",
            "float32.npy",
            &["--ignore-column", "a"],
            "there is no column \"a\", because only tables have columns",
        ),
    ] {
        let said = baseline(&repository, model, &shared(name), more).unwrap_err();
        assert!(said.contains(problem), "{model} {name}: {said}");
    }
}

const DIGITS_AS_PICTURES: &str = r#"
[preprocess]
kind = "image"
size = [8, 8]
colour = "gray"
scale = 0.06666667
[postprocess]
kind = "classifier"
output = "probabilities"
scores = "probabilities"
"#;

#[test]
fn a_folder_of_images_has_the_baseline_of_the_same_images_as_text() {
    let repository = Repository::new();
    let version = repository.0.path().join("digits/1");
    copy_folder(&checkout().join("models/digits/2"), &version);
    std::fs::write(repository.0.path().join("digits/model.toml"), DIGITS_AS_PICTURES).unwrap();
    // The examples and the baseline have rows, not pictures.
    for made in ["golden.json", "baseline.json", "version.toml"] {
        std::fs::remove_file(version.join(made)).unwrap();
    }
    leeway::repository::Manifest::write_for(&version).unwrap();

    let pictures = repository.0.path().join("pictures");
    std::fs::create_dir_all(pictures.join("b/c")).unwrap();
    std::fs::create_dir_all(pictures.join(".hidden")).unwrap();
    let mut lines = String::new();
    for (name, content) in [("a.JPG", "flower_gray.jpg"), ("b/c/1.png", "flower.png"), ("b/d.webp", "flower.webp")] {
        let content = std::fs::read(checkout().join("tests/data/images").join(content)).unwrap();
        lines.push_str(&format!("{}\n", json!({ "b64": STANDARD.encode(&content) })));
        std::fs::write(pictures.join(name), content).unwrap();
    }
    for other in ["notes.txt", ".hidden/x.png", "b/._d.webp"] {
        std::fs::write(pictures.join(other), "no image").unwrap();
    }
    let lines = file(&repository, "pictures.jsonl", lines);
    let (expected, _) = baseline(&repository, "digits", &lines, &[]).unwrap();
    let (made, said) = baseline(&repository, "digits", &pictures, &[]).unwrap();
    assert_eq!((&made, &made["rows"]), (&expected, &json!(3)));
    assert!(said.contains("pictures has 3 images; 2 other files were skipped"), "{said}");

    std::fs::write(pictures.join("b/broken.png"), "no image").unwrap();
    let said = baseline(&repository, "digits", &pictures, &[]).unwrap_err();
    assert!(said.contains("pictures/b/broken.png: instances[0]"), "{said}");
    let said = baseline(&repository, "digits", &pictures, &["--ignore-column", "a"]).unwrap_err();
    assert!(said.contains("only tables have columns"), "{said}");
}

/// Files that are cut off, or that declare more than they have, are refused with a message.
#[test]
fn damaged_files_are_refused() {
    let repository = Repository::new()
        .with_shipped("penguins", &[1])
        .with("plus", 1, "plus_1", PLAIN)
        .with("table", 1, "table", PLAIN);
    let refused = |model: &str, name: &str, content: &[u8]| {
        let data = file(&repository, name, content);
        let said = baseline(&repository, model, &data, &[]).expect_err(name);
        assert!(said.contains(&format!("{name}: ")) && !said.contains("panicked"), "{name}: {said}");
        said
    };
    for (model, name) in [
        ("penguins", "pandas_snappy.parquet"),
        ("penguins", "pandas_lz4.feather"),
        ("penguins", "pyarrow_stream.arrows"),
        ("plus", "float32.npy"),
        ("table", "table_compressed.npz"),
    ] {
        let whole = std::fs::read(shared(name)).unwrap();
        refused(model, name, &whole[..whole.len() * 3 / 5]);
        if !name.ends_with(".arrows") {
            refused(model, name, &whole[..whole.len() - 3]);
        }
    }
    // The length of the first message of a stream, and of the footer of a Parquet file.
    let mut stream = std::fs::read(shared("pyarrow_stream.arrows")).unwrap();
    stream[4..8].fill(0xff);
    assert!(refused("penguins", "long.arrows", &stream).contains("it is cut off"));
    let mut parquet = std::fs::read(shared("polars_zstd.parquet")).unwrap();
    let footer = parquet.len() - 8;
    parquet[footer..footer + 4].fill(0x7f);
    refused("penguins", "long.parquet", &parquet);
    let said = refused("penguins", "text.parquet", b"island,sex\n");
    assert!(said.contains("named like a Parquet file, but its content is another"), "{said}");
}

/// `leeway add` for the penguins, with these arguments.
fn add(repository: &Repository, more: &[&str]) -> (i32, String) {
    let model = repository.0.path().join("penguins");
    let onnx = checkout().join("models/penguins/1/model.onnx");
    let arguments = ["add", model.to_str().unwrap(), "--onnx", onnx.to_str().unwrap()];
    run(&mut leeway(&[&arguments, more].concat()))
}

fn golden(repository: &Repository, version: u32) -> Value {
    let file = repository.0.path().join(format!("penguins/{version}/golden.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn golden_examples_are_made_of_rows() {
    let repository = Repository::new().with_shipped("penguins", &[1]);
    let (csv, parquet) = (shared("penguins.csv"), shared("polars_zstd.parquet"));
    let (csv, parquet) = (csv.to_str().unwrap(), parquet.to_str().unwrap());
    // The labels are those that scikit-learn predicts.
    for (version, data) in [(2, csv), (3, parquet)] {
        let (code, said) = add(&repository, &["--golden", data, "--golden-label-column", "species"]);
        assert!(code == 0 && said.contains("reproduces its 60 golden examples"), "{said}");
        let golden = golden(&repository, version);
        let labels: Vec<Value> = held_out("penguins")["versions"]["1"]["labels"].as_array().unwrap()[80..].to_vec();
        let expected: Vec<Value> = labels.iter().map(|label| json!({ "label": label })).collect();
        assert_eq!((&golden["predictions"], &golden["instances"][0]["sex"]), (&json!(expected), &json!("male")));
    }
    let more = ["--record-golden", parquet, "--golden-rows", "7", "--baseline-data", csv, "--tolerance", "0.01"];
    let (code, said) = add(&repository, &more);
    assert!(code == 0 && said.contains("its 7 golden examples") && said.contains("the first 7 rows of "), "{said}");
    let recorded = golden(&repository, 4);
    assert_eq!((recorded["tolerance"].as_f64(), recorded["predictions"].as_array().unwrap().len()), (Some(0.01), 7));
    assert!(recorded["predictions"][0]["confidence"].is_number());

    // All of its rows.
    let (code, said) = add(&repository, &["--record-golden", parquet]);
    assert!(code == 0 && said.contains("its 60 golden examples") && !said.contains("--golden-rows"), "{said}");

    let wrong = std::fs::read_to_string(csv).unwrap().replacen(",Adelie\n", ",Gentoo\n", 1);
    let wrong = file(&repository, "wrong.csv", wrong);
    let wrong = wrong.to_str().unwrap();
    for (more, problem) in [
        (
            &["--golden", wrong, "--golden-label-column", "species"][..],
            "wrong.csv: line 2: 1 of 60 examples differ; the first: predictions[0].label is \"Adelie\", expected \"Gentoo\". So few",
        ),
        (&["--golden", csv, "--golden-label-column", "kind"], "there is no column \"kind\" with labels"),
        (&["--golden-label-column", "species"], "--golden"),
        (&["--record-golden", csv, "--golden-label-column", "species"], "cannot be used with"),
        (&["--golden-rows", "3"], "required arguments"),
        (&["--delimiter", ";"], "required arguments"),
    ] {
        let (code, said) = add(&repository, more);
        assert!(code != 0 && said.contains(problem), "{more:?}: {said}");
    }
    assert!(!repository.0.path().join("penguins/6").exists());
}

/// Two of 60 examples were made with other arithmetic.
#[test]
fn differences_from_golden_examples_are_counted_and_can_be_accepted() {
    let repository = Repository::new().with_shipped("penguins", &[1]);
    let csv = shared("penguins.csv");
    let (code, said) = add(&repository, &["--record-golden", csv.to_str().unwrap()]);
    assert!(code == 0 && said.contains("gives it no traffic. Next: leeway traffic penguins"), "{said}");
    let mut golden = golden(&repository, 2);
    for (example, off) in [(3, 0.0005), (7, -0.0031)] {
        let confidence = &mut golden["predictions"][example]["confidence"];
        *confidence = json!(confidence.as_f64().unwrap() + off);
    }
    let golden = file(&repository, "framework.json", golden.to_string());
    let golden = golden.to_str().unwrap();
    let (code, said) = add(&repository, &["--golden", golden]);
    assert!(code != 0 && said.contains("golden.json: 2 of 60 examples differ, by up to 0.0031"), "{said}");
    assert!(
        said.contains("; the first: predictions[3].confidence is ") && said.contains("--tolerance 0.0031"),
        "{said}"
    );
    let (code, said) = add(&repository, &["--golden", golden, "--tolerance", "0.0032"]);
    assert!(code == 0 && said.contains("reproduces its 60 golden examples"), "{said}");
    assert_eq!(self::golden(&repository, 3)["tolerance"], 0.0032);
    for (tolerance, problem) in [("-1", "at least 0"), ("much", "is not a number")] {
        let (code, said) = add(&repository, &["--golden", golden, &format!("--tolerance={tolerance}")]);
        assert!(code != 0 && said.contains(problem), "{said}");
    }
}
