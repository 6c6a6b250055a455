#!/usr/bin/env python3
"""Installs the clients that the tests point at Leeway (tritonclient, the KServe SDK, MLflow, …) into .clients, with the pinned
versions of tests/clients/requirements.txt.

Run it as often as you like: nothing happens while the requirements are those that are installed.
"""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "tests/clients/requirements.txt"
FOLDER = ROOT / ".clients"
INSTALLED = FOLDER / "requirements.txt"


def main():
    if INSTALLED.exists() and INSTALLED.read_bytes() == REQUIREMENTS.read_bytes():
        return
    print("installing the clients of the tests into .clients ...", file=sys.stderr)
    venv.create(FOLDER, with_pip=True)
    python = FOLDER / "bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
    try:
        subprocess.run(install, check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error}; the tests of clients need these packages") from error
    # Written last: an installation that broke off is done again.
    INSTALLED.write_bytes(REQUIREMENTS.read_bytes())


if __name__ == "__main__":
    main()
