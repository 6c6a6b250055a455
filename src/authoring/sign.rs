//! Signs versions: the signature of the manifest, in the format of minisign.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use super::staging::at;
use crate::config::TrustedKey;
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::repository::{FoundVersion, MANIFEST_FILE, Manifest, Refusal, SIGNATURE_FILE, trusted_comment};

/// Maximum size of the file of a secret key, in bytes.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// A secret key that versions are signed with.
pub struct SigningKey(SecretKey);

/// The password of a secret key.
#[derive(Clone, Default)]
pub enum Password {
    /// This one.
    Given(String),
    /// One that is asked for on the terminal.
    #[default]
    Asked,
    /// None: the key is not encrypted.
    None,
}

impl SigningKey {
    /// Reads the file of a secret key, as minisign or `leeway sign --generate` have made it. A key that is not encrypted needs
    /// no password.
    pub fn read(path: &Path, password: Password) -> Result<SigningKey, SetupError> {
        let wrong = |problem: &str| SetupError::Config(format!("{}: {problem}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| at(path, &error))?.len();
        if length > MAX_KEY_BYTES {
            return Err(wrong("it is too large for a secret key of minisign"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| at(path, &error))?;
        // minisign itself writes no checksum into a key that is not encrypted. A damaged one is found when it signs.
        let bytes = text.lines().nth(1).and_then(|line| STANDARD.decode(line.trim()).ok()).unwrap_or_default();
        let key = SecretKey::from_bytes(&bytes).map_err(|_| wrong("it is not a secret key of minisign"))?;
        if !key.is_encrypted() {
            return Ok(SigningKey(key));
        }
        let password = match password {
            Password::Given(password) => Some(password),
            Password::Asked => None,
            Password::None => {
                return Err(wrong(
                    "the secret key is encrypted; its password is read from LEEWAY_SIGNING_PASSWORD, from a file \
                     (--password-file), or from a terminal",
                ));
            }
        };
        let opened = SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(password));
        opened.map(SigningKey).map_err(|error| wrong(&format!("the secret key cannot be used: {error}")))
    }

    /// Makes a key, and writes it to a new file that only its owner can read. Returns the public key.
    pub fn generate(path: &Path, password: Password) -> Result<TrustedKey, SetupError> {
        let wrong = |error: minisign::PError| SetupError::Config(format!("{}: {error}", path.display()));
        let pair = match password {
            Password::None => KeyPair::generate_unencrypted_keypair(),
            Password::Given(password) => KeyPair::generate_encrypted_keypair(Some(password)),
            Password::Asked => KeyPair::generate_encrypted_keypair(None),
        };
        let KeyPair { pk, sk } = pair.map_err(wrong)?;
        let text = sk.to_box(Some("secret key of versions")).map_err(wrong)?.into_string();
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| at(path, &error))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| at(path, &error))?;
        pk.to_base64().parse().map_err(SetupError::internal)
    }

    /// Returns the public key.
    pub fn public(&self) -> Result<TrustedKey, SetupError> {
        let key = PublicKey::from_secret_key(&self.0).map_err(SetupError::internal)?;
        key.to_base64().parse().map_err(SetupError::internal)
    }

    /// Writes the signature of the manifest in a folder, which is this version or becomes it.
    pub(super) fn sign(&self, folder: &Path, model: &ModelName, version: Version) -> Result<(), SetupError> {
        let (manifest, signature) = (folder.join(MANIFEST_FILE), folder.join(SIGNATURE_FILE));
        let bytes = Manifest::read_bytes(folder).map_err(|refusal| SetupError::Repository(refusal.to_string()))?;
        let (comment, untrusted) = (trusted_comment(model, version), format!("signature of {model} {version}"));
        let public = PublicKey::from_secret_key(&self.0).map_err(SetupError::internal)?;
        let signed = minisign::sign(Some(&public), &self.0, io::Cursor::new(bytes), Some(&comment), Some(&untrusted));
        let text = signed.map_err(|error| at(&manifest, &io::Error::other(error)))?.into_string();
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.as_file().sync_all()?;
            file.persist(&signature)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| at(&signature, &error))
    }
}

/// Signs a version whose files are those of its manifest. An earlier signature is replaced.
pub fn sign_version(folder: &Path, model: &ModelName, version: Version, key: &SigningKey) -> Result<(), SetupError> {
    let refused = |refusal: Refusal| SetupError::Repository(format!("{}: {refusal}", folder.display()));
    let found = FoundVersion::find(folder).map_err(refused)?;
    found.check_digests().map_err(refused)?;
    key.sign(folder, model, version)
}

/// Shows nothing of the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Shows no password.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}
