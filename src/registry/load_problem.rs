//! Problems for which ONNX Runtime cannot load a model, with what to do about them. ONNX Runtime's own messages name
//! places in its source instead.

/// Returns the problem with a model and its remedy, from the message of ONNX Runtime. `runtime` is its version. `None`
/// for a message that is not recognised.
///
/// ```
/// use leeway::registry::load_problem;
/// let message = "model.cc:256 Unsupported model IR version: 99, max supported IR version: 13";
/// assert!(load_problem(message, "1.31.1").unwrap().starts_with(
///     "model.onnx has the IR version 99, and ONNX Runtime 1.31.1 reads versions up to 13"
/// ));
/// assert_eq!(load_problem("bad allocation", "1.31.1"), None);
/// ```
pub fn load_problem(message: &str, runtime: &str) -> Option<String> {
    locale(message)
        .or_else(|| ir_version(message, runtime))
        .or_else(|| opset(message, runtime))
        .or_else(|| unknown_operator(message, runtime))
}

/// A locale with which the model changes the case of texts.
fn locale(message: &str) -> Option<String> {
    let name = between(message, "Failed to construct locale with name:", ":")?;
    let of_image = if name == "en_US.UTF-8" { " (Leeway's container image has it)" } else { "" };
    Some(format!(
        "model.onnx needs the locale {name}, with which it changes the case of texts, and this machine does not have \
         it{of_image}. On Debian and Ubuntu, install the package locales-all; or install the package locales, add the line \
         \"{name} UTF-8\" to /etc/locale.gen, and run locale-gen"
    ))
}

fn ir_version(message: &str, runtime: &str) -> Option<String> {
    let version = number(message, "Unsupported model IR version: ")?;
    let newest = number(message, "max supported IR version: ")?;
    Some(format!(
        "model.onnx has the IR version {version}, and ONNX Runtime {runtime} reads versions up to {newest}: export the model \
         with an older version of the onnx package, or set the version of the file (in Python: model = \
         onnx.load(\"model.onnx\"); model.ir_version = {newest}; onnx.save(model, \"model.onnx\"))"
    ))
}

fn opset(message: &str, runtime: &str) -> Option<String> {
    let (_, supported) = message.split_once("Current official support for domain ")?;
    let (domain, newest) = supported.split_once(" is till opset ")?;
    let (version, newest) = (number(message, "Opset ")?, number(newest, "")?);
    Some(format!(
        "model.onnx uses opset {version} of {domain}, and ONNX Runtime {runtime} knows opsets up to {newest}: export the \
         model with opset {newest} or an older one (torch.onnx.export: opset_version; skl2onnx: target_opset), or convert \
         it with onnx.version_converter"
    ))
}

fn unknown_operator(message: &str, runtime: &str) -> Option<String> {
    let operator = between(message, "No Op registered for ", " ")?;
    let opset = number(message, "with domain_version of ")?;
    Some(format!(
        "model.onnx uses the operator {operator}, which does not exist in the opset that it declares ({opset}), as ONNX \
         Runtime {runtime} knows it: export the model with a newer opset, or without this operator"
    ))
}

/// Returns the text between two others.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

/// Returns the number after a text.
fn number(text: &str, start: &str) -> Option<u64> {
    let (_, rest) = text.split_once(start)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of ONNX Runtime 1.31.1, shortened.
    #[test]
    fn messages_of_onnx_runtime_become_problems_with_a_remedy() {
        for (message, expected) in [
            (
                "string_normalizer.cc:235 Failed to construct locale with name:de_DE:locale::facet::_S_create_c_locale \
                 name not valid:Please, install necessary language-pack-XX",
                "needs the locale de_DE, with which it changes the case of texts, and this machine does not have it. On",
            ),
            (
                "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. \
                 Opset 99 is under development and support for this is limited. Current official support for domain \
                 ai.onnx.ml is till opset 5.",
                "model.onnx uses opset 99 of ai.onnx.ml, and ONNX Runtime 1.31.1 knows opsets up to 5: export",
            ),
            (
                "In Node, (\"\", Frobnicate, \"\", -1) : (\"x\": tensor(float),) -> (\"y\": tensor(float),) , Error No Op \
                 registered for Frobnicate with domain_version of 18",
                "model.onnx uses the operator Frobnicate, which does not exist in the opset that it declares (18)",
            ),
        ] {
            let problem = load_problem(message, "1.31.1").unwrap();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
