//! A folder of images, each of which becomes an instance.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::row::{Place, Row, RowText, Rows};
use super::staging::at;
use crate::error::{Result, SetupError};

/// Endings of the names of images that a pipeline can decode.
const ENDINGS: [&str; 4] = ["jpeg", "jpg", "png", "webp"];
/// Maximum size of an image file.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// The images in a folder and its subfolders.
#[derive(Debug)]
pub(super) struct ImageFolder {
    folder: PathBuf,
    /// The images, sorted by their paths.
    images: Vec<PathBuf>,
    /// Number of other files.
    others: usize,
}

impl ImageFolder {
    /// Lists the images. Hidden files and folders, and links to folders, are not looked into.
    pub(super) fn list(folder: &Path) -> Result<ImageFolder, SetupError> {
        let (mut images, mut others, mut waiting) = (Vec::new(), 0, vec![folder.to_owned()]);
        while let Some(folder) = waiting.pop() {
            let unreadable = |error: std::io::Error| at(&folder, &error);
            for entry in fs::read_dir(&folder).map_err(unreadable)? {
                let entry = entry.map_err(unreadable)?;
                let path = entry.path();
                let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
                if entry.file_type().map_err(unreadable)?.is_dir() {
                    waiting.extend(Some(path).filter(|_| !is_hidden));
                } else if !is_hidden && is_named_like_an_image(&path) && path.is_file() {
                    images.push(path);
                } else {
                    others += 1;
                }
            }
        }
        images.sort();
        if images.is_empty() {
            let endings = ENDINGS.join(", .");
            return Err(SetupError::Repository(format!(
                "{}: a folder without images (files with the ending .{endings})",
                folder.display()
            )));
        }
        Ok(ImageFolder { folder: folder.to_owned(), images, others })
    }

    pub(super) fn count(&self) -> u64 {
        self.images.len() as u64
    }

    /// Returns the images as instances: `{"b64": "…"}`.
    pub(super) fn rows(&self) -> Rows<'_> {
        Box::new(self.images.iter().map(|path| {
            let instance = serde_json::json!({ "b64": STANDARD.encode(bytes(path)?) });
            let instance = serde_json::value::to_raw_value(&instance).map_err(SetupError::internal)?;
            Ok(Row::new(Place::File(path.clone()), instance))
        }))
    }

    /// Returns the images as instances, in a form that outlives this value. An image that cannot be read does not end them.
    pub(super) fn into_rows(self) -> impl Iterator<Item = Result<RowText, SetupError>> + 'static {
        self.images.into_iter().map(|path| {
            let json = bytes(&path).map(|bytes| format!("{{\"b64\":\"{}\"}}", STANDARD.encode(bytes)));
            Ok(RowText { place: Place::File(path), json: json.map_err(|error| error.to_string()) })
        })
    }

    /// Returns a remark on the files that are not images.
    pub(super) fn remark(&self) -> Option<String> {
        let (folder, images, others) = (self.folder.display(), self.images.len(), self.others);
        (others > 0).then(|| {
            format!(
                "{folder} has {images} images; {others} other files were skipped (hidden, or not .{})",
                ENDINGS.join(", .")
            )
        })
    }
}

fn is_named_like_an_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    ENDINGS.contains(&&*ending)
}

fn bytes(path: &Path) -> Result<Vec<u8>, SetupError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| at(path, &error))?;
    file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| at(path, &error))?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        let max = MAX_IMAGE_BYTES >> 20;
        return Err(SetupError::Repository(format!("{}: an image of more than {max} MiB", path.display())));
    }
    Ok(bytes)
}
