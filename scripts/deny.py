#!/usr/bin/env python3
"""Runs cargo-deny on Leeway's dependencies by the rules of deny.toml: bans, licenses, sources, advisories.

Installs cargo-deny into .tools if it is not there. That and the first three need the crate registry only. Advisories are in
RustSec's database, a git repository, of which nothing is downloaded here: name a clone of it. Without one, that is said and is
no failure: then only versions that were yanked, which the registry itself knows, are looked for.

    ADVISORY_DB=/path/to/a/clone scripts/deny.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cargo_programs import FOLDER, ROOT, program

CARGO_DENY = "0.20.2"
# cargo-deny takes the address of a database, which git replaces by the path of the clone.
DATABASE = "https://advisories.invalid/database"
ANSWER_SECONDS = 20

# It runs for a second: how fast matters less than how soon it is there.
QUICK_TO_BUILD = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
    "CARGO_PROFILE_RELEASE_STRIP": "debuginfo",
}


def check(cargo_deny, *arguments, environment=None):
    """Returns true if all is well."""
    command = [cargo_deny, "--locked", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False).returncode == 0


def check_advisories(cargo_deny, database, kept_in):
    """The same by the advisories of a repository, of which a copy is kept in a folder."""
    # deny.toml says what is tolerated, and cannot say this.
    rules = (ROOT / "deny.toml").read_text().replace("[advisories]", f'[advisories]\ndb-path = "{kept_in}"\ndb-urls = ["{DATABASE}"]')
    config = Path(kept_in) / "deny.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(rules)
    instead = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{database}.insteadOf",
        "GIT_CONFIG_VALUE_0": DATABASE,
    }
    # What deny.toml tolerates need not be there in a database that is older, or empty.
    arguments = ["check", "--allow", "advisory-not-detected", "--allow", "unknown-advisory", "advisories"]
    return check(cargo_deny, "--config", config, *arguments, environment=instead)


# cargo-deny takes no database without any.
ADVISORY_OF_NOTHING = """```toml
[advisory]
id = "RUSTSEC-2000-0001"
package = "a-crate-that-is-not-there"
date = "2000-01-01"

[versions]
patched = []
```

# An advisory of nothing
"""


def empty_database(folder):
    """Makes a database without advisories of any crate, and returns its URL."""
    crate = Path(folder) / "crates" / "a-crate-that-is-not-there"
    crate.mkdir(parents=True)
    (crate / "RUSTSEC-2000-0001.md").write_text(ADVISORY_OF_NOTHING)
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for arguments in [["init", "--initial-branch=main"], ["add", "."], ["commit", "--message=No advisories"]]:
        subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)
    return Path(folder).as_uri()


def has_main_branch(url):
    command = ["git", "ls-remote", "--exit-code", "--heads", url, "main"]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        asked = subprocess.run(command, env=environment, capture_output=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def advisories(cargo_deny):
    clone = os.environ.get("ADVISORY_DB")
    if clone:
        database = Path(clone).resolve().as_uri()
        if has_main_branch(database):
            return check_advisories(cargo_deny, database, FOLDER / "advisories")
        raise SystemExit(f"error: ADVISORY_DB: {clone} is no clone of RustSec's advisory-db, with its branch main")
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as kept_in:
        is_well = check_advisories(cargo_deny, empty_database(empty), kept_in)
    print(
        "warning: ADVISORIES WERE NOT CHECKED: set ADVISORY_DB to the path of a clone of RustSec's advisory-db. Of what that check "
        "does, only versions that were yanked were looked for.",
        file=sys.stderr,
    )
    return is_well


def main():
    cargo_deny = program("cargo-deny", CARGO_DENY, **QUICK_TO_BUILD)
    results = [check(cargo_deny, "check", "bans", "licenses", "sources"), advisories(cargo_deny)]
    if not all(results):
        raise SystemExit("error: cargo deny check failed")


if __name__ == "__main__":
    main()
