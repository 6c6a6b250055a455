//! Reads regular files that have no other name. Symbolic links, hard links and devices are refused, because they lead
//! out of a version's folder.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::identity::shown;

/// Reads a regular file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = usize::try_from(file.metadata()?.len().min(limit)).map_err(io::Error::other)?;
    // With room for one byte more, the end of the file is found without a larger buffer.
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length.saturating_add(1)).map_err(io::Error::other)?;
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opens a regular file that has no other name. Checks it again: it may have been replaced since it was listed.
pub(super) fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::OFlags;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // This check gives a clear error. The flags protect against a replacement of the file before it is opened.
    check_regular(&name, &std::fs::symlink_metadata(path)?).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    check_regular(&name, &file.metadata()?).map_err(io::Error::other)?;
    Ok(file)
}

/// Checks that a file is regular and has no other name.
pub(super) fn check_regular(name: &str, metadata: &Metadata) -> Result<(), String> {
    if metadata.is_symlink() {
        let name = shown(name);
        Err(format!(
            "\"{name}\" is a symbolic link, and a version has plain files only; copy what it leads to with cp -L"
        ))
    } else if !metadata.is_file() {
        Err(format!("\"{}\" is not a regular file", shown(name)))
    } else if metadata.nlink() > 1 {
        let name = shown(name);
        Err(format!("\"{name}\" is a hard link: its bytes can be changed under another name; put a copy there"))
    } else {
        Ok(())
    }
}
