#!/usr/bin/env python3
"""Writes small ONNX models whose rows depend on each other into tests/data/rows, and what each answers to requests that
run alone (rows.json).

Requests are run together, so that a model of this kind would answer a caller with what strangers sent. The answers here
are those of onnxruntime to each request alone: whoever gets another one was joined with somebody.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_dependent_models.py

Written with numpy 2.3.5, onnx 1.20.1, onnxruntime 1.31.1.
"""

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from make_models import constant, value
from onnx import TensorProto as T
from onnx import helper as h
from onnxruntime.quantization import QuantType, quantize_dynamic

OUT = Path(__file__).resolve().parent / "rows"

# Requests of 1 to 3 rows in three magnitudes: a dependence between large and small rows is easy to see.
REQUESTS = 16
SCALES = (0.1, 1, 10)


# ===== What all scripts for models beside the shipped ones use =====


def model_of(name, nodes, inputs, outputs, initializers=()):
    """A model of the same opset and IR version as those of make_models.py."""
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9, producer_name="leeway-tests")


def save(model, path):
    """Checks a model and writes the same bytes every time, without what exporters say of the place where they ran."""
    without_notes(model)
    model.ir_version = 9
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    assert path.stat().st_size < 40_000, (path.name, path.stat().st_size)


def without_notes(message):
    """Clears doc_string in a message and all that it holds, and the metadata of everything but the model."""
    for field, content in list(message.ListFields()):
        if field.name == "doc_string" or (field.name == "metadata_props" and not isinstance(message, onnx.ModelProto)):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in content if hasattr(content, "__len__") else [content]:
                without_notes(part)


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def plain(array):
    """Nested lists for JSON. Numbers have as many digits as their type needs, not those of the next double."""
    array = np.asarray(array)
    if array.ndim > 0:
        return [plain(part) for part in array]
    return float(str(array[()])) if array.dtype.kind == "f" else array.item()


