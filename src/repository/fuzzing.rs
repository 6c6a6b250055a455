//! Entry points of the fuzz targets in `fuzz/`. Each calls a reader of this module, and checks the properties that must
//! hold for any input.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;

use super::external_data::{self, SelfContained};
use super::manifest::Manifest;
use super::onnx_file::{
    self, AttributeProto, EXTERNAL, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, bits_per_element,
};
use super::zip_map;

/// Maximum length of a message about a file, in bytes. A message quotes names, but not the contents.
const MAX_PROBLEM: usize = 2_000;

/// Checks the reader of manifests. An accepted manifest can be written and read again, and names only files below its
/// folder.
pub(crate) fn manifest(bytes: &[u8]) {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(problem) => return assert_is_one_line(&problem),
    };
    for path in manifest.files.keys() {
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        assert!(Path::new(path.as_str()).components().all(is_plain), "a path that leads elsewhere: {path}");
    }
    let written = manifest.to_toml();
    let again = written.and_then(|text| Manifest::parse(text.as_bytes()));
    assert_eq!(again.as_ref(), Ok(&manifest));
    assert_eq!(again.map(|again| again.identity()), Ok(manifest.identity()));
}

/// Checks the rewriting of models. An accepted model contains the external data of its tensors, except those of its main
/// graph's initializers; nothing else has changed. Then its outputs of maps are replaced, which changes only nodes and
/// outputs.
pub(crate) fn external_data(model: &[u8]) {
    let model: Arc<[u8]> = model.into();
    let parsed = match onnx_file::parse(&model) {
        Ok(parsed) => parsed,
        Err(problem) => return assert_is_one_line(&problem),
    };
    let files = files_of(&model);
    let SelfContained { model: rewritten, left } = match external_data::contain(&model, &files) {
        Ok(contained) => contained,
        Err(problem) => return assert_is_one_line(&problem),
    };
    let expected = Expected { files: &files, left: BTreeSet::new() };
    let (expected, expected_left) = expected.model(parsed);
    assert_eq!(left, expected_left, "the files that are still needed");
    assert_eq!(onnx_file::parse(&rewritten).as_ref(), Ok(&expected));
    assert_eq!(external_data::locations(&rewritten).as_ref(), Ok(&left));
    let again = external_data::contain(&rewritten, &files);
    assert_eq!(again, Ok(SelfContained { model: Arc::clone(&rewritten), left }), "rewriting it again changes it");
    without_maps(&rewritten, expected);
}

fn without_maps(model: &Arc<[u8]>, parsed: ModelProto) {
    let replaced = match zip_map::replace(model, &parsed) {
        Ok(replaced) => replaced,
        Err(problem) => return assert_is_one_line(&problem),
    };
    let all_else = |mut model: ModelProto| {
        if let Some(graph) = &mut model.graph {
            graph.node.retain(|node| !matches!(&*node.op_type, "ZipMap" | "Scaler"));
            graph.output.clear();
        }
        model
    };
    assert_eq!(onnx_file::parse(&replaced).map(all_else), Ok(all_else(parsed)));
}

fn assert_is_one_line(problem: &str) {
    assert!(problem.len() <= MAX_PROBLEM, "a problem of {} bytes: {problem}", problem.len());
    assert!(!problem.contains('\n'), "a problem of several lines: {problem:?}");
}

/// Returns made-up files for the external data of a model, except for locations that begin with `no`. Their content is
/// the model's bytes, repeated.
fn files_of(model: &Arc<[u8]>) -> BTreeMap<String, Arc<[u8]>> {
    const FILE_BYTES: usize = 4_096;
    let content: Arc<[u8]> = model.iter().copied().cycle().take(FILE_BYTES).collect();
    let locations = external_data::locations(model).unwrap_or_default().into_iter();
    locations.filter(|name| !name.starts_with("no")).map(|name| (name, Arc::clone(&content))).collect()
}

// ===== the expected result, computed from the parsed model as simply as possible =====

struct Expected<'a> {
    files: &'a BTreeMap<String, Arc<[u8]>>,
    left: BTreeSet<String>,
}

