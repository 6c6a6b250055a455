//! The files of learned profiles, beside the `model.toml` of a model: `profile-2.json` for version 2.
//!
//! They are not a part of a version, which does not change once it is in use. The former profile of a version is kept
//! under another name when a new one is accepted, and can be put back.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::error::{Result, SetupError};
use crate::identity::Version;
use crate::monitor::LearnedProfile;

/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// Returns the path of the profile of a version in the folder of its model.
pub fn profile_file(model: &Path, version: Version) -> PathBuf {
    model.join(format!("profile-{version}.json"))
}

/// Reads the profile of a version; `None` if there is none.
pub fn read_profile(model: &Path, version: Version) -> Result<Option<LearnedProfile>, String> {
    let path = profile_file(model, version);
    let wrong = |problem: String| format!("{}: {problem}", path.display());
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(wrong(format!("it has more than {} MB", MAX_BYTES >> 20)));
        }
        Ok(_) => {}
    }
    let text = fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    LearnedProfile::parse(&text).map(Some).map_err(wrong)
}

/// Writes the profile of a version, as a whole or not at all. The former one is kept, and its path is returned.
pub fn write_profile(model: &Path, version: Version, learned: &LearnedProfile) -> Result<Option<PathBuf>, SetupError> {
    let path = profile_file(model, version);
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".profile-").tempfile_in(model)?;
        serde_json::to_writer(&mut file, learned)?;
        file.write_all(b"\n")?;
        // Temporary files are private to their owner; the server may run as another user.
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.as_file().sync_all()?;
        let former = keep(&path, &kept((model, version), "former", learned.origin.at))?;
        file.persist(&path).map_err(|error| error.error)?;
        sync(model)?;
        Ok(former)
    };
    write().map_err(|error: io::Error| at(&path, &error))
}

/// Takes back the profile of a version: the one before is used again, or none. Returns the path under which the profile is
/// kept, and that of the one before.
pub fn take_back_profile(
    model: &Path,
    version: Version,
    now: Timestamp,
) -> Result<(PathBuf, Option<PathBuf>), SetupError> {
    let path = profile_file(model, version);
    let take_back = || {
        let taken_back = kept((model, version), "taken-back", now);
        let Some(taken_back) = keep(&path, &taken_back)? else { return Err(io::ErrorKind::NotFound.into()) };
        let former = newest_former(model, version)?;
        match &former {
            Some(former) => fs::rename(former, &path)?,
            None => fs::remove_file(&path)?,
        }
        sync(model)?;
        Ok((taken_back, former))
    };
    take_back().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            SetupError::Repository(format!("{}: there is no learned profile to take back", path.display()))
        }
        _ => at(&path, &error),
    })
}

/// Gives a file another name, too; `None` if there is no such file.
fn keep(path: &Path, kept: &Path) -> io::Result<Option<PathBuf>> {
    match fs::hard_link(path, kept) {
        Ok(()) => Ok(Some(kept.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn kept((model, version): (&Path, Version), what: &str, now: Timestamp) -> PathBuf {
    // Names in the order of time.
    let now = now.as_microsecond();
    model.join(format!("profile-{version}.{what}-{now:016}.json"))
}

fn newest_former(model: &Path, version: Version) -> io::Result<Option<PathBuf>> {
    let prefix = format!("profile-{version}.former-");
    let mut found: Vec<PathBuf> =
        fs::read_dir(model)?.collect::<io::Result<Vec<_>>>()?.iter().map(fs::DirEntry::path).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    Ok(found.into_iter().max())
}

fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn at(path: &Path, error: &io::Error) -> SetupError {
    SetupError::Repository(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::monitor::{DayKinds, Profile, ProfileOrigin};

    #[test]
    fn a_profile_is_taken_back_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (model, version) = (folder.path(), Version::FIRST);
        let learned = |rows: u64| {
            let now = Timestamp::UNIX_EPOCH;
            let origin =
                ProfileOrigin { since: now, until: now, rows, by: "ops".into(), reason: "new app".into(), at: now };
            let (features, predictions) = Default::default();
            let (time_zone, days, rows) = ("UTC".to_owned(), DayKinds::All, vec![rows]);
            let profile = Profile { time_zone, days, rows, untimed_rows: 0, features, predictions };
            LearnedProfile::new("0".to_owned(), origin, profile)
        };
        let rows = || read_profile(model, version).unwrap().map(|learned| learned.origin.rows);
        assert_eq!(rows(), None);
        assert_eq!(write_profile(model, version, &learned(1)).unwrap(), None);
        assert!(write_profile(model, version, &learned(2)).unwrap().is_some());
        assert_eq!(rows(), Some(2));
        assert!(
            take_back_profile(
                model,
                version,
                Timestamp::UNIX_EPOCH + SignedDuration::from_secs(rows().unwrap_or(9) as i64)
            )
            .unwrap()
            .1
            .is_some()
        );
        assert_eq!(rows(), Some(1));
        assert!(
            take_back_profile(
                model,
                version,
                Timestamp::UNIX_EPOCH + SignedDuration::from_secs(rows().unwrap_or(9) as i64)
            )
            .unwrap()
            .1
            .is_none()
        );
        assert_eq!(rows(), None);
        let refused = take_back_profile(model, version, Timestamp::UNIX_EPOCH).unwrap_err().to_string();
        assert!(refused.contains("no learned profile to take back"), "{refused}");
        fs::write(profile_file(model, version), "{}").unwrap();
        assert!(read_profile(model, version).unwrap_err().contains("profile-1.json"));
    }
}
