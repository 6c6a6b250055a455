//! The last listing of an object store and the small files that it has, on disk: so a restart reads them again only if they
//! have changed, and a server can start while the store cannot be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::listing::Marks;
use super::objects::ObjectMark;
use crate::identity::Sha256;
use crate::repository::private_folder::make_private_folder;

/// File of the listing.
const LISTING: &str = "listing.json";

/// Folder of the small files.
const TEXTS: &str = "texts";

/// The only format of remembered listings so far.
const FORMAT: u32 = 1;

/// A folder with the last listing of one location.
#[derive(Debug)]
pub(super) struct Remembered {
    folder: PathBuf,
    /// The small files that were read, by the key of their path and mark.
    texts: Mutex<BTreeMap<Sha256, Vec<u8>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RememberedListing {
    format: u32,
    place: String,
    objects: Marks,
}

impl Remembered {
    /// Opens the folder for a location, within the folder of the cache.
    pub(super) fn open(cache: &Path, place: &str) -> io::Result<Remembered> {
        let locations = cache.join("locations");
        let folder = locations.join(Sha256::of(place.as_bytes()).short());
        for part in [&locations, &folder, &folder.join(TEXTS)] {
            make_private_folder(part)?;
        }
        Ok(Remembered { folder, texts: Mutex::default() })
    }

    /// Returns the last listing.
    pub(super) fn listing(&self, place: &str) -> Option<Marks> {
        let text = fs::read(self.folder.join(LISTING)).ok()?;
        let listing: RememberedListing = serde_json::from_slice(&text).ok()?;
        (listing.format == FORMAT && listing.place == place).then_some(listing.objects)
    }

    /// Remembers a listing, and forgets the small files that are not in it.
    pub(super) fn remember(&self, place: &str, objects: &Marks) {
        let keys: BTreeSet<Sha256> = objects.iter().map(|(path, mark)| key(path, mark)).collect();
        self.texts.lock().retain(|key, _| keys.contains(key));
        let remember = || -> io::Result<()> {
            let listing = RememberedListing { format: FORMAT, place: place.to_owned(), objects: objects.clone() };
            self.write(&self.folder.join(LISTING), &serde_json::to_vec(&listing)?)?;
            for entry in fs::read_dir(self.folder.join(TEXTS))? {
                let entry = entry?;
                let key = entry.file_name().to_string_lossy().parse::<Sha256>();
                if !key.is_ok_and(|key| keys.contains(&key)) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        warn_of(&self.folder, remember());
    }

    /// Returns a small file with this mark.
    pub(super) fn text(&self, path: &str, mark: &ObjectMark) -> Option<Vec<u8>> {
        let key = key(path, mark);
        if let Some(text) = self.texts.lock().get(&key) {
            return Some(text.clone());
        }
        let text = fs::read(self.text_path(key)).ok().filter(|text| text.len() as u64 == mark.size)?;
        self.texts.lock().insert(key, text.clone());
        Some(text)
    }

    /// Remembers a small file.
    pub(super) fn remember_text(&self, path: &str, mark: &ObjectMark, text: &[u8]) {
        if text.len() as u64 != mark.size {
            // It has changed since it was listed.
            return;
        }
        let key = key(path, mark);
        self.texts.lock().insert(key, text.to_owned());
        warn_of(&self.folder, self.write(&self.text_path(key), text));
    }

    fn text_path(&self, key: Sha256) -> PathBuf {
        self.folder.join(TEXTS).join(key.to_string())
    }

    /// Writes a file at once, because another process may be reading it.
    fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(&self.folder)?;
        fs::write(file.path(), text)?;
        file.persist(path).map(|_| ()).map_err(|error| error.error)
    }
}

fn key(path: &str, mark: &ObjectMark) -> Sha256 {
    let ObjectMark { size, e_tag, modified_ms } = mark;
    Sha256::of(serde_json::json!([path, size, e_tag, modified_ms]).to_string().as_bytes())
}

/// Logs a failure, which only makes a later start slower.
fn warn_of(folder: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(
            folder = %folder.display(), problem = %error,
            "the listing of the repository is not remembered (repository.cache)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_remembered_for_as_long_as_they_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Remembered::open(folder.path(), "s3://bucket").unwrap();
        let mark = |tag: &str| ObjectMark { size: 2, e_tag: Some(tag.to_owned()), modified_ms: 7 };
        let objects = |tag: &str| Marks::from([("a/model.toml".to_owned(), mark(tag))]);
        let first = open();
        first.remember("s3://bucket", &objects("x"));
        first.remember_text("a/model.toml", &mark("x"), b"ab");
        let second = open();
        assert_eq!(second.listing("s3://bucket"), Some(objects("x")));
        assert_eq!(second.listing("s3://other"), None);
        assert_eq!(second.text("a/model.toml", &mark("x")).as_deref(), Some(&b"ab"[..]));
        assert_eq!(second.text("a/model.toml", &mark("y")), None);
        second.remember("s3://bucket", &objects("y"));
        assert_eq!(open().text("a/model.toml", &mark("x")), None);
    }
}
