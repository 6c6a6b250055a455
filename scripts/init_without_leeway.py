#!/usr/bin/env python3
"""The reason why ONNX Runtime does not serve a file in Python either, without Leeway.

`scripts/test_init.py` asks this of each file that `leeway init` did not serve. Standard input has the path of the model, and
for an export also rows and the answers of the library that made it. Prints the reason as JSON if the model cannot be loaded,
does not run on the rows, or answers them with other values than the library; else `null`. A model without rows is only loaded:
that it does not run on made-up inputs would show nothing.
"""

import json
import sys

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_,
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
    "tensor(string)": np.object_,
}


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def inputs_of(session: onnxruntime.InferenceSession, instances: list) -> dict[str, np.ndarray]:
    """Rows as lists of numbers or texts, or as objects with the names of inputs."""
    declared = session.get_inputs()
    if not isinstance(instances[0], dict):
        (only,) = declared
        return {only.name: np.asarray(instances, TYPES[only.type])}
    column = {one.name: [row[one.name] for row in instances] for one in declared}
    return {one.name: np.asarray(column[one.name], TYPES[one.type]).reshape(len(instances), -1) for one in declared}


def is_same(found: object, expected: object, tolerance: float) -> bool:
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return abs(found - expected) <= tolerance * max(1, abs(expected))
    return found == expected


def problem_in_python(model: str, instances: list | None, answers: list | None, tolerance: float) -> str | None:
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"it cannot be loaded: {first_line(error)}"
    if instances is None:
        return None
    try:
        outputs = session.run(None, inputs_of(session, instances))
    except Exception as error:
        return f"it does not run on its rows: {first_line(error)}"
    if answers is None:
        return None
    found = np.asarray(outputs[0]).ravel().tolist()
    if len(found) != len(answers):
        # The answers are of another output, or of a column of it; nothing follows.
        return None
    wrong = [(one, other) for one, other in zip(found, answers) if not is_same(one, other, tolerance)]
    return f"{len(wrong)} of {len(answers)} answers differ; the first is {wrong[0][0]!r}, not {wrong[0][1]!r}" if wrong else None


if __name__ == "__main__":
    print(json.dumps(problem_in_python(**json.load(sys.stdin))))
