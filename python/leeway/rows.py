"""Rows and predictions as Leeway reads them: instances, golden examples and training data.

Rows may be a pandas or polars DataFrame, a list of dictionaries, or a list of lists; labels and probabilities may be NumPy
arrays or lists. `leeway.export` writes all of these files by itself; a script that exports a model on its own can use them
one by one:

    write_instances("train.jsonl", train)                   # for leeway add --baseline-data
    write_labelled("held_out.jsonl", held_out, truth)       # for --labelled-data, with --label-column label
    write_golden("golden.json", held_out[:200], classes(model.predict(held_out[:200]), probabilities))
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Iterable, Sequence


def instances(rows: Any) -> list[Any]:
    """Returns rows as Leeway accepts them: a missing value (NaN, None, NA) becomes null."""
    if hasattr(rows, "to_dicts"):
        rows = rows.to_dicts()
    elif hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        rows = rows.to_dict("records")
    return [_plain(row) for row in rows]


def write_instances(path: str | Path, rows: Any) -> None:
    """Writes one JSON instance per line."""
    with Path(path).open("w", encoding="utf-8") as file:
        for row in instances(rows):
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_labelled(path: str | Path, rows: Any, labels: Any) -> None:
    """Writes one JSON instance per line with its true class or number, as `label`. A missing label is null."""
    rows, labels = instances(rows), _plain(list(labels))
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows and {len(labels)} labels")
    with Path(path).open("w", encoding="utf-8") as file:
        for row, label in zip(rows, labels):
            file.write(json.dumps({"instance": row, "label": label}, ensure_ascii=False, allow_nan=False) + "\n")


def write_golden(path: str | Path, rows: Any, predictions: Iterable[Any], tolerance: float = 1e-4) -> None:
    """Writes examples that are checked whenever the version is loaded, so that a wrong export is detected.

    A prediction may leave out members that need not be compared.
    """
    rows, expected = instances(rows), _plain(list(predictions))
    if len(rows) != len(expected):
        raise ValueError(f"{len(rows)} rows and {len(expected)} predictions")
    golden = {"instances": rows, "predictions": expected, "tolerance": tolerance}
    Path(path).write_text(json.dumps(golden, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def classes(labels: Sequence[Any], probabilities: Any) -> list[dict[str, Any]]:
    """Returns predictions as kind = "classifier" makes them: the label and its probability."""
    return [{"label": label, "confidence": max(row)} for label, row in zip(_plain(labels), _plain(probabilities))]


def values(predicted: Any) -> list[dict[str, Any]]:
    """Returns predictions as kind = "regressor" makes them."""
    return [{"value": value} for value in _plain(predicted)]


def _plain(value: Any) -> Any:
    """Converts values of NumPy or pandas to values of JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # A number of single precision is written in full, as in 0.8999999761581421, and read as the same number.
        return value if math.isfinite(value) else None
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise TypeError(f"{value!r} cannot be part of an instance")