def write_json(path, content):
    """One line for each model."""
    lines = (f"{json.dumps(name)}:{json.dumps(part, separators=(',', ':'))}" for name, part in content.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


# ===== The models =====


def rows_times(columns):
    """x and y of [n, columns]."""
    return [value("x", T.FLOAT, ["n", columns])], [value("y", T.FLOAT, ["n", columns])]


def batch_max():
    """y = x / the largest of the batch."""
    return model_of(
        "batch_max",
        [h.make_node("ReduceMax", ["x", "first"], ["most"], keepdims=1), h.make_node("Div", ["x", "most"], ["y"])],
        *rows_times(2),
        [constant("first", np.asarray([0]))],
    )


def time_first_sum():
    """The first dimension is time: each row is added to those before it."""
    return model_of(
        "time_first_sum",
        [h.make_node("CumSum", ["x", "first"], ["y"])],
        [value("x", T.FLOAT, ["time", 1])],
        [value("y", T.FLOAT, ["time", 1])],
        [constant("first", np.asarray(0))],
    )


def time_first_lstm():
    """The default layout of ONNX, and of PyTorch without batch_first: time, then batch."""
    hidden, width = 4, 3
    random = np.random.default_rng(2)
    return model_of(
        "time_first_lstm",
        [
            h.make_node("LSTM", ["x", "weights", "recurrence", "bias"], ["steps"], hidden_size=hidden),
            h.make_node("Squeeze", ["steps", "direction"], ["y"]),
        ],
        [value("x", T.FLOAT, ["time", "batch", width])],
        [value("y", T.FLOAT, ["time", "batch", hidden])],
        [
            constant("weights", random.normal(0, 0.7, (1, 4 * hidden, width)).astype(np.float32)),
            constant("recurrence", random.normal(0, 0.7, (1, 4 * hidden, hidden)).astype(np.float32)),
            constant("bias", random.normal(0, 0.3, (1, 8 * hidden)).astype(np.float32)),
            constant("direction", np.asarray([1])),
        ],
    )


def dense_network(name, sizes=(16, 32, 10), seed=3):
    """A network of dense layers: logits of [n, sizes[-1]]."""
    random = np.random.default_rng(seed)
    nodes, initializers, last = [], [], "x"
    for layer, (width, height) in enumerate(zip(sizes, sizes[1:]), start=1):
        is_last = layer == len(sizes) - 1
        weights = random.normal(0, width**-0.5, (width, height)).astype(np.float32)
        initializers.append(constant(f"weights_{layer}", weights))
        initializers.append(constant(f"bias_{layer}", random.normal(0, 0.1, height).astype(np.float32)))
        nodes.append(h.make_node("MatMul", [last, f"weights_{layer}"], [f"product_{layer}"], name=f"product_{layer}"))
        sum_ = "logits" if is_last else f"sum_{layer}"
        nodes.append(h.make_node("Add", [f"product_{layer}", f"bias_{layer}"], [sum_], name=f"add_{layer}"))
        if not is_last:
            nodes.append(h.make_node("Relu", [sum_], [f"active_{layer}"], name=f"relu_{layer}"))
            last = f"active_{layer}"
    inputs = [value("x", T.FLOAT, ["n", sizes[0]])]
    return model_of(name, nodes, inputs, [value("logits", T.FLOAT, ["n", sizes[-1]])], initializers)


def dynamic_int8():
    """The scale of the activations is that of all rows of a run. Weights have seven bits, so that no processor saturates
    where others do not."""
    path = OUT / "dynamic_int8.onnx"
    quantize_dynamic(dense_network("dynamic_int8"), path, weight_type=QuantType.QInt8, reduce_range=True)
    return onnx.load(path)


def batch_norm():
    """What batch normalisation does that was left in training mode, as its export in single nodes has it."""
    return model_of(
        "batch_norm",
        [
            h.make_node("ReduceMean", ["x", "first"], ["mean"], keepdims=1),
            h.make_node("Sub", ["x", "mean"], ["centred"]),
            h.make_node("Mul", ["centred", "centred"], ["squares"]),
            h.make_node("ReduceMean", ["squares", "first"], ["variance"], keepdims=1),
            h.make_node("Add", ["variance", "epsilon"], ["positive"]),
            h.make_node("Sqrt", ["positive"], ["deviation"]),
            h.make_node("Div", ["centred", "deviation"], ["normal"]),
            h.make_node("Mul", ["normal", "scale"], ["scaled"]),
            h.make_node("Add", ["scaled", "bias"], ["y"]),
        ],
        *rows_times(4),
        [
            constant("first", np.asarray([0])),
            constant("epsilon", np.asarray(1e-5, np.float32)),
            constant("scale", np.asarray([1, 0.5, 2, 1.5], np.float32)),
            constant("bias", np.asarray([0, 0.1, -0.2, 0.3], np.float32)),
        ],
    )


def batch_norm_training():
    """The node itself in training mode. What it has learnt so far goes unused."""
    return model_of(
        "batch_norm_training",
        [
            h.make_node(
                "BatchNormalization",
                ["x", "scale", "bias", "mean", "variance"],
                ["y", "running_mean", "running_variance"],
                training_mode=1,
            )
        ],
        *rows_times(4),
        [
            constant("scale", np.asarray([1, 0.5, 2, 1.5], np.float32)),
            constant("bias", np.asarray([0, 0.1, -0.2, 0.3], np.float32)),
            constant("mean", np.zeros(4, np.float32)),
            constant("variance", np.ones(4, np.float32)),
        ],
    )


def top_k():
    """Of each column the two largest values of the batch stay, the others become 0. There may be one row only."""
    return model_of(
        "top_k",
        [
            h.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            h.make_node("Min", ["rows", "two"], ["kept"]),
            h.make_node("TopK", ["x", "kept"], ["largest", "places"], axis=0),
            h.make_node("ReduceMin", ["largest", "first"], ["least"], keepdims=1),
            h.make_node("GreaterOrEqual", ["x", "least"], ["stays"]),
            h.make_node("Where", ["stays", "x", "zero"], ["y"]),
        ],
        *rows_times(2),
        [
            constant("two", np.asarray([2])),
            constant("first", np.asarray([0])),
            constant("zero", np.asarray(0, np.float32)),
        ],
    )


def sorted_columns():
    """Each column sorted over the batch, the largest first."""
    return model_of(
        "sorted",
        [
            h.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            h.make_node("TopK", ["x", "rows"], ["y", "places"], axis=0),
        ],
        *rows_times(2),
    )


def count():
    """y = x / the number of rows: the values of the other rows do not matter, only how many there are."""
    return model_of(
        "count",
        [
            h.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            h.make_node("Cast", ["rows"], ["divisor"], to=T.FLOAT),
            h.make_node("Div", ["x", "divisor"], ["y"]),
        ],
        *rows_times(2),
    )


def offset():
    """y = 1000 + 0.01 * (x - the mean of the batch): a dependence that is small beside the numbers."""
    return model_of(
        "offset",
        [
            h.make_node("ReduceMean", ["x", "first"], ["mean"], keepdims=1),
            h.make_node("Sub", ["x", "mean"], ["centred"]),
            h.make_node("Mul", ["centred", "factor"], ["small"]),
            h.make_node("Add", ["small", "thousand"], ["y"]),
        ],
        *rows_times(2),
        [
            constant("first", np.asarray([0])),
            constant("factor", np.asarray(0.01, np.float32)),
            constant("thousand", np.asarray(1000, np.float32)),
        ],
    )


def random():
    """y = x + noise of 0 to 0.5, other noise in each run."""
    return model_of(
        "random",
        [
            h.make_node("RandomUniformLike", ["x"], ["noise"], low=0.0, high=0.5),
            h.make_node("Add", ["x", "noise"], ["y"]),
        ],
        *rows_times(2),
    )


def argmax_only():
    """The column in which a row is the furthest above the mean of the batch: the dependence seldom shows."""
    return model_of(
        "argmax_only",
        [
            h.make_node("ReduceMean", ["x", "first"], ["mean"], keepdims=1),
            h.make_node("Sub", ["x", "mean"], ["scores"]),
            h.make_node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0),
        ],
        [value("x", T.FLOAT, ["n", 3])],
        [value("y", T.INT64, ["n"])],
        [constant("first", np.asarray([0]))],
    )


