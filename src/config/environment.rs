//! Facts from the environment of this process: the program, the user, and colours on a terminal.

use std::path::PathBuf;

use crate::machine;

/// Returns the path of this program, which trials and isolated sessions run in processes of their own.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Returns the user who runs this program, according to the environment or the system: `user@host`.
pub fn this_user() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = set("USER").or_else(|| set("LOGNAME")).or_else(machine::user_name);
    let user = user.unwrap_or_else(|| "someone".to_owned());
    this_host().map_or_else(|| user.clone(), |host| format!("{user}@{host}"))
}

/// Returns the name of this machine or container, according to the environment or the system.
pub fn this_host() -> Option<String> {
    let set = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = set.or_else(|| Some(std::fs::read_to_string("/etc/hostname").ok()?.trim().to_owned()));
    host.filter(|host| !host.is_empty())
}

/// Returns the addresses of the servers that commands ask, according to the environment.
pub fn server_of_environment() -> Option<String> {
    std::env::var("LEEWAY_SERVER").ok().filter(|value| !value.is_empty())
}

/// Returns the password of the secret key that versions are signed with, according to the environment.
pub fn signing_password_of_environment() -> Option<String> {
    std::env::var("LEEWAY_SIGNING_PASSWORD").ok().filter(|value| !value.is_empty())
}

/// Returns the width of the output in columns, according to the environment variable `COLUMNS`.
pub fn columns_of_environment() -> Option<u16> {
    std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0)
}

/// Returns true if the user has turned off colours on a terminal with the environment variable `NO_COLOR`.
pub fn is_colour_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
