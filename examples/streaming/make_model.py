"""Makes the model of this example: an LSTM that reads a stream in chunks, and takes and gives its state.

    pip install onnx==1.20.1 onnxruntime==1.31.1 numpy
    python make_model.py              # detector.onnx, and streams.json with the answers of ONNX Runtime

The weights are random: the example is about the state. A real model has the same signature, for example an `nn.LSTM` of PyTorch.
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
CHUNK, HIDDEN = 8, 6
random = np.random.default_rng(7)


def weights(name, *shape):
    return numpy_helper.from_array((random.standard_normal(shape) * 0.5).astype(np.float32), name)


def value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


graph = helper.make_graph(
    [
        helper.make_node("Unsqueeze", ["samples", "first"], ["sequence"]),
        helper.make_node(
            "LSTM", ["sequence", "w", "r", "", "", "h", "c"], ["", "next_h", "next_c"], hidden_size=HIDDEN
        ),
        helper.make_node("Squeeze", ["next_h", "first"], ["last"]),
        helper.make_node("MatMul", ["last", "head"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ],
    "detector",
    # The state of recurrent layers has the batch in dimension 1, and its name says so.
    [value("samples", "batch", CHUNK), value("h", 1, "batch", HIDDEN), value("c", 1, "batch", HIDDEN)],
    [value("probability", "batch", 1), value("next_h", 1, "batch", HIDDEN), value("next_c", 1, "batch", HIDDEN)],
    [
        weights("w", 1, 4 * HIDDEN, CHUNK),
        weights("r", 1, 4 * HIDDEN, HIDDEN),
        weights("head", HIDDEN, 1),
        numpy_helper.from_array(np.array([0]), "first"),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model)
onnx.save(model, HERE / "detector.onnx")

session = onnxruntime.InferenceSession(HERE / "detector.onnx")
streams = []
for _ in range(16):
    chunks = (random.standard_normal((6, CHUNK)) * 2).astype(np.float32).round(3)
    h = c = np.zeros((1, 1, HIDDEN), np.float32)
    probabilities = []
    for chunk in chunks:
        probability, h, c = session.run(None, {"samples": chunk[None], "h": h, "c": c})
        probabilities.append(float(probability[0, 0]))
    streams.append({"chunks": chunks.astype(float).round(3).tolist(), "probabilities": probabilities})
(HERE / "streams.json").write_text(json.dumps(streams) + "\n")
