#!/usr/bin/env python3
"""Installs the clients that the tests point at Leeway into .clients: tritonclient, the KServe SDK, MLflow and others with pip,
and the TypeScript compiler with npm, with the pinned versions of tests/clients.

Run it as often as you like: nothing happens while the pinned versions are those that are installed.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "tests/clients"
FOLDER = ROOT / ".clients"


def is_installed(name):
    installed = FOLDER / name
    return installed.exists() and installed.read_bytes() == (PINNED / name).read_bytes()


def install(name, *command):
    print(f"installing the packages of tests/clients/{name} into .clients ...", file=sys.stderr)
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{error}; the tests of clients need these packages") from error


def main():
    if not is_installed("requirements.txt"):
        venv.create(FOLDER, with_pip=True)
        pip = [FOLDER / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install("requirements.txt", *pip, "-r", PINNED / "requirements.txt")
        # Written last: an installation that broke off is done again.
        shutil.copyfile(PINNED / "requirements.txt", FOLDER / "requirements.txt")
    if not is_installed("package.json"):
        node = FOLDER / "node"
        node.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PINNED / "package.json", node / "package.json")
        install("package.json", "npm", "install", "--prefix", node, "--no-audit", "--no-fund", "--silent")
        shutil.copyfile(PINNED / "package.json", FOLDER / "package.json")


if __name__ == "__main__":
    main()
