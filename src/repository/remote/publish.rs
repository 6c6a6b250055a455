//! Uploads a version: its files first, and its manifest last, which makes it visible.
//!
//! Nothing is ever overwritten. Whoever adds a version first creates the object `.adding` in it, which only one can do; so two
//! additions at the same time take different versions. An upload that fails is removed as far as possible, and never has a
//! manifest, so it is no version.

use std::path::Path;

use super::listing::{CLAIM, config_path, file_path, manifest_path};
use super::store::RemoteStore;
use super::store_problem::{ProblemKind, StoreProblem};
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::repository::files;
use crate::repository::layout::CONFIG_FILE;
use crate::repository::manifest::{MANIFEST_FILE, Manifest};
use crate::repository::signature::SIGNATURE_FILE;

/// Number of versions that are tried until one is free.
const MAX_TRIES: u32 = 100;

/// A version that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The version.
    pub version: Version,
    /// Its location.
    pub place: String,
}

impl RemoteStore {
    /// Fails if this repository cannot be written to.
    pub fn check_writable(&self) -> Result<(), SetupError> {
        match self.objects.is_read_only() {
            true => Err(SetupError::Repository(format!(
                "{}: a web server is read only; add the version to the folder that the server shows, and run `leeway index` \
                 there",
                self.place
            ))),
            false => Ok(()),
        }
    }

    /// Returns the next version of a model: the one after the highest, also if that one is not finished.
    pub fn next_version(&self, model: &ModelName) -> Result<Version, SetupError> {
        let objects = self.objects.list_below(model.as_str()).map_err(|problem| self.failed(&problem))?;
        let listing = super::listing::Listing::of(&objects, &self.place);
        let highest = listing.model(model).and_then(|model| model.highest());
        // A model without a model.toml is not in the listing, but its versions count.
        let of_path = |path: &String| path.split('/').nth(1)?.parse::<Version>().ok();
        match highest.max(objects.keys().filter_map(of_path).max()) {
            None => Ok(Version::FIRST),
            Some(highest) => {
                let none = || SetupError::Repository(format!("there is no version after {highest}"));
                highest.next().ok_or_else(none)
            }
        }
    }

    /// Reads the text of a `model.toml`; `None` if the model has none.
    pub fn config_text(&self, model: &ModelName) -> Result<Option<String>, SetupError> {
        match self.objects.read(&config_path(model), 1 << 20) {
            Ok(text) => {
                let text = String::from_utf8(text.into());
                let wrong = |_| SetupError::Config(format!("{}/{}: not UTF-8", self.place, config_path(model)));
                text.map(Some).map_err(wrong)
            }
            Err(problem) if problem.kind == ProblemKind::Missing => Ok(None),
            Err(problem) => Err(self.failed(&problem)),
        }
    }

    /// Uploads the version in a folder, and the `model.toml` of a new model. Takes this version of the model, or a later one
    /// that is free, and signs it with `sign` once its number is known.
    pub fn publish(
        &self,
        model: &ModelName,
        folder: &Path,
        new_config: Option<&str>,
        expected: Version,
        sign: impl Fn(&Path, Version) -> Result<(), SetupError>,
    ) -> Result<Published, SetupError> {
        self.check_writable()?;
        let (mut version, claim) = (expected, uuid::Uuid::now_v7().to_string());
        for _ in 0..MAX_TRIES {
            if self.claim(model, version, &claim)? {
                let uploaded = sign(folder, version).and_then(|()| self.upload(model, version, folder, new_config));
                if uploaded.is_err() {
                    self.remove_unfinished(model, version);
                }
                uploaded?;
                // What is left behind is no file of the version.
                let _ = self.objects.remove(&format!("{model}/{version}/{CLAIM}"));
                let place = format!("{}/{model}/{version}", self.place);
                return Ok(Published { version, place });
            }
            version =
                version.next().ok_or_else(|| SetupError::Repository(format!("there is no version after {version}")))?;
        }
        Err(SetupError::Repository(format!("{}/{model}: others have added {MAX_TRIES} versions meanwhile", self.place)))
    }

    /// Claims a version. Returns false if it is another's.
    fn claim(&self, model: &ModelName, version: Version, claim: &str) -> Result<bool, SetupError> {
        let path = format!("{model}/{version}/{CLAIM}");
        match self.objects.create(&path, claim.as_bytes()) {
            Err(problem) if problem.kind == ProblemKind::Exists => return Ok(false),
            created => created.map_err(|problem| self.failed(&problem))?,
        }
        fail::fail_point!("publish::claimed");
        // Another may have finished this version, and removed the claim, before this one.
        let objects =
            self.objects.list_below(&format!("{model}/{version}")).map_err(|problem| self.failed(&problem))?;
        let is_free = objects.keys().all(|found| *found == path);
        if !is_free {
            self.objects.remove(&path).map_err(|problem| self.failed(&problem))?;
        }
        Ok(is_free)
    }

    fn upload(
        &self,
        model: &ModelName,
        version: Version,
        folder: &Path,
        new_config: Option<&str>,
    ) -> Result<(), SetupError> {
        let failed = |problem: StoreProblem| self.failed(&problem);
        let refused = |refusal: crate::repository::Refusal| SetupError::Repository(refusal.to_string());
        for (name, path) in files::list(folder).map_err(refused)? {
            self.objects.write(&format!("{model}/{version}/{name}"), &path).map_err(failed)?;
            fail::fail_point!("publish::uploaded_file", |_| Err(SetupError::Repository("fail point".to_owned())));
        }
        if let Some(text) = new_config {
            self.objects.create(&config_path(model), text.as_bytes()).map_err(|problem| match problem.kind {
                ProblemKind::Exists => {
                    let place = format!("{}/{}", self.place, config_path(model));
                    SetupError::Repository(format!(
                        "{place}: another {CONFIG_FILE} was added meanwhile; compare the two"
                    ))
                }
                _ => failed(problem),
            })?;
        }
        let signature = folder.join(SIGNATURE_FILE);
        if signature.exists() {
            self.objects.write(&file_path(model, version, SIGNATURE_FILE), &signature).map_err(failed)?;
        }
        // The bytes that were signed.
        let manifest = Manifest::read_bytes(folder).map_err(refused)?;
        self.objects.create(&manifest_path(model, version), &manifest).map_err(|problem| match problem.kind {
            ProblemKind::Exists => {
                let place = format!("{}/{}", self.place, manifest_path(model, version));
                SetupError::Repository(format!(
                    "{place}: another {MANIFEST_FILE} is there already; nothing was changed"
                ))
            }
            _ => failed(problem),
        })
    }

    /// Removes the objects of an upload that has failed. What is left has no manifest, so it is no version.
    fn remove_unfinished(&self, model: &ModelName, version: Version) {
        let objects = self.objects.list_below(&format!("{model}/{version}")).unwrap_or_default();
        if objects.contains_key(&manifest_path(model, version)) {
            // The manifest was written, and only the answer was lost: the version is finished.
            return;
        }
        for path in objects.keys() {
            if let Err(problem) = self.objects.remove(path) {
                tracing::warn!(path, %problem, "a part of an upload that has failed could not be removed");
            }
        }
    }

    fn failed(&self, problem: &StoreProblem) -> SetupError {
        SetupError::Repository(format!("{}: {problem}", self.place))
    }
}
