#!/usr/bin/env python3
"""Writes a small classifier of files into tests/data/bytes (kinds.onnx), and the features and probabilities of some files
(kinds.json). The features are made by magika's own code, with shorter blocks than its model has.

Run by hand in an environment of its own; the products are committed:

    python3 -m venv .venv-bytes
    .venv-bytes/bin/pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 magika==1.0.3
    .venv-bytes/bin/python tests/data/make_byte_models.py
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from magika import Magika
from magika.types import Seekable

OUT = Path(__file__).resolve().parent / "bytes"
BEGINNING, END, PADDING, BLOCK, LEAST = 8, 8, 256, 24, 4


def features(content):
    found = Magika._extract_features_from_seekable(
        Seekable(io.BytesIO(content)), BEGINNING, 0, END, PADDING, BLOCK, False
    )
    return found.beg + found.end


def model():
    helper, random = onnx.helper, np.random.default_rng(20)
    tensor = onnx.numpy_helper.from_array
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["weights", "bytes"], ["rows"]),
            helper.make_node("Mul", ["rows", "places"], ["placed"]),
            helper.make_node("ReduceSum", ["placed", "axis"], ["logits"], keepdims=0),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        "kinds",
        [helper.make_tensor_value_info("bytes", onnx.TensorProto.INT32, ["rows", BEGINNING + END])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["rows", 3])],
        [
            tensor(random.normal(0, 1, (257, 3)).astype(np.float32), "weights"),
            tensor(random.uniform(0.2, 1, (BEGINNING + END, 1)).astype(np.float32), "places"),
            tensor(np.array([1]), "axis"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def files():
    random = np.random.default_rng(4)
    yield b"# A text of more bytes than a block has.\n"
    yield b"\n\t  short \x0b\x0c\r\n"
    yield b"1234"
    yield b"12345678901234567"
    # White space beyond the block stays.
    yield b" " * 20 + b"abcdefgh" + b"\n" * 21
    for length in [8, 23, 24, 25, 300]:
        yield random.integers(0, 256, length, dtype=np.uint8).tobytes()
    yield bytes(range(256))
    yield b"\x00" * 40


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    made = model()
    onnx.save(made, OUT / "kinds.onnx")
    session = onnxruntime.InferenceSession(made.SerializeToString())
    cases = []
    for content in files():
        row = features(content)
        # magika asks its model only if this byte is not padding.
        assert row[LEAST - 1] != PADDING, content
        probabilities = session.run(None, {"bytes": np.array([row], np.int32)})[0][0]
        case = {"b64": base64.b64encode(content).decode(), "features": row, "probabilities": probabilities.tolist()}
        cases.append(case)
    (OUT / "kinds.json").write_text(json.dumps(cases) + "\n")
