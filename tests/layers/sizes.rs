//! The size of files and functions: one that is too long gives a reason, in a line that begins with `Length:`.

use syn::visit::Visit;

use crate::sources::{Source, sources};

/// Maximum number of lines of a file. A longer one has a line `//! Length: …` in its header.
const MAX_FILE: usize = 500;

/// Maximum number of lines of a function, from `fn` to its closing brace. A longer one, such as a table, has a line
/// `/// Length: …` or `// Length: …` above it, or as the first line of its body.
const MAX_FUNCTION: usize = 60;

/// A function, with its line numbers, counted from 1.
struct Function {
    name: String,
    first: usize,
    body: usize,
    last: usize,
}

/// Collects the functions of a file.
#[derive(Default)]
struct Functions(Vec<Function>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let braces = block.brace_token.span;
        self.0.push(Function {
            name: signature.ident.to_string(),
            first: signature.fn_token.span.start().line,
            body: braces.open().start().line,
            last: braces.close().end().line,
        });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

impl Function {
    fn length(&self) -> usize {
        self.last + 1 - self.first
    }

    /// Returns true if a comment on the function gives the reason for its length.
    fn gives_reason(&self, lines: &[&str]) -> bool {
        let is_above = |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
        let mut above = lines[..self.first - 1].iter().rev().take_while(is_above);
        above.any(|line| is_reason(line)) || lines.get(self.body).is_some_and(|line| is_reason(line))
    }
}

fn is_reason(line: &str) -> bool {
    line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with("Length: ")
}

/// Returns the file and the functions that are too long, with their lengths, as in `"error.rs"` and `"app.rs: run"`.
fn too_long(source: &Source) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    let mut header = lines.iter().take_while(|line| line.starts_with("//!"));
    if lines.len() > MAX_FILE && !header.any(|line| is_reason(line)) {
        found.push((source.file.clone(), lines.len()));
    }
    let mut functions = Functions::default();
    functions.visit_file(&syn::parse_file(&source.text).unwrap());
    let is_too_long = |function: &Function| function.length() > MAX_FUNCTION && !function.gives_reason(&lines);
    let named = |function: Function| (format!("{}: {}", source.file, function.name), function.length());
    found.extend(functions.0.into_iter().filter(is_too_long).map(named));
    found
}

#[test]
fn files_and_functions_are_short_or_say_why_not() {
    let found = sources().iter().flat_map(too_long);
    let found: Vec<String> = found.map(|(place, lines)| format!("src/{place} has {lines} lines")).collect();
    assert!(found.is_empty(), "divide these, or give a reason (`Length: …`):\n{}", found.join("\n"));
}

#[test]
fn a_reason_is_found_where_it_has_to_be() {
    let found = |above: &str, inside: &str| {
        let text = format!("{above}\nfn long() {{\n{inside}\n{}}}\n", "    work();\n".repeat(MAX_FUNCTION));
        too_long(&Source { file: "a.rs".to_owned(), code: String::new(), text }).len()
    };
    assert_eq!(found("", ""), 1);
    assert_eq!(found("/// Length: a table.\n#[inline]", ""), 0);
    assert_eq!(found("", "    // Length: a table."), 0);
    assert_eq!(found("// Length: of another function.\nfn other() {}\n", ""), 1);
    assert_eq!(found("", "    work();\n    // Length: too late."), 1);
}
