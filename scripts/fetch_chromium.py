#!/usr/bin/env python3
"""Brings Chromium into .chromium/bin/chromium, for the tests of the console.

A Chromium or Chrome on the PATH is used as it is. Otherwise Debian's chromium-headless-shell, and those of the packages that it
needs that are not installed, are downloaded with apt and unpacked here: nothing is installed on the system, and no rights are
needed but to read the lists of packages. Where Debian's packages are not offered, npm's Playwright fetches its own. Run it as often
as you like: when it is there, nothing is fetched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".chromium"
PROGRAM = FOLDER / "bin/chromium"
PACKAGE = "chromium-headless-shell"
NAMES = ["chromium", "chromium-browser", PACKAGE, "google-chrome", "google-chrome-stable", "chrome"]
APPLICATIONS = [
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
]
BY_HAND = "install Chromium by hand, so that chromium is on the PATH, and run this again"

FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir>{package}/usr/share/fonts</dir>
  <cachedir>{folder}/fonts</cachedir>
</fontconfig>
"""

# The libraries that were unpacked are found before those of the system, which do not have them.
WRAPPER = """#!/bin/sh
package="{package}"
for folder in "$package"/usr/lib/*-linux-gnu "$package"/lib/*-linux-gnu; do
    LD_LIBRARY_PATH="$folder:$folder/pulseaudio:$folder/nss${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
done
export LD_LIBRARY_PATH
[ -e /etc/fonts/fonts.conf ] || export FONTCONFIG_FILE="{folder}/fonts.conf"
exec "{program}" "$@"
"""


def run(*command, cwd=None, **options):
    return subprocess.run(list(map(str, command)), cwd=cwd, check=True, stdout=sys.stderr, **options)


def version(program):
    """What a program says of itself, or nothing if it does not start."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None


def missing_packages():
    """The package, and those that it needs that are not installed; nothing if it is not offered."""
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", "-q", PACKAGE]
    simulated = subprocess.run(command, capture_output=True, text=True, check=False)
    if simulated.returncode != 0:
        return []
    return [line.split()[1] for line in simulated.stdout.splitlines() if line.startswith("Inst ")]


def download(folder):
    """The packages, with the lists of packages brought up to date if they are not there yet or too old."""
    for attempt in range(2):
        packages = missing_packages()
        try:
            if packages:
                run("apt-get", "download", "-q", *packages, cwd=folder)
                return
        except subprocess.CalledProcessError:
            pass
        if attempt == 0:
            print("the lists of packages are missing or too old; running apt-get update ...", file=sys.stderr)
            subprocess.run(["apt-get", "update", "-q"], stdout=sys.stderr, check=False)
    raise FileNotFoundError(PACKAGE)


def from_debian():
    """Debian's package, unpacked."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise FileNotFoundError("apt-get")
    print(f"fetching Debian's {PACKAGE} with apt ...", file=sys.stderr)
    package = FOLDER / "package"
    with tempfile.TemporaryDirectory() as downloads:
        # apt drops its rights for a download, and has to be able to write here all the same.
        Path(downloads).chmod(0o777)
        download(downloads)
        for file in sorted(Path(downloads).glob("*.deb")):
            run("dpkg-deb", "-x", file, package)
    (FOLDER / "fonts.conf").write_text(FONTS.format(package=package, folder=FOLDER))
    program = package / "usr/lib/chromium" / PACKAGE
    wrapper = FOLDER / "wrapper"
    wrapper.write_text(WRAPPER.format(package=package, folder=FOLDER, program=program))
    wrapper.chmod(0o755)
    return wrapper


def from_playwright():
    """The browser that Playwright fetches, where its downloads can be reached."""
    if not shutil.which("npm"):
        raise FileNotFoundError("npm")
    print("fetching Chromium with Playwright ...", file=sys.stderr)
    console, browsers = ROOT / "console", FOLDER / "browsers"
    if not (console / "node_modules/@playwright/test").exists():
        run("npm", "ci", "--no-audit", "--no-fund", cwd=console)
    environment = {**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(browsers)}
    run("npx", "--no-install", "playwright", "install", "chromium-headless-shell", cwd=console, env=environment)
    return next(path for name in ["headless_shell", "chrome-headless-shell"] for path in browsers.rglob(name))


def found():
    """A program that starts."""
    on_path = [Path(path) for path in map(shutil.which, NAMES) if path]
    for program in on_path + APPLICATIONS:
        # Ubuntu's chromium only says how to install a snap.
        if program.exists() and version(program):
            return program
    for fetch in [from_debian, from_playwright]:
        try:
            if version(program := fetch()):
                return program
        except (FileNotFoundError, StopIteration, subprocess.CalledProcessError) as error:
            print(f"{fetch.__doc__} It could not be had: {error}", file=sys.stderr)
    raise SystemExit(f"there is no Chromium here; {BY_HAND}")


def main():
    if version(PROGRAM):
        return
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    program = found()
    PROGRAM.unlink(missing_ok=True)
    PROGRAM.symlink_to(program)
    print(f"{version(PROGRAM)} is in {PROGRAM.parent}")


if __name__ == "__main__":
    main()
