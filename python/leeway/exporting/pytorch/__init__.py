"""Modules of PyTorch, by its own exporter. Each argument of `forward` is an input, with the rows in the first dimension.

The exporter traces: what the code computes from shapes may become a constant. So answers are compared not only on all rows,
but also on other numbers of rows, and with other lengths.
"""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Sequence

from leeway import rows
from leeway.errors import ExportFailed, ParityFailed
from leeway.exporting.model_toml import module_toml
from leeway.exporting.parity import Parity, spread
from leeway.exporting.pytorch.inputs import Inputs, inputs_of
from leeway.exporting.pytorch.parity import Checks, OnnxRuntime
from leeway.exporting.pytorch.predictions import Predictions, Truth, predictions_of
from leeway.exporting.pytorch.reference import Reference, check_types, checked, evaluation
from leeway.exporting.pytorch.tracing import trace
from leeway.exporting.table import module
from leeway.exporting.version import Exported, Facts, Files, Sizes, make_version

#: Rows on which answers are compared, and numbers of their inputs and outputs, which are kept in memory.
_PARITY_ROWS = 20_000
_PARITY_VALUES = 50_000_000
#: Numbers in the golden examples: about 40 MB of JSON.
_GOLDEN_VALUES = 2_000_000
#: Numbers in the rows that the baseline is made of: at most 1 GB.
_BASELINE_VALUES = 250_000_000
#: Rows that are traced. One would be taken for a constant.
_TRACED_ROWS = 3
#: Numbers far from those of X are so many times as large.
_FAR = 1000.0


@dataclass(frozen=True)
class Meaning:
    """What the user says of a module that neither the module nor X has."""

    #: The classes in the order of the scores.
    classes: Sequence[Any] | None
    #: Other names for them.
    labels: Sequence[Any] | None
    #: Names of the dimensions whose length may change, by input and position.
    dynamic: Mapping[Any, Any]


def export_module(
    given: Any, X: Any, y: Any, model_dir: Path, meaning: Meaning, tolerance: float, facts: Facts, sizes: Sizes
) -> Exported:
    """Makes a module the next version of the model in a folder."""
    for package in ("onnx", "onnxscript"):
        module(package, "torch")
    reference = Reference(checked(given))
    inputs = inputs_of(X, reference.module.forward, meaning.dynamic)
    check_types(reference, inputs)
    truth = None if y is None else Truth.of(y, len(inputs))
    # The file may be as large as the weights, so it is written once.
    with tempfile.TemporaryDirectory(prefix="leeway-export-") as made:
        with evaluation(reference.module):
            compared = _compare(reference, inputs, truth, meaning, Path(made) / "model.onnx", tolerance)
        keys, comments = compared.predictions.postprocess(meaning.labels)
        text = module_toml(inputs.shapes(), keys, comments, facts.description)
        name, framework = type(reference.module).__name__, f"PyTorch {module('torch', 'torch').__version__}"
        measured = {} if truth is None else compared.predictions.metrics(truth.values[list(compared.places)])
        writing = _Writing(compared, Path(made) / "model.onnx", meaning.labels, tolerance, sizes)
        version, done = make_version(model_dir, text, facts.completed(name, framework, measured), writing.write)
    report = [compared.summary(name, framework), *done]
    return Exported(model_dir, version, compared.parity, (), "\n".join(report))


@dataclass(frozen=True)
class _Compared:
    """A module that was exported and compared with PyTorch."""

    inputs: Inputs
    #: Rows of the inputs that were compared.
    places: Sequence[int]
    predictions: Predictions
    parity: Parity
    #: Lengths that were compared, by the name of the dimension.
    lengths: dict[str, list[int]]

    def summary(self, name: str, framework: str) -> str:
        kind = {"tensor": "outputs", "regressor": "numbers", "classifier": "scores"}[self.predictions.kind]
        lines = [
            f"{name}, exported by {framework}: the {kind} of all {self.parity.rows} rows are PyTorch's, within "
            f"{self.parity.largest:.1g}, also in runs of 1, 2 and 5 rows.",
            self.predictions.summary(),
        ]
        for dimension, lengths in self.lengths.items():
            lines.append(f"The length of {dimension} is open; compared with {', '.join(map(str, lengths))}.")
        return "\n".join(lines)


