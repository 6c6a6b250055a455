"""Programs of the crate registry that the checkout needs, each in a version that is named here, in .tools/bin/."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".tools"


def program(name, version, **environment):
    """The path of a program. It is built if it is not there in this version; if it is, nothing happens."""
    path = FOLDER / "bin" / name
    if path.exists():
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.split()[-1] == version:
            return path
    print(f"installing {name} {version} into {FOLDER} ...", file=sys.stderr, flush=True)
    # Built in one place, so that one that was interrupted goes on where it was.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(FOLDER / "target"), **environment}
    command = ["cargo", "install", name, "--version", f"={version}", "--locked", "--quiet", "--root", FOLDER]
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise SystemExit(f"error: {name} {version} could not be installed; `{' '.join(map(str, command))}` failed")
    return path
