"""Compares an exported module with PyTorch: on all rows, on few and many at a time, and with other lengths."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from leeway.errors import ExportFailed, ParityFailed
from leeway.exporting.parity import Parity, compare, spread
from leeway.exporting.pytorch.inputs import Inputs
from leeway.exporting.pytorch.reference import Reference
from leeway.exporting.table import module

#: Most rows that are run together, and most numbers of their inputs and outputs.
_CHUNK_ROWS = 256
_CHUNK_VALUES = 4_000_000
#: Numbers of rows that are run together, beside the chunks: one row is where squeeze() removes a dimension too many.
_COUNTS = (1, 2, 5)
_ONLY_TRACED = (
    "the export is right only for the lengths that it was traced with. Find the loop over them, or the number that is computed "
    "from a shape outside of tensor operations, such as by len(), int(), item() or NumPy"
)


class OnnxRuntime:
    """The exported module in ONNX Runtime."""

    def __init__(self, path: Path, outputs: list[str]) -> None:
        onnxruntime = module("onnxruntime", "torch")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._outputs = outputs
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportFailed(f"ONNX Runtime cannot load the exported module: {_reason(error)}") from error

    def run(self, inputs: Inputs) -> dict[str, Any]:
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs.arrays)))


def chunks(inputs: Inputs, values_per_row: int) -> Iterator[Inputs]:
    """Returns the rows in parts that fit into memory."""
    size = max(1, min(_CHUNK_ROWS, _CHUNK_VALUES // max(1, values_per_row)))
    for start in range(0, len(inputs), size):
        yield inputs.take(range(start, min(start + size, len(inputs))))


@dataclass(frozen=True)
class Checks:
    """What an export is held against."""

    reference: Reference
    tolerance: float

    def of_the_module(self, inputs: Inputs) -> dict[str, Any]:
        """Checks that PyTorch itself answers rows alone as it does together. Returns the outputs of five rows."""
        most = max(_COUNTS)
        together = self.answers(_repeated(inputs, most))
        again = self.answers(_repeated(inputs, most))
        if compare(flat(together), flat(again), self.tolerance).differing:
            raise ExportFailed(
                "the module answers the same rows differently each time: something in it is random also in the mode of "
                "evaluation, such as functional.dropout without training=self.training"
            )
        for count in _COUNTS[:-1]:
            for start in range(0, most - count + 1, count):
                places = range(start, start + count)
                alone = self.answers(_repeated(inputs, most).take(places))
                of_all = {name: array[list(places)] for name, array in together.items()}
                parity = compare(flat(of_all), flat(alone), self.tolerance)
                if parity.differing:
                    raise ExportFailed(
                        f"the rows depend on each other: PyTorch itself answers a row by {parity.largest:.2g} differently in "
                        f"a run of {count} than in one of {most}. A server runs rows of several callers together; find the "
                        "operation that works on dimension 0, such as a mean, a softmax, attention or a normalisation"
                    )
        return together

    def answers(self, inputs: Inputs) -> dict[str, Any]:
        """Returns PyTorch's outputs, of which each must have a row for each row of the inputs."""
        count = f"{len(inputs)} {'row' if len(inputs) == 1 else 'rows'}"
        try:
            found = self.reference.run(inputs)
        except ExportFailed:
            raise
        except Exception as error:
            # PyTorch raises errors of every kind.
            types = ", ".join(f"{name} is {array.dtype}" for name, array in inputs.arrays.items())
            raise ExportFailed(f"the module cannot predict {count} of X ({types}): {_reason(error)}") from error
        for name, array in found.items():
            if array.ndim == 0 or len(array) != len(inputs):
                raise ExportFailed(
                    f"the output {name} has the shape {list(array.shape)} for {count}; its first dimension must be that of "
                    "the rows. Where squeeze() removes it, write squeeze(-1); leave out outputs without rows, such as a loss"
                )
        return found

    def all_rows(self, exported: OnnxRuntime, inputs: Inputs, values_per_row: int) -> tuple[Parity, dict[str, Any]]:
        """Compares all rows, and returns PyTorch's outputs."""
        numpy = module("numpy", "torch")
        parts: list[dict[str, Any]] = []
        rows, differing, largest, first = 0, 0, 0.0, None
        for chunk in chunks(inputs, values_per_row):
            expected = self.answers(chunk)
            parity = self._compare(exported, chunk, expected, f"{len(chunk)} rows")
            if first is None and parity.first is not None:
                first = rows + parity.first
            rows, differing, largest = rows + parity.rows, differing + parity.differing, max(largest, parity.largest)
            parts.append(expected)
        outputs = {name: numpy.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Parity(rows, differing, largest, first), outputs

    def row_counts(self, exported: OnnxRuntime, inputs: Inputs, traced: Inputs | None = None) -> None:
        """Compares runs of few rows, for which an exporter may have made constants of what was traced.

        With `traced`, only if the answers to those rows are PyTorch's, so that the number of rows makes the difference.
        """
        if traced is not None and self._compare(exported, traced, self.answers(traced), "the traced rows").differing:
            return
        for count in _COUNTS:
            few = _repeated(inputs, count)
            self._must_equal(exported, few, self.answers(few), f"{count} {'row' if count == 1 else 'rows'}")

    def lengths(self, exported: OnnxRuntime, inputs: Inputs) -> dict[str, list[int]]:
        """Compares other lengths of the dimensions that may change, as far as PyTorch takes them. Returns the lengths."""
        compared: dict[str, list[int]] = {}
        few = _repeated(inputs, 2)
        for dimension, length in inputs.lengths().items():
            taken: dict[int, tuple[Inputs, dict[str, Any]]] = {}
            for other in sorted({1, (length + 1) // 2, length + 1, 2 * length} - {length}):
                changed = few.with_length(dimension, other)
                # PyTorch itself may not take this length.
                with contextlib.suppress(ExportFailed):
                    taken[other] = (changed, self.answers(changed))
            if set(taken) <= {1}:
                # One element is taken for any number of them where shapes are broadcast.
                raise ExportFailed(
                    f"dynamic: PyTorch itself takes no other length of {dimension!r} than {length}. If other inputs have this "
                    "dimension, name it there, too; otherwise leave it out of dynamic"
                )
            for other, (changed, expected) in taken.items():
                self._must_equal(exported, changed, expected, f"{dimension} = {other}")
            compared[dimension] = sorted([length, *taken])
        return compared

    def _must_equal(self, exported: OnnxRuntime, inputs: Inputs, expected: dict[str, Any], what: str) -> None:
        parity = self._compare(exported, inputs, expected, what)
        if parity.differing:
            raise ParityFailed(
                f"with {what}, the exported module answers by {parity.largest:.2g} differently from PyTorch, and the tolerance "
                f"is {self.tolerance:g}; {_ONLY_TRACED}"
            )

    def _compare(self, exported: OnnxRuntime, inputs: Inputs, expected: dict[str, Any], what: str) -> Parity:
        try:
            found = exported.run(inputs)
        except Exception as error:
            raise ParityFailed(
                f"with {what}, ONNX Runtime cannot run the exported module; {_ONLY_TRACED}. ONNX Runtime says: {_reason(error)}"
            ) from error
        for name, array in expected.items():
            if array.shape != found[name].shape:
                raise ParityFailed(
                    f"with {what}, the output {name} has the shape {list(found[name].shape)} in ONNX Runtime, and "
                    f"{list(array.shape)} in PyTorch"
                )
        return compare(flat(expected), flat(found), self.tolerance)


def flat(outputs: dict[str, Any]) -> Any:
    """Returns all outputs as one array with a row for each row."""
    numpy = module("numpy", "torch")
    parts = [array.reshape(len(array), array[:1].size).astype(numpy.float64) for array in outputs.values()]
    return numpy.concatenate(parts, axis=1)


def _repeated(inputs: Inputs, count: int) -> Inputs:
    """Returns rows of X, spread over it; again from the start if it has too few."""
    if len(inputs) >= count:
        return inputs.take(spread(len(inputs), count))
    return inputs.take([place % len(inputs) for place in range(count)])


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