def _compare(
    reference: Reference, inputs: Inputs, truth: Truth | None, meaning: Meaning, onnx: Path, tolerance: float
) -> _Compared:
    """Writes the ONNX file of a module, compares it with PyTorch, and finds out what it predicts."""
    checks = Checks(reference, tolerance)
    sample = checks.of_the_module(inputs)
    for name in sample:
        if name in inputs.arrays:
            raise ExportFailed(f"{name} is an input and an output, and no two of them may have one name; rename the output")
    traced = inputs.take([place % len(inputs) for place in range(_TRACED_ROWS)])
    trace(reference, traced, list(sample), onnx)
    exported = OnnxRuntime(onnx, list(sample))
    values = _values_per_row(inputs, sample)
    places = spread(len(inputs), _limited(_PARITY_ROWS, _PARITY_VALUES, values))
    parity, outputs = checks.all_rows(exported, inputs.take(places), values)
    if parity.differing:
        # Says so if the exported module is right for as many rows as were traced.
        checks.row_counts(exported, inputs, traced)
        raise _differing(parity, places)
    checks.row_counts(exported, inputs)
    lengths = checks.lengths(exported, inputs)
    _check_finite(outputs, places)
    predictions = predictions_of(outputs, truth, meaning.classes, meaning.labels, partial(_far, reference, inputs))
    return _Compared(inputs, places, predictions, parity, lengths)


@dataclass(frozen=True)
class _Writing:
    """What the files of a version are written from."""

    compared: _Compared
    onnx: Path
    labels: Sequence[Any] | None
    tolerance: float
    sizes: Sizes

    def write(self, folder: Path) -> Files:
        """Writes the examples and the training rows."""
        numpy = module("numpy", "torch")
        inputs, places, predictions = self.compared.inputs, self.compared.places, self.compared.predictions
        most = _limited(self.sizes.golden_rows, _GOLDEN_VALUES, _values_per_row(inputs, predictions.outputs))
        chosen = spread(len(places), most)
        examples = inputs.take([places[place] for place in chosen]).instances()
        documents = predictions.documents(chosen, self.labels, self.tolerance)
        rows.write_golden(folder / "golden.json", examples, documents, self.tolerance)
        most = _limited(self.sizes.baseline_rows, _BASELINE_VALUES, inputs.values_per_row())
        train = inputs.take(spread(len(inputs), most)).arrays
        path = folder / ("train.npy" if len(train) == 1 else "train.npz")
        if len(train) == 1:
            numpy.save(path, *train.values())
        else:
            # numpy.savez has arguments of its own, whose names an input may have.
            with zipfile.ZipFile(path, "w") as archive:
                for name, array in train.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        numpy.lib.format.write_array(file, array, allow_pickle=False)
        return Files(self.onnx, folder / "golden.json", path)


def _differing(parity: Parity, places: Sequence[int]) -> ParityFailed:
    return ParityFailed(
        f"the exported module answers {parity.differing} of {parity.rows} rows differently from PyTorch, by up to "
        f"{parity.largest:.2g}; the first is row {places[parity.first or 0]}. If so much does not matter, accept it with "
        f"tolerance={parity.largest * 1.01:.2g}; otherwise replace the operation that differs"
    )


def _check_finite(outputs: dict[str, Any], places: Sequence[int]) -> None:
    numpy = module("numpy", "torch")
    for name, array in outputs.items():
        if array.dtype.kind != "f":
            continue
        unusable = numpy.flatnonzero(~numpy.isfinite(array).reshape(len(array), -1).all(axis=1))
        if len(unusable):
            raise ExportFailed(
                f"the output {name} has NaN or infinity for {len(unusable)} of {len(array)} rows, the first of them row "
                f"{places[int(unusable[0])]}; an answer cannot have them"
            )


def _far(reference: Reference, inputs: Inputs) -> dict[str, Any] | None:
    """Returns outputs for numbers far from those of X; None if the inputs have none, or the module does not take them."""
    if all(array.dtype.kind != "f" for array in inputs.arrays.values()):
        return None
    few = inputs.take(spread(len(inputs), 25))
    try:
        return reference.run(few.scaled(_FAR))
    except Exception:
        # The module may check its inputs.
        return None


def _values_per_row(inputs: Inputs, outputs: dict[str, Any]) -> int:
    return inputs.values_per_row() + sum(int(array[:1].size) for array in outputs.values())


def _limited(most_rows: int, most_values: int, values_per_row: int) -> int:
    """Returns the number of rows that are few enough, and have few enough values."""
    return max(1, min(most_rows, most_values // max(1, values_per_row)))