def no_mask_mean():
    """Of texts, the mean of all tokens, and the padding with them: who is joined with a longer text is padded."""
    vectors = np.random.default_rng(4).normal(0, 1, (185, 4)).astype(np.float32)
    return model_of(
        "no_mask_mean",
        [
            h.make_node("Gather", ["vectors", "input_ids"], ["embedded"]),
            h.make_node("ReduceMean", ["embedded", "tokens_axis"], ["embedding"], keepdims=0),
        ],
        [value("input_ids", T.INT64, ["rows", "tokens"])],
        [value("embedding", T.FLOAT, ["rows", 4])],
        [constant("vectors", vectors), constant("tokens_axis", np.asarray([1]))],
    )


def requests_for(name, shape):
    """For an input of [n, *shape], requests of 1 to 3 rows; for token ids, of rows of one length in each request."""
    random_ = np.random.default_rng([5, *name.encode()])
    for index in range(REQUESTS):
        rows, scale = 1 + index // 3 % 3, SCALES[index % 3]
        if name == "no_mask_mean":
            yield random_.integers(1, 50, (rows, 1 + index * 5 % 12))
        else:
            yield (random_.normal(0, 1, (rows, *shape)) * scale).round(4).astype(np.float32)


def main():
    # The quantiser would have models prepared for it first, which these do not need.
    logging.disable(logging.WARNING)
    OUT.mkdir(exist_ok=True)
    golden = {}
    for make in (
        batch_max, time_first_sum, time_first_lstm, dynamic_int8, batch_norm, batch_norm_training, top_k, sorted_columns,
        count, offset, random, argmax_only, no_mask_mean,
    ):
        model = make()
        name = model.graph.name if make is not dynamic_int8 else "dynamic_int8"
        path = OUT / f"{name}.onnx"
        save(model, path)
        running = session(path)
        [given] = running.get_inputs()
        [answered] = running.get_outputs()
        # An open dimension within a row is 1 here: one batch of the LSTM.
        requests = list(requests_for(name, [length if isinstance(length, int) else 1 for length in given.shape[1:]]))
        expected = [running.run([answered.name], {given.name: request})[0] for request in requests]
        for request, answers in zip(requests, expected):
            assert len(request) == len(answers) and np.isfinite(answers).all(), name
        # All together the answers differ, or the model would not belong here.
        longest = max(request.shape[1] for request in requests)
        padded = [np.pad(rows, [(0, 0), (0, longest - rows.shape[1])] + [(0, 0)] * (rows.ndim - 2)) for rows in requests]
        together = running.run([answered.name], {given.name: np.concatenate(padded)})[0]
        assert not np.allclose(together, np.concatenate(expected), rtol=1e-7), name
        golden[name] = {
            "requests": [plain(request) for request in requests],
            "expected": None if name == "random" else [plain(answers) for answers in expected],
        }
    write_json(OUT / "rows.json", golden)
    print(f"wrote {len(golden)} models to {OUT}")


if __name__ == "__main__":
    main()
