//! Facts from the environment of this process: the program, the user, and colours on a terminal.

use std::path::PathBuf;

/// Returns the path of this program, which trials and isolated sessions run in processes of their own.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Returns the user who runs this program, according to the environment: `user@host`.
pub fn this_user() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = set("USER").or_else(|| set("LOGNAME")).unwrap_or_else(|| "someone".to_owned());
    let host = set("HOSTNAME").or_else(|| Some(std::fs::read_to_string("/etc/hostname").ok()?.trim().to_owned()));
    host.filter(|host| !host.is_empty()).map_or_else(|| user.clone(), |host| format!("{user}@{host}"))
}

/// Returns true if the user has turned off colours on a terminal with the environment variable `NO_COLOR`.
pub fn is_colour_unwanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
