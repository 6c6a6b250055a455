#!/usr/bin/env python3
"""Writes the small ONNX models that the tests load beside the shipped ones, into tests/data/models.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_models.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

OUT = Path(__file__).resolve().parent / "models"


def write(name, nodes, inputs, outputs, initializers=(), opset=18):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    ir_version = 9 if opset < 21 else 10
    model = h.make_model(
        graph, opset_imports=[h.make_opsetid("", opset)], ir_version=ir_version, producer_name="leeway-tests"
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, OUT / f"{name}.onnx")


def value(name, dtype, shape):
    return h.make_tensor_value_info(name, dtype, shape)


def constant(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def identity(name, dtype, shape, opset=18):
    """y = x, to see one element type or one shape travel through the server unchanged."""
    nodes = [h.make_node("Identity", ["x"], ["y"])]
    write(name, nodes, [value("x", dtype, shape)], [value("y", dtype, shape)], opset=opset)


def wide():
    """512 features and ten classes: a linear classifier, so that a request is mostly features."""
    weights = np.random.default_rng(1).normal(0, 0.05, (512, 10)).astype(np.float32)
    write(
        "wide",
        [h.make_node("MatMul", ["x", "weights"], ["logits"]), h.make_node("Softmax", ["logits"], ["probabilities"])],
        [value("x", T.FLOAT, ["n", 512])],
        [value("probabilities", T.FLOAT, ["n", 10])],
        [constant("weights", weights)],
    )


def work():
    """Costs time in proportion to its input: max(iterations) times a 64x64 matrix product. y = iterations."""
    weights = constant("weights", (np.eye(64) * 0.5).astype(np.float32))
    body = h.make_graph(
        [
            h.make_node("MatMul", ["state_in", "weights"], ["product"]),
            h.make_node("Tanh", ["product"], ["state_out"]),
            h.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [value("i", T.INT64, []), value("go_in", T.BOOL, []), value("state_in", T.FLOAT, [64, 64])],
        [value("go_out", T.BOOL, []), value("state_out", T.FLOAT, [64, 64])],
    )
    write(
        "work",
        [
            h.make_node("ReduceMax", ["iterations"], ["most"], keepdims=0),
            h.make_node("Loop", ["most", "go", "start"], ["end"], body=body),
            h.make_node("ReduceSum", ["end"], ["sum"], keepdims=0),
            h.make_node("Mul", ["sum", "zero"], ["nothing"]),
            h.make_node("Cast", ["iterations"], ["asked"], to=T.FLOAT),
            h.make_node("Add", ["asked", "nothing"], ["y"]),
        ],
        [value("iterations", T.INT64, ["n"])],
        [value("y", T.FLOAT, ["n"])],
        [
            weights,
            constant("start", np.ones((64, 64), np.float32)),
            constant("go", np.asarray(True)),
            constant("zero", np.asarray(0, np.float32)),
        ],
    )


def dense(name, width, layers):
    """Costs time in proportion to its rows, as a network of dense layers does: `layers` times a product with the same
    width x width matrix. Each row of y is the mean of its row of x, once per class."""
    body = h.make_graph(
        [
            h.make_node("MatMul", ["state_in", "weights"], ["product"]),
            h.make_node("Relu", ["product"], ["state_out"]),
            h.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "layer",
        [value("i", T.INT64, []), value("go_in", T.BOOL, []), value("state_in", T.FLOAT, ["n", width])],
        [value("go_out", T.BOOL, []), value("state_out", T.FLOAT, ["n", width])],
    )
    # Weights of one value are computed when the model is loaded, so that its file is small.
    fill = {
        part: onnx.helper.make_tensor(part, T.FLOAT, [1], [fraction])
        for part, fraction in {"widen_value": 1 / 8, "layer_value": 1 / width, "narrow_value": 1 / width}.items()
    }
    write(
        name,
        [
            h.make_node("ConstantOfShape", ["widen_shape"], ["widen"], value=fill["widen_value"]),
            h.make_node("ConstantOfShape", ["layer_shape"], ["weights"], value=fill["layer_value"]),
            h.make_node("ConstantOfShape", ["narrow_shape"], ["narrow"], value=fill["narrow_value"]),
            h.make_node("MatMul", ["x", "widen"], ["start"]),
            h.make_node("Loop", ["layers", "go", "start"], ["end"], body=body),
            h.make_node("MatMul", ["end", "narrow"], ["probabilities"]),
        ],
        [value("x", T.FLOAT, ["n", 8])],
        [value("probabilities", T.FLOAT, ["n", 2])],
        [
            constant("widen_shape", np.asarray([8, width])),
            constant("layer_shape", np.asarray([width, width])),
            constant("narrow_shape", np.asarray([width, 2])),
            constant("layers", np.asarray(layers)),
            constant("go", np.asarray(True)),
        ],
    )


def plus(name, number, location=None):
    """y = x + number, so that an answer shows which version made it; the number may be in a file of its own."""
    graph = h.make_graph(
        [h.make_node("Add", ["x", "number"], ["y"])],
        name,
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, ["n", 2])],
        [constant("number", np.full(2, number, np.float32))],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9, producer_name="leeway-tests")
    path = OUT / f"{name}.onnx"
    if location is None:
        onnx.save(model, path)
    else:
        (OUT / location).unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def classifier_head(prefix, names, sign=1.0):
    """Scores of x [n, 2] for some classes, and the name of the class with the highest (or, with sign -1, the lowest)."""
    weights = np.asarray([[1, -1, 0.5], [-0.5, 1, 1]], np.float32)[:, : len(names)]
    nodes = [
        h.make_node("MatMul", ["x", f"{prefix}weights"], [f"{prefix}logits"]),
        h.make_node("Softmax", [f"{prefix}logits"], [f"{prefix}scores"]),
        h.make_node("Mul", [f"{prefix}logits", f"{prefix}sign"], [f"{prefix}signed"]),
        h.make_node("ArgMax", [f"{prefix}signed"], [f"{prefix}place"], axis=1, keepdims=0),
        h.make_node("Gather", [f"{prefix}names", f"{prefix}place"], [f"{prefix}label"]),
    ]
    constants = [
        constant(f"{prefix}weights", weights),
        constant(f"{prefix}sign", np.asarray(sign, np.float32)),
        h.make_tensor(f"{prefix}names", T.STRING, [len(names)], [name.encode() for name in names]),
    ]
    outputs = [value(f"{prefix}label", T.STRING, ["n"]), value(f"{prefix}scores", T.FLOAT, ["n", len(names)])]
    return nodes, outputs, constants


def of_14(name, is_independent):
    """Takes rows of 14 numbers and does not say so: no made-up size is right, and only real requests show it."""
    nodes = [h.make_node("MatMul", ["x", "weights"], ["product"])]
    if is_independent:
        nodes.append(h.make_node("Tanh", ["product"], ["y"]))
    else:
        nodes.append(h.make_node("ReduceMean", ["product", "batch"], ["mean"]))
        nodes.append(h.make_node("Sub", ["product", "mean"], ["y"]))
    weights = np.random.default_rng(2).normal(0, 0.3, (14, 2)).astype(np.float32)
    batch = [] if is_independent else [constant("batch", np.asarray([0]))]
    inputs, outputs = [value("x", T.FLOAT, ["n", "length"])], [value("y", T.FLOAT, ["n", 2])]
    write(name, nodes, inputs, outputs, [constant("weights", weights), *batch])


def bomb():
    """103 bytes that want 16 GiB."""
    write(
        "bomb",
        [
            h.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            h.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0),
            h.make_node("Add", ["x", "most"], ["y"]),
        ],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, ["n", 2])],
        [constant("shape", np.asarray([1 << 32]))],
    )


def endless():
    """A loop that does not come to an end within anybody's lifetime."""
    body = h.make_graph(
        [
            h.make_node("Identity", ["go_in"], ["go_out"]),
            h.make_node("Cos", ["state_in"], ["state_out"]),
        ],
        "body",
        [value("i", T.INT64, []), value("go_in", T.BOOL, []), value("state_in", T.FLOAT, ["n", 2])],
        [value("go_out", T.BOOL, []), value("state_out", T.FLOAT, ["n", 2])],
    )
    write(
        "endless",
        [h.make_node("Loop", ["times", "go", "x"], ["y"], body=body)],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, ["n", 2])],
        [constant("times", np.asarray(1 << 62)), constant("go", np.asarray(True))],
    )


