"""The version that an export makes: writes its files, and runs `leeway add`."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Callable, Mapping

from leeway.errors import ExportFailed
from leeway.executable import CommandFailed, run
from leeway.exporting.parity import Parity


@dataclass(frozen=True)
class Exported:
    """A version that was made."""

    #: Folder of the model, with its model.toml.
    model_dir: Path
    #: Number of the version; None if it was not added.
    version: int | None
    #: How far its answers are from the framework's.
    parity: Parity
    #: Columns that may be missing in a request.
    may_be_missing: tuple[str, ...]
    #: What was done, and what `leeway add` said, for people.
    report: str

    def __str__(self) -> str:
        return self.report


@dataclass(frozen=True)
class Facts:
    """What the manifest says of a version."""

    description: str | None
    dataset: str | None
    trained_at: date | str | None
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    #: Name and version, as in "scikit-learn 1.9.1".
    framework: str = ""

    def completed(self, description: str, framework: str, measured: Mapping[str, float]) -> Facts:
        """Adds what an export finds out. What was given by hand has precedence."""
        metrics = {**measured, **self.metrics}
        return replace(self, description=self.description or description, framework=framework, metrics=metrics)

    def arguments(self) -> list[str]:
        """Returns the options of `leeway add`."""
        arguments = ["--framework", self.framework] if self.framework else []
        arguments += ["--description", self.description] if self.description else []
        arguments += ["--trained-at", str(self.trained_at)] if self.trained_at else []
        arguments += ["--dataset", self.dataset] if self.dataset else []
        for name, number in self.metrics.items():
            arguments += ["--metric", f"{name}={number:.6g}"]
        for name, text in self.tags.items():
            arguments += ["--tag", f"{name}={text}"]
        return arguments


@dataclass(frozen=True)
class Sizes:
    """How many rows become golden examples, and how many the baseline is made of, at most."""

    golden_rows: int
    baseline_rows: int


@dataclass(frozen=True)
class Files:
    """The files that `leeway add` makes a version of."""

    onnx: Path
    golden: Path
    #: Rows that the baseline is made of.
    train: Path
    #: Rows that the model was not trained on, with their truth.
    held_out: Path | None = None


def make_version(
    folder: Path, model_toml: str, facts: Facts, write: Callable[[Path], Files]
) -> tuple[int | None, list[str]]:
    """Makes the next version of the model in a folder. `write` writes its files into another, which is removed afterwards.

    An existing model.toml is kept. If it fails, a folder that was not there before is removed. Returns the number of the
    version, and what was done.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if (folder / "model.toml").exists():
            done = f"{folder / 'model.toml'} was there, and is kept."
        else:
            (folder / "model.toml").write_text(model_toml, encoding="utf-8")
            done = f"Wrote {folder / 'model.toml'}."
        said = _add(folder, facts, write)
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return _number(said), [done, said.rstrip()]


def _add(folder: Path, facts: Facts, write: Callable[[Path], Files]) -> str:
    """Runs `leeway add`, and returns what it said."""
    with tempfile.TemporaryDirectory(prefix="leeway-export-") as made:
        files = write(Path(made))
        arguments: list[str | Path] = ["add", folder, "--onnx", files.onnx, "--golden", files.golden]
        arguments += ["--baseline-data", files.train, *facts.arguments()]
        if files.held_out is not None:
            arguments += ["--label-column", "label", "--labelled-data", files.held_out]
        try:
            return run(arguments)
        except CommandFailed as failed:
            raise ExportFailed(f"leeway add refused the model: {failed}") from failed


def _number(said: str) -> int | None:
    first = said.partition("Added version ")[2].partition(":")[0]
    return int(first) if first.isdigit() else None
