//! Folders of caches that only this user can read and write to.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::machine;

/// Makes a folder that only this user can write to and read, if it does not exist. Refuses a folder that others own or can
/// write to, because they could put a graph there.
pub(super) fn make_private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path)?;
    let problem = match metadata {
        _ if !metadata.is_dir() => "is not a folder",
        _ if metadata.uid() != machine::user_id() => "belongs to another user",
        _ if metadata.mode() & 0o022 != 0 => "can be written by other users (chmod go-w)",
        _ => return machine::may_be_written(path),
    };
    Err(io::Error::other(format!("{} {problem}", path.display())))
}

/// Notes that an entry was used.
pub(super) fn touch(path: &Path) {
    // Only the order in which entries are thrown away depends on it.
    let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}
