//! Reading of a file in an instance: `{"b64": "…"}`.

use super::base64_text::decoded;
use super::reader::{Fits, Reader, misfit, quoted};

/// Reads the bytes of a file, which is an object with its base64 text. `expected` describes such an object.
pub(crate) fn encoded_file(json: &mut Reader<'_>, expected: &str) -> Fits<Vec<u8>> {
    if json.peek() != b'{' {
        return Err(json.found_instead_of(expected));
    }
    let mut bytes = None;
    json.object(|json, key| {
        if &*key != "b64" {
            return Err(misfit(format!("unknown key {}, expected \"b64\"", quoted(&key))));
        }
        if json.peek() != b'"' {
            return Err(json.found_instead_of("a string").at_key("b64"));
        }
        let text = json.string()?;
        let decoded = decoded(&text).map_err(|problem| misfit(problem).at_key("b64"))?;
        match bytes.replace(decoded) {
            None => Ok(()),
            Some(_) => Err(misfit("the key \"b64\" occurs twice".to_owned())),
        }
    })?;
    bytes.ok_or_else(|| misfit("the key \"b64\" is missing".to_owned()))
}
