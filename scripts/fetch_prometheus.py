#!/usr/bin/env python3
"""Brings Debian's Prometheus (prometheus, promtool) into .prometheus/bin/, for the tests to scrape real servers with.

Whatever of them is on the PATH is used as it is. Otherwise Debian's package is downloaded with apt and unpacked here:
nothing is installed on the system. Run it as often as you like: when they are there, nothing is fetched.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = ["prometheus", "promtool"]
FOLDER = Path(__file__).resolve().parent.parent / ".prometheus"
BY_HAND = "install Prometheus by hand, so that prometheus and promtool are on the PATH, and run this again"


def run(*command, cwd=None):
    subprocess.run(command, cwd=cwd, check=True, stdout=sys.stderr)


def download(folder):
    """Debian's package, with the lists of packages brought up to date if they are not there yet."""
    try:
        run("apt-get", "download", "-q", "prometheus", cwd=folder)
    except subprocess.CalledProcessError:
        print("the lists of packages are missing or too old; running apt-get update ...", file=sys.stderr)
        run("apt-get", "update", "-q")
        run("apt-get", "download", "-q", "prometheus", cwd=folder)
    return next(Path(folder).glob("prometheus_*.deb"))


def main():
    binaries = FOLDER / "bin"
    if all((binaries / program).exists() for program in PROGRAMS):
        return
    binaries.mkdir(parents=True, exist_ok=True)
    found = {program: shutil.which(program) for program in PROGRAMS}
    if not all(found.values()):
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise SystemExit(f"there is no apt here; {BY_HAND}")
        print("fetching Debian's prometheus with apt ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as downloads:
            # apt drops its rights for a download, and has to be able to write here all the same.
            Path(downloads).chmod(0o777)
            try:
                package = download(downloads)
                run("dpkg-deb", "-x", package, FOLDER / "package")
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"{error}; {BY_HAND}") from error
        found = {program: FOLDER / "package/usr/bin" / program for program in PROGRAMS}
    for program, path in found.items():
        (binaries / program).unlink(missing_ok=True)
        (binaries / program).symlink_to(path)
    version = subprocess.run([binaries / "promtool", "--version"], capture_output=True, text=True, check=True)
    print(f"{version.stdout.splitlines()[0]} is in {binaries}")


if __name__ == "__main__":
    main()
