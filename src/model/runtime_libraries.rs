//! The native libraries of this process: ONNX Runtime, and the libraries with custom operators that the configuration
//! allows.
//!
//! The code of a custom operator runs in the server, so exactly the bytes that were hashed are loaded: they are copied to
//! memory that nobody can change any more (a sealed `memfd`), and the system's loader reads them from there. The processes
//! of trials and of isolated models inherit this memory. So a file that is replaced later changes nothing until the server
//! starts again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::AllowedOperators;
use crate::error::{Result, SetupError};
use crate::identity::{Sha256, shown};

/// The libraries that a process of this server has loaded, which its child processes load as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeLibraries {
    /// File of the ONNX Runtime library, as it was found.
    pub onnxruntime: PathBuf,
    /// The libraries with custom operators.
    pub operators: Vec<OperatorLibrary>,
}

/// A library with custom operators, whose digest was verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorLibrary {
    /// Path in the configuration, for messages.
    pub(super) path: PathBuf,
    /// SHA-256 of its bytes.
    sha256: Sha256,
    /// Path of the verified bytes, in this process and in its child processes.
    pub(super) verified: PathBuf,
}

impl RuntimeLibraries {
    /// Returns the digests of the libraries with custom operators.
    pub fn operator_digests(&self) -> Vec<Sha256> {
        self.operators.iter().map(|library| library.sha256).collect()
    }
}

impl OperatorLibrary {
    /// Reads an allowed library and verifies its digest.
    pub(super) fn read(allowed: &AllowedOperators) -> Result<OperatorLibrary, SetupError> {
        let path = &allowed.path;
        let wrong =
            |problem: String| SetupError::Config(format!("onnxruntime.custom_operators: {} {problem}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let found = Sha256::of(&bytes);
        if found != allowed.sha256 {
            return Err(wrong(format!(
                "has the SHA-256 {found}, but {} is allowed; if this is the file that you want, set sha256 to its digest",
                allowed.sha256
            )));
        }
        let verified = sealed(&bytes).map_err(|error| wrong(format!("cannot be copied to memory: {error}")))?;
        Ok(OperatorLibrary { path: path.clone(), sha256: found, verified })
    }
}

/// Returns what to do about an operator that is missing, according to this message of ONNX Runtime; `None` if the message is
/// about something else, or if the operator belongs to ONNX Runtime itself.
pub(super) fn remedy_for_missing_operator(message: &str) -> Option<String> {
    const OWN_DOMAINS: [&str; 3] = ["ai.onnx", "ai.onnx.ml", "com.microsoft"];
    let (before, _) = message.split_once(" is not a registered function/op")?;
    let operator = before.rsplit(' ').next().unwrap_or(before);
    let (domain, _) = operator.split_once(':').filter(|(domain, _)| !domain.is_empty())?;
    (!OWN_DOMAINS.contains(&domain)).then(|| {
        format!(
            "the operators of \"{}\" come from a library of their own, which the operator of the server has to allow, with \
             path and sha256 in onnxruntime.custom_operators of the server's configuration",
            shown(domain)
        )
    })
}

/// Version of the library, from its file name (`libonnxruntime.so.1.31.1`) or, on Linux, from its symbol version
/// (`VERS_1.31.1`).
pub(super) fn library_version(path: &Path) -> String {
    let from_name = path.canonicalize().ok().and_then(|real| {
        let name = file_name(&real).into_owned();
        let start = name.find(|c: char| c.is_ascii_digit())?;
        let version = name[start..].trim_end_matches(".dylib").to_owned();
        (version.split('.').count() == 3).then_some(version)
    });
    let from_symbols = || {
        let bytes = std::fs::read(path).ok()?;
        let start = memchr::memmem::find(&bytes, b"VERS_1.")? + "VERS_".len();
        let version = bytes[start..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.');
        String::from_utf8(version.copied().collect()).ok()
    };
    from_name.or_else(from_symbols).unwrap_or_else(|| "unknown".to_owned())
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

/// Copies bytes to memory that cannot be changed, and returns its path. The memory stays until the process ends, because
/// sessions are opened at any time, and child processes inherit it.
#[cfg(target_os = "linux")]
fn sealed(bytes: &[u8]) -> std::io::Result<PathBuf> {
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    // Without CLOEXEC, so that child processes inherit the memory under the same number.
    let mut memory: std::fs::File = memfd_create("leeway-operators", MemfdFlags::ALLOW_SEALING)?.into();
    memory.write_all(bytes)?;
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(PathBuf::from(format!("/proc/self/fd/{}", memory.into_raw_fd())))
}

/// Other systems cannot load a library from memory.
#[cfg(not(target_os = "linux"))]
fn sealed(_bytes: &[u8]) -> std::io::Result<PathBuf> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "this is possible on Linux only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operators_of_others_come_from_a_library() {
        let missing = |operator: &str| format!("Fatal error: {operator}(-1) is not a registered function/op");
        let remedy = remedy_for_missing_operator(&missing("ai.onnx.contrib:BertTokenizer")).unwrap();
        assert!(
            remedy.starts_with("the operators of \"ai.onnx.contrib\" come from a library of their own"),
            "{remedy}"
        );
        assert_eq!(remedy_for_missing_operator(&missing("com.microsoft:Gelu")), None);
        assert_eq!(remedy_for_missing_operator(&missing(":Gelu")), None);
        assert_eq!(remedy_for_missing_operator("Failed to load model"), None);
    }

    #[test]
    fn only_the_allowed_bytes_are_loaded_and_they_cannot_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.so");
        std::fs::write(&path, "abc").unwrap();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let allowed = AllowedOperators { path: path.clone(), sha256: digest.parse().unwrap() };
        let library = OperatorLibrary::read(&allowed).unwrap();
        std::fs::write(&path, "abd").unwrap();
        assert_eq!(std::fs::read(&library.verified).unwrap(), b"abc");
        let opened = std::fs::OpenOptions::new().write(true).open(&library.verified);
        assert!(opened.and_then(|mut file| std::io::Write::write_all(&mut file, b"x")).is_err());
        let error = OperatorLibrary::read(&allowed).unwrap_err().to_string();
        assert!(error.contains("has the SHA-256 a52d159f") && error.contains(digest), "{error}");
        let missing = AllowedOperators { path: folder.path().join("none.so"), ..allowed };
        assert!(OperatorLibrary::read(&missing).unwrap_err().to_string().contains("cannot be read: No such file"));
    }
}
