"""The program is the one that LEEWAY_PROGRAM names, as the tests in Rust set it, or the debug build of this checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(CHECKOUT / "python"))
os.environ.setdefault("LEEWAY_PROGRAM", str(CHECKOUT / "target/debug/leeway"))
# Threads of frameworks that spin, on a machine that runs other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The library of the checkout is found from the program's folder.
os.environ.pop("ORT_DYLIB_PATH", None)

import leeway.testing  # noqa: E402

#: A test machine may be busy.
PATIENT = {"LEEWAY_LOADING__TRIAL": "false", "LEEWAY_REPOSITORY__DEFAULT_MODEL": "digits"}

shipped = leeway.testing.fixture(CHECKOUT / "models", settings=PATIENT)
