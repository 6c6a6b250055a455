#!/usr/bin/env python3
"""Puts kubernetes-validate, which carries Kubernetes' own schemas, into a folder of its own, .kubernetes.

Run it as often as you like: when it is there, nothing is fetched.
"""

import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENT = "kubernetes-validate==1.37.0"
FOLDER = Path(__file__).resolve().parent.parent / ".kubernetes"


def main():
    stamp = FOLDER / "STAMP"
    # What comes with it may be compiled for one Python.
    wanted = f"{REQUIREMENT} for Python {sys.version_info.major}.{sys.version_info.minor}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {REQUIREMENT} into {FOLDER.name} with pip ...", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", FOLDER, REQUIREMENT]
    if subprocess.run([str(part) for part in command]).returncode != 0:
        sys.exit(f"error: {REQUIREMENT} could not be installed (pip's message is above)")
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
