"""Files that a training script writes next to its ONNX file, so that Leeway can check and monitor the model.

Copy this file next to your script; it needs only Python. Rows may be a pandas DataFrame, a list of dictionaries,
or a list of lists; labels and probabilities may be NumPy arrays or lists.

    write_instances("train.jsonl", train)                   # for leeway add --baseline-data
    write_golden("golden.json", held_out[:10], classes(model.predict(held_out[:10]), probabilities))
    print(columns(train))                                   # a first [[preprocess.columns]] for model.toml
"""

import json
import math
from pathlib import Path


def instances(rows):
    """Returns rows as Leeway accepts them: a missing value (NaN, None, NA) becomes null."""
    if hasattr(rows, "to_dict"):
        rows = rows.to_dict("records")
    return [_plain(row) for row in rows]


def write_instances(path, rows):
    """Writes one JSON instance per line."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in instances(rows))
    Path(path).write_text("".join(lines), encoding="utf-8")


def write_golden(path, rows, predictions, tolerance=1e-4):
    """Writes examples that are checked whenever the version is loaded, so that a wrong export is detected.

    A prediction may leave out members that need not be compared.
    """
    rows, predictions = instances(rows), _plain(list(predictions))
    if len(rows) != len(predictions):
        raise ValueError(f"{len(rows)} rows and {len(predictions)} predictions")
    golden = {"instances": rows, "predictions": predictions, "tolerance": tolerance}
    Path(path).write_text(json.dumps(golden, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def classes(labels, probabilities):
    """Returns predictions as kind = "classifier" makes them: the label and its probability."""
    return [{"label": label, "confidence": max(row)} for label, row in zip(_plain(labels), _plain(probabilities))]


def values(predicted):
    """Returns predictions as kind = "regressor" makes them."""
    return [{"value": value} for value in _plain(predicted)]


def columns(frame):
    """Returns a first [[preprocess.columns]] of kind = "tabular" for the columns of a DataFrame."""
    sections = []
    for name in frame.columns:
        column = frame[name]
        is_number = column.dtype.kind in "iuf"
        lines = ["[[preprocess.columns]]", f"name = {json.dumps(name, ensure_ascii=False)}"]
        if not is_number:
            lines.append('kind = "boolean"' if column.dtype.kind == "b" else 'kind = "text"')
        if column.isna().any():
            lines.append('missing = "nan"' if is_number else 'missing = "missing"')
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _plain(value):
    """Converts values of NumPy or pandas to values of JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # A number of single precision is written in full, as in 0.8999999761581421, and read as the same number.
        return value if math.isfinite(value) else None
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise TypeError(f"{value!r} cannot be part of an instance")
