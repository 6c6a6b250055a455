"""The program `leeway`, as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Sequence

from leeway.errors import LeewayError


def program() -> Path:
    """Returns the path of the program: that in LEEWAY_PROGRAM, or that which was installed with this package, or that in
    PATH."""
    named = os.environ.get("LEEWAY_PROGRAM")
    if named:
        return Path(named)
    name = "leeway.exe" if sys.platform == "win32" else "leeway"
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    folders.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    for folder in folders:
        path = Path(folder) / name
        if path.is_file():
            return path
    found = shutil.which(name)
    if found is None:
        raise LeewayError("the program leeway was not found; the wheel of Leeway installs it, or set LEEWAY_PROGRAM to its path")
    return Path(found)


def run(arguments: Sequence[str | Path]) -> tuple[int, str]:
    """Runs a command of the program. Returns its exit status and its whole output."""
    command = [str(part) for part in (program(), *arguments)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ended.returncode, ended.stdout.decode("utf-8", "replace")