impl Expected<'_> {
    fn model(mut self, mut model: ModelProto) -> (ModelProto, BTreeSet<String>) {
        if let Some(main) = &mut model.graph {
            for tensor in main.initializer.iter().filter(|tensor| is_external(tensor)) {
                self.left.insert(self.content(tensor).0);
            }
            self.nodes(&mut main.node);
            main.sparse_initializer.iter_mut().for_each(|sparse| self.sparse_tensor(sparse));
        }
        for training in &mut model.training_info {
            { training.initialization.iter_mut() }.chain(&mut training.algorithm).for_each(|graph| self.graph(graph));
        }
        for function in &mut model.functions {
            self.nodes(&mut function.node);
            function.attribute_proto.iter_mut().for_each(|attribute| self.attribute(attribute));
        }
        (model, self.left)
    }

    fn graph(&self, graph: &mut GraphProto) {
        self.nodes(&mut graph.node);
        graph.initializer.iter_mut().for_each(|tensor| self.tensor(tensor));
        graph.sparse_initializer.iter_mut().for_each(|sparse| self.sparse_tensor(sparse));
    }

    fn nodes(&self, nodes: &mut [NodeProto]) {
        { nodes.iter_mut() }.flat_map(|node| &mut node.attribute).for_each(|attribute| self.attribute(attribute));
    }

    fn attribute(&self, attribute: &mut AttributeProto) {
        { attribute.t.as_deref_mut().into_iter() }.chain(&mut attribute.tensors).for_each(|tensor| self.tensor(tensor));
        { attribute.g.as_deref_mut().into_iter() }.chain(&mut attribute.graphs).for_each(|graph| self.graph(graph));
        let sparse = attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors);
        sparse.for_each(|sparse| self.sparse_tensor(sparse));
    }

    fn sparse_tensor(&self, sparse: &mut SparseTensorProto) {
        { sparse.values.iter_mut() }.chain(&mut sparse.indices).for_each(|tensor| self.tensor(tensor));
    }

    fn tensor(&self, tensor: &mut TensorProto) {
        if is_external(tensor) {
            let (_, raw_data) = self.content(tensor);
            *tensor = TensorProto {
                dims: std::mem::take(&mut tensor.dims),
                data_type: tensor.data_type,
                name: std::mem::take(&mut tensor.name),
                raw_data,
                ..TensorProto::default()
            };
        }
    }

    /// Returns the location of a tensor's external data, and the data.
    fn content(&self, tensor: &TensorProto) -> (String, Bytes) {
        assert_eq!(tensor.data_location, EXTERNAL);
        let entry = |key: &str| {
            let all: Vec<&str> =
                tensor.external_data.iter().filter(|entry| entry.key == key).map(|entry| &*entry.value).collect();
            assert!(all.len() <= 1, "taken, although it names the {key} twice");
            all.first().copied()
        };
        let location = entry("location").unwrap_or_default();
        let offset: u128 = entry("offset").map_or(Ok(0), str::parse).unwrap_or(u128::MAX);
        let elements = tensor.dims.iter().try_fold(1_u128, |all, &dim| all.checked_mul(u128::try_from(dim).ok()?));
        let bits = bits_per_element(tensor.data_type).and_then(|bits| elements?.checked_mul(bits as u128));
        let bytes = bits.unwrap_or(u128::MAX).div_ceil(8);
        let end = offset.saturating_add(bytes);
        let file = self.files.get(location).map_or(&[][..], |file| &**file);
        assert!(end <= file.len() as u128, "taken, although {location:?} has no {bytes} bytes from {offset} on");
        (location.to_owned(), Bytes::copy_from_slice(&file[offset as usize..end as usize]))
    }
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location != 0 || !tensor.external_data.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_file(folder: &str, hold: fn(&[u8])) {
        let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
        let paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!paths.is_empty(), "{folder} has no files");
        for path in paths {
            eprintln!("{}", path.display());
            hold(&std::fs::read(path).unwrap());
        }
    }

    /// The seeds of fuzzing, which include inputs that once failed.
    #[test]
    fn what_has_to_be_true_is_true_of_every_seed() {
        each_file("fuzz/seeds/manifest", manifest);
        each_file("fuzz/seeds/external_data", external_data);
        each_file("tests/data/external", external_data);
        each_file("tests/data/zipmap", external_data);
    }
}
