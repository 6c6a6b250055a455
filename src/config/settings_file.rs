//! Reads the text of a settings file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a settings file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Reads the text of a settings file, which must be a regular file of a bounded size.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let read = || {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8, from byte {} on", error.utf8_error().valid_up_to()))
}
