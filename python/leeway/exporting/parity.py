"""Runs an exported model as Leeway will, and compares its answers with the framework's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from leeway.exporting.conversion import Converted
from leeway.exporting.reference import Reference
from leeway.exporting.table import Table, module


@dataclass(frozen=True)
class Parity:
    """How far the answers of two models are from each other."""

    rows: int
    #: Rows with a number that differs by more than tolerance · max(1, |expected|), or with another class.
    differing: int
    #: Largest difference, divided by max(1, |expected|).
    largest: float
    #: The first row that differs.
    first: int | None


class Session:
    """The exported model in ONNX Runtime."""

    def __init__(self, converted: Converted, table: Table, reference: Reference) -> None:
        onnxruntime = module("onnxruntime", "sklearn")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(converted.onnx, options, providers=["CPUExecutionProvider"])
        self._converted, self._table, self._reference = converted, table, reference

    def predict(self, frame: Any) -> Any:
        """Returns scores or numbers, as `Reference.predict` does."""
        numpy = module("numpy", "sklearn")
        converted, columns = self._converted, self._table.columns
        cells = [column.cells(frame[name], converted.dtype) for column, name in zip(columns, frame.columns)]
        if converted.matrix is not None:
            feeds = {converted.matrix: numpy.stack(cells, axis=1)}
        else:
            named = {column.name: cell for column, cell in zip(columns, cells)}
            feeds = {name: named[column][:, None] for column, name in (converted.inputs or {}).items()}
        (answer,) = self._session.run([converted.output], feeds)
        if isinstance(answer, list):
            # A list of maps from class to score (ZipMap).
            classes = list(answer[0]) if answer else []
            answer = [[row[name] for name in classes] for row in answer]
        scores = numpy.asarray(answer, dtype=numpy.float64)
        scores = scores.reshape(len(scores), -1)
        if self._reference.is_classifier and scores.shape[1] == 1:
            scores = numpy.concatenate([1 - scores, scores], axis=1)
        return scores


def compare(expected: Any, found: Any, tolerance: float) -> Parity:
    """Compares answers, row by row."""
    numpy = module("numpy", "sklearn")
    if expected.shape != found.shape:
        return Parity(len(expected), len(expected), float("inf"), 0)
    if expected.size == 0:
        return Parity(len(expected), 0, 0.0, None)
    # NaN is equal to NaN only.
    both_nan = numpy.isnan(expected) & numpy.isnan(found)
    off = numpy.where(both_nan, 0.0, numpy.abs(expected - found) / numpy.maximum(1.0, numpy.abs(expected)))
    off = numpy.where(numpy.isnan(off), numpy.inf, off)
    by_row = off.max(axis=1)
    differing = numpy.flatnonzero(by_row > tolerance)
    return Parity(len(expected), len(differing), float(by_row.max()), int(differing[0]) if len(differing) else None)


def spread(count: int, most: int) -> Sequence[int]:
    """Returns at most `most` places of `count` rows, evenly spread."""
    if count <= most:
        return range(count)
    return [place * count // most for place in range(most)]
