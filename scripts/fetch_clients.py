#!/usr/bin/env python3
"""Installs the clients that the tests point at Leeway into .clients: tritonclient, the KServe SDK, MLflow and others with pip,
and the TypeScript compiler with npm, with the pinned versions of tests/clients. What the tests of the Python module need goes
into .clients/module, because those clients refuse current versions of pandas; a server with the API of S3 goes into
.clients/object_storage.

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


def is_installed(name, pinned=PINNED, folder=FOLDER):
    installed = folder / name
    return installed.exists() and installed.read_bytes() == (pinned / name).read_bytes()


def install(pinned, *command):
    print(f"installing the packages of {pinned.relative_to(ROOT)} into .clients ...", file=sys.stderr)
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{error}; the tests of clients need these packages") from error


def main():
    object_storage = (PINNED / "object_storage", FOLDER / "object_storage")
    for pinned, folder in [(PINNED, FOLDER), (ROOT / "python", FOLDER / "module"), object_storage]:
        if is_installed("requirements.txt", pinned, folder):
            continue
        venv.create(folder, with_pip=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install(pinned / "requirements.txt", *pip, "-r", pinned / "requirements.txt")
        # Written last: an installation that broke off is done again.
        shutil.copyfile(pinned / "requirements.txt", folder / "requirements.txt")
    if not is_installed("package.json"):
        node = FOLDER / "node"
        node.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PINNED / "package.json", node / "package.json")
        install(PINNED / "package.json", "npm", "install", "--prefix", node, "--no-audit", "--no-fund", "--silent")
        shutil.copyfile(PINNED / "package.json", FOLDER / "package.json")


if __name__ == "__main__":
    main()
