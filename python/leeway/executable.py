"""The program `leeway`, as a process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Sequence

from leeway.errors import LeewayError

#: Progress where there is no terminal, as in "counting: 32 of 500 rows".
_PROGRESS = re.compile(r"\w+: \d+( of \d+)? rows")


class CommandFailed(LeewayError):
    """A command of the program failed."""


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


def run(arguments: Sequence[str | Path]) -> str:
    """Runs a command of the program, and returns its output. If it fails, raises CommandFailed with its message."""
    command = [str(part) for part in (program(), *arguments)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
    if ended.returncode != 0:
        lines = ended.stderr.splitlines() or ended.stdout.splitlines()
        raise CommandFailed("\n".join(line for line in lines if not _PROGRESS.fullmatch(line)))
    return ended.stdout
