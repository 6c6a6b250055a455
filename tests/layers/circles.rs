//! No two files import each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::Visit;
use syn::{Item, UseTree, Visibility};

use crate::sources::sources;

/// A path in the source, as in `crate::model::OnnxModel`.
type Segments = Vec<String>;

/// A module.
struct Module {
    file: &'static str,
    /// The items that it defines.
    defined: BTreeSet<String>,
    /// The names that it exports, with the paths that they stand for.
    exported: BTreeMap<String, Segments>,
    /// The paths that it uses.
    used: Vec<Segments>,
}

type Modules = BTreeMap<Segments, Module>;

/// Collects the paths of a file that begin with a top-level module, this module, its parent or an imported module.
struct Paths<'a> {
    imported: &'a BTreeMap<String, Segments>,
    found: Vec<Segments>,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        match self.imported.get(&segments[0]) {
            Some(module) => self.found.push([module, &segments[1..]].concat()),
            None => self.found.push(segments),
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            syn::visit::visit_item_mod(self, module);
        }
    }
}

/// Flattens `a::{b, c as d}` to its paths and the names that they have in the file.
fn flatten(tree: &UseTree, prefix: &[String], into: &mut Vec<(String, Segments)>) {
    let with = |name: String| [prefix, &[name]].concat();
    match tree {
        UseTree::Path(path) => flatten(&path.tree, &with(path.ident.to_string()), into),
        UseTree::Group(group) => group.items.iter().for_each(|item| flatten(item, prefix, into)),
        UseTree::Name(name) if name.ident == "self" => into.push((prefix[prefix.len() - 1].clone(), prefix.to_vec())),
        UseTree::Name(name) => into.push((name.ident.to_string(), with(name.ident.to_string()))),
        UseTree::Rename(rename) => into.push((rename.rename.to_string(), with(rename.ident.to_string()))),
        UseTree::Glob(_) => into.push(("*".to_owned(), with("*".to_owned()))),
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Struct(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Const(item) => &item.ident,
        Item::Static(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(name.to_string())
}

fn modules() -> Modules {
    let mut modules = Modules::new();
    for source in sources().iter().filter(|source| !["lib.rs", "main.rs"].contains(&&*source.file)) {
        let path = source.file.trim_end_matches(".rs").trim_end_matches("/mod");
        let parsed = syn::parse_file(&source.text).unwrap();
        let mut uses = Vec::new();
        let mut exported = BTreeMap::new();
        for item in &parsed.items {
            let Item::Use(item) = item else { continue };
            let mut flat = Vec::new();
            flatten(&item.tree, &[], &mut flat);
            match item.vis {
                Visibility::Inherited => uses.extend(flat),
                // Not a use by this file: the importers of an exported name use it.
                _ => exported.extend(flat),
            }
        }
        let imported: BTreeMap<String, Segments> = uses.iter().cloned().collect();
        let mut paths = Paths { imported: &imported, found: Vec::new() };
        parsed.items.iter().filter(|item| !matches!(item, Item::Use(_))).for_each(|item| paths.visit_item(item));
        let used = uses.iter().map(|(_, path)| path.clone()).chain(paths.found).collect();
        let defined = parsed.items.iter().filter_map(name_of).collect();
        let module = Module { file: &source.file, defined, exported, used };
        modules.insert(path.split('/').map(str::to_owned).collect(), module);
    }
    modules
}

/// Returns the file that defines the first name in a path of `module` that is not a module. `None` for other crates.
fn definition(modules: &Modules, module: &[String], path: &[String]) -> Option<&'static str> {
    let (mut at, mut rest) = match path.first()?.as_str() {
        "crate" => (Segments::new(), &path[1..]),
        "self" => (module.to_vec(), &path[1..]),
        "super" => (module[..module.len() - 1].to_vec(), &path[1..]),
        // Other names are found through the imports of the file, if at all.
        first if modules.contains_key(&[module, &[first.to_owned()]].concat()) => (module.to_vec(), path),
        _ => return None,
    };
    while let Some((first, others)) = rest.split_first() {
        let next = [&*at, std::slice::from_ref(first)].concat();
        if !modules.contains_key(&next) {
            break;
        }
        (at, rest) = (next, others);
    }
    let (name, found) = (rest.first()?, modules.get(&at)?);
    if found.defined.contains(name) {
        return Some(found.file);
    }
    found.exported.get(name).and_then(|path| definition(modules, &at, path))
}

/// Returns files of which each imports the next, and the last the first, if there are any.
fn circle(imports: &BTreeMap<&'static str, BTreeSet<&'static str>>) -> Option<Vec<&'static str>> {
    fn visit(
        file: &'static str,
        imports: &BTreeMap<&'static str, BTreeSet<&'static str>>,
        way: &mut Vec<&'static str>,
        done: &mut BTreeSet<&'static str>,
    ) -> Option<Vec<&'static str>> {
        if let Some(at) = way.iter().position(|before| *before == file) {
            return Some(way[at..].to_vec());
        }
        if !done.insert(file) {
            return None;
        }
        way.push(file);
        let found = imports.get(file).into_iter().flatten().find_map(|next| visit(next, imports, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|file| visit(file, imports, &mut Vec::new(), &mut done))
}

#[test]
fn no_two_files_import_each_other() {
    let modules = modules();
    let mut imports: BTreeMap<&'static str, BTreeSet<&'static str>> = BTreeMap::new();
    for (path, module) in &modules {
        let files = module.used.iter().filter_map(|used| definition(&modules, path, used));
        imports.insert(module.file, files.filter(|file| *file != module.file).collect());
    }
    // Makes sure that imports are found at all.
    assert!(imports["model/worker.rs"].contains("model/queue.rs"), "{:?}", imports["model/worker.rs"]);
    assert!(imports["serve/infer.rs"].len() > 5, "{:?}", imports["serve/infer.rs"]);
    let circle = circle(&imports).unwrap_or_default();
    assert!(circle.is_empty(), "these files import each other: {}", circle.join(" → "));
}

#[test]
fn a_circle_is_found() {
    let imports = BTreeMap::from([
        ("a", BTreeSet::from(["b", "d"])),
        ("b", BTreeSet::from(["c"])),
        ("c", BTreeSet::from(["d", "b"])),
        ("d", BTreeSet::new()),
    ]);
    assert_eq!(circle(&imports), Some(vec!["b", "c"]));
}
