//! `leeway sign`: signs a version, or makes the key that versions are signed with.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::settings::RepositoryArgs;
use super::terminal;
use crate::authoring::{Password, SigningKey, sign_version};
use crate::config::signing_password_of_environment;
use crate::identity::{ModelName, Version};
use crate::repository::{self, SIGNATURE_FILE};

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// Model of the version
    #[arg(required_unless_present = "generate")]
    model: Option<ModelName>,

    /// Version to sign
    #[arg(required_unless_present = "generate")]
    version: Option<Version>,

    /// Secret key, as `minisign -G` or --generate has made it
    #[arg(long, value_name = "FILE", required_unless_present = "generate")]
    key: Option<PathBuf>,

    #[command(flatten)]
    password: PasswordArgs,

    /// Make a key: the secret key in this new file, and the public key beside it, with .pub appended
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "version", "key"])]
    generate: Option<PathBuf>,

    /// Do not encrypt the new key with a password
    #[arg(long, requires = "generate", conflicts_with = "password_file")]
    no_password: bool,

    #[command(flatten)]
    settings: RepositoryArgs,
}

/// Flags for the password of a secret key.
#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// File with the password of the secret key. Without it, the variable LEEWAY_SIGNING_PASSWORD, or else the terminal
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordArgs {
    /// Returns the password of a key: of the file, or of the environment, or from the terminal if there is one.
    pub(super) fn password(&self) -> Result<Password> {
        if let Some(file) = &self.password_file {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            return Ok(Password::Given(text.lines().next().unwrap_or_default().to_owned()));
        }
        Ok(match signing_password_of_environment() {
            Some(password) => Password::Given(password),
            None if std::io::stdin().is_terminal() => Password::Asked,
            None => Password::None,
        })
    }
}

pub(super) fn run(args: SignArgs) -> Result<()> {
    let password = args.password.password()?;
    if let Some(file) = &args.generate {
        return generate(file, if args.no_password { Password::None } else { needed(password)? });
    }
    let (Some(model), Some(version), Some(key)) = (args.model, args.version, args.key) else {
        bail!("a model, a version and --key are needed");
    };
    let config = args.settings.load()?;
    let remedy = "a version in an object store is signed when it is added: `leeway add --sign`";
    config.repository.path.folder(remedy)?;
    let store = repository::store(&config.repository, &config.state)?;
    let place = store.materialise(&model, version).map_err(|refusal| anyhow!("{refusal}"))?;
    let folder = place.folder().to_owned();
    let key = SigningKey::read(&key, password)?;
    sign_version(&folder, &model, version, &key)?;
    let signed = folder.join(SIGNATURE_FILE);
    writeln!(terminal::stdout(), "Signed {model} {version} with the key {}: {}", key.public()?.id(), signed.display())?;
    Ok(())
}

fn needed(password: Password) -> Result<Password> {
    match password {
        Password::None => bail!(
            "the new key needs a password: in LEEWAY_SIGNING_PASSWORD, in a file (--password-file), or on a terminal; \
             with --no-password, it is not encrypted"
        ),
        password => Ok(password),
    }
}

fn generate(file: &Path, password: Password) -> Result<()> {
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    if public_file.exists() {
        bail!("{}: the file exists already", public_file.display());
    }
    let public = SigningKey::generate(file, password)?;
    let (id, key) = (public.id(), String::from(public));
    let text = format!("untrusted comment: minisign public key {id}\n{key}\n");
    std::fs::write(&public_file, text).with_context(|| public_file.display().to_string())?;
    let mut out = terminal::stdout();
    writeln!(out, "# The secret key {id}, for those who make versions: {}", file.display())?;
    writeln!(out, "# The public key, for servers, in leeway.toml:")?;
    writeln!(out, "[repository]\ntrusted_keys = [\"{key}\"]")?;
    Ok(())
}