def misdeclared():
    """y is declared as [n, 1], and is [n, 3], as skl2onnx declares forests with several targets: y = [1, 2, 3]."""
    trees = h.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=3,
        nodes_treeids=[0],
        nodes_nodeids=[0],
        nodes_featureids=[0],
        nodes_modes=["LEAF"],
        nodes_values=[0.0],
        nodes_truenodeids=[0],
        nodes_falsenodeids=[0],
        target_treeids=[0, 0, 0],
        target_nodeids=[0, 0, 0],
        target_ids=[0, 1, 2],
        target_weights=[1.0, 2.0, 3.0],
    )
    graph = h.make_graph([trees], "misdeclared", [value("x", T.FLOAT, ["n", 2])], [value("y", T.FLOAT, ["n", 1])])
    opsets = [h.make_opsetid("", 18), h.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(h.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="leeway-tests"), OUT / "misdeclared.onnx")


def main():
    misdeclared()
    OUT.mkdir(exist_ok=True)
    for name, dtype in {
        "float32": T.FLOAT, "float64": T.DOUBLE, "float16": T.FLOAT16, "bfloat16": T.BFLOAT16,
        "int8": T.INT8, "int16": T.INT16, "int32": T.INT32, "int64": T.INT64,
        "uint8": T.UINT8, "uint16": T.UINT16, "uint32": T.UINT32, "uint64": T.UINT64,
        "bool": T.BOOL, "string": T.STRING,
    }.items():
        identity(f"echo_{name}", dtype, ["n", 2])
    # Types without buffers of their own in a server. They need a newer opset.
    for name, dtype in {"float8": T.FLOAT8E4M3FN, "int4": T.INT4, "uint4": T.UINT4}.items():
        identity(f"echo_{name}", dtype, ["n", 2], opset=21)
    # Sequences of tensors, taken and given.
    write(
        "echo_list",
        [h.make_node("Identity", ["x"], ["y"]), h.make_node("SequenceLength", ["x"], ["length"])],
        [h.make_tensor_sequence_value_info("x", T.FLOAT, None)],
        [h.make_tensor_sequence_value_info("y", T.FLOAT, None), value("length", T.INT64, [])],
    )
    write("no_inputs", [h.make_node("Identity", ["two"], ["y"])], [], [value("y", T.FLOAT, [2])], [constant("two", np.ones(2, np.float32))])
    wide()
    # An image as large as most classifiers take, and next to nothing to compute.
    write(
        "mean_of_image",
        [h.make_node("GlobalAveragePool", ["x"], ["mean"]), h.make_node("Flatten", ["mean"], ["y"])],
        [value("x", T.FLOAT, ["n", 3, 224, 224])],
        [value("y", T.FLOAT, ["n", 3])],
    )
    identity("echo_scalar", T.FLOAT, ["n"])
    identity("echo_image", T.FLOAT, ["n", 1, 2, 3])
    identity("echo_sequence", T.INT64, ["n", "length"])
    identity("echo_fixed_batch", T.FLOAT, [1, 2])
    identity("echo_batch_of_4", T.FLOAT, [4, 2])
    write("log", [h.make_node("Log", ["x"], ["y"])], [value("x", T.FLOAT, ["n", 2])], [value("y", T.FLOAT, ["n", 2])])
    write(
        "two_inputs",
        [
            h.make_node("Cast", ["count"], ["weight"], to=T.FLOAT),
            h.make_node("Mul", ["x", "weight"], ["scaled"]),
            h.make_node("Identity", ["count"], ["seen"]),
        ],
        [value("x", T.FLOAT, ["n", 2]), value("count", T.INT64, ["n", 1])],
        [value("scaled", T.FLOAT, ["n", 2]), value("seen", T.INT64, ["n", 1])],
    )
    # A table, with an input for each column, as converters write it: the country is not used.
    write(
        "table",
        [h.make_node("Neg", ["age"], ["score"])],
        [value("age", T.FLOAT, ["n", 1]), value("country", T.STRING, ["n", 1])],
        [value("score", T.FLOAT, ["n", 1])],
    )
    write(
        "not_per_row",
        [h.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, [])],
    )
    # An output that has two rows whatever is asked, beside one with a row for each.
    write(
        "constant_beside",
        [h.make_node("Identity", ["x"], ["y"]), h.make_node("Identity", ["two"], ["c"])],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, ["n", 2]), value("c", T.FLOAT, [2])],
        [constant("two", np.ones(2, np.float32))],
    )
    # A recurrent state whose first dimension is none of the rows.
    write(
        "state_beside",
        [h.make_node("ReduceSum", ["h", "layers"], ["sum"], keepdims=0), h.make_node("Add", ["x", "sum"], ["y"])],
        [value("x", T.FLOAT, ["n", 4]), value("h", T.FLOAT, [2, "n", 4])],
        [value("y", T.FLOAT, ["n", 4])],
        [constant("layers", np.asarray([0]))],
    )
    # Whole tensors: a scalar beside a matrix, and an output whose length depends on the values.
    write(
        "above",
        [
            h.make_node("Greater", ["scores", "threshold"], ["is_above"]),
            h.make_node("NonZero", ["is_above"], ["places"]),
            h.make_node("ReduceMax", ["scores"], ["best"], keepdims=0),
        ],
        [value("scores", T.FLOAT, ["m", "n"]), value("threshold", T.FLOAT, [])],
        [value("places", T.INT64, [2, "found"]), value("best", T.FLOAT, [])],
    )
    # Two classifiers in one file, and one whose label is that of its lowest score.
    one, other = classifier_head("a_", ["no", "yes"]), classifier_head("b_", ["cat", "dog", "cow"])
    write("two_heads", one[0] + other[0], [value("x", T.FLOAT, ["n", 2])], one[1] + other[1], one[2] + other[2])
    nodes, outputs, constants = classifier_head("", ["cat", "dog", "cow"], sign=-1.0)
    write("label_contradicts", nodes, [value("x", T.FLOAT, ["n", 2])], outputs, constants)
    of_14("of_14", is_independent=True)
    of_14("of_14_dependent", is_independent=False)
    work()
    dense("dense", width=256, layers=1000)
    dense("dense_deep", width=256, layers=4000)
    for number in (1, 2, 3, 4):
        plus(f"plus_{number}", number)
    plus("plus_5_external", 5, location="plus_5.onnx.data")
    bomb()
    endless()
    print(f"wrote {len(list(OUT.glob('*.onnx')))} models to {OUT}")


if __name__ == "__main__":
    main()
