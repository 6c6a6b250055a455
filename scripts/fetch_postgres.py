#!/usr/bin/env python3
"""Brings PostgreSQL (initdb, postgres) into .postgres/bin/, and an empty cluster into .postgres/data, for the tests.

Debian's package is used if it is installed, or whatever else is on the PATH. Otherwise a package of PyPI that contains the
programs is unpacked here, or in the folder for temporary files if this is root: nothing is installed on the system. Run it as often as you like: when they are there, nothing
happens.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = ["initdb", "postgres"]
FOLDER = Path(__file__).resolve().parent.parent / ".postgres"
WHEEL = "pgserver==0.1.4"
# PostgreSQL refuses to run as root. Then the tests run it as this user.
NOBODY = 65534


def installed():
    """The folders in which PostgreSQL may be installed, the newest first."""
    debian = Path("/usr/lib/postgresql")
    versions = sorted(debian.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    return versions + ([Path(on_path).resolve().parent] if on_path else [])


def find():
    for folder in installed():
        if all((folder / program).exists() for program in PROGRAMS):
            return folder
    print(f"fetching {WHEEL}, which contains PostgreSQL, with pip ...", file=sys.stderr)
    # Another user has to be able to run it, and may have no access to this checkout.
    package = Path(tempfile.gettempdir()) / f"leeway-{WHEEL}" if os.geteuid() == 0 else FOLDER / "package"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", package, WHEEL]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise SystemExit("install PostgreSQL by hand, so that initdb and postgres are on the PATH, and run this again")
    return package / "pgserver/pginstall/bin"


def make_cluster(binaries):
    """An empty cluster, which each test copies: initdb takes a second."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        if user:
            os.chown(scratch, NOBODY, NOBODY)
        (scratch / "password").write_text("leeway\n")
        (scratch / "password").chmod(0o644)
        command = [binaries / "initdb", "--pgdata", scratch / "data", "--username", "leeway"]
        command += ["--auth-local", "trust", "--auth-host", "scram-sha-256", "--pwfile", scratch / "password"]
        command += ["--no-locale", "--encoding", "UTF8", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scratch, **user)
        shutil.move(scratch / "data", FOLDER / "data")


def main():
    binaries = FOLDER / "bin"
    if (FOLDER / "data/PG_VERSION").exists() and all((binaries / program).exists() for program in PROGRAMS):
        return
    binaries.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(FOLDER / "data", ignore_errors=True)
    found = find()
    make_cluster(found)
    for program in PROGRAMS:
        (binaries / program).unlink(missing_ok=True)
        (binaries / program).symlink_to(found / program)
    version = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
    print(f"{version.stdout.strip()} is in {binaries}")


if __name__ == "__main__":
    main()
