//! One SHA-256 for all files of a version.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::Digest;

use crate::error::{Error, Result};
use crate::identity::Sha256;

/// The identity of a version: SHA-256 over one line per file, `<sha256 in hex>  <path>\n`, sorted by path, with
/// `/` between the parts. So `cd VERSION; find . -type f | sed s,^./,, | LC_ALL=C sort | xargs sha256sum |
/// sha256sum` gives the same.
pub fn digest_of_folder(folder: &Path) -> Result<Sha256> {
    let read = || -> io::Result<Sha256> {
        let mut files = Vec::new();
        list_files(folder, &mut files)?;
        let mut named: Vec<(String, PathBuf)> = files
            .into_iter()
            .map(|path| {
                let relative = path.strip_prefix(folder).unwrap_or(&path);
                let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
                (parts.join("/"), path)
            })
            .collect();
        named.sort();
        let mut all = sha2::Sha256::new();
        for (name, path) in named {
            all.update(format!("{}  {name}\n", digest_of_file(&path)?));
        }
        Ok(Sha256::from(<[u8; 32]>::from(all.finalize())))
    };
    read().map_err(|error| Error::Repository(format!("{}: {error}", folder.display())))
}

fn digest_of_file(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut digest = sha2::Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Sha256::from(<[u8; 32]>::from(digest.finalize()))),
            length => digest.update(&chunk[..length]),
        }
    }
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { list_files(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected digest is what coreutils' `sha256sum` prints for these two files, hashed again by it.
    #[test]
    fn the_digest_is_that_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        std::fs::write(folder.path().join("b/two"), "2\n").unwrap();
        std::fs::write(folder.path().join("a.onnx"), "1\n").unwrap();
        let digest = digest_of_folder(folder.path()).unwrap();
        assert_eq!(digest.to_string(), "8fa71e81733f82040ad447bcc96470f5dd516a47d97bde4b4bf0d45f351ce436");
    }
}
