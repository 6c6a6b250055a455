"""Makes the models of the client tests: `python models.py REPOSITORY` writes a repository with one model for each element type.

`whole_TYPE` returns its inputs, which are whole tensors of ranks 0 to 4. `rows_TYPE` returns its input, which has rows.
`two` has two inputs and two outputs of different types. `slow` takes some hundred milliseconds.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

# Names of element types in the Open Inference Protocol, and in ONNX.
TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
RANKS = range(5)

STAGES = """[preprocess]
kind = "tensor"

[model]
providers = ["cpu"]
workers = 1
intra_op_threads = 1
{model}
[budget]
total_ms = 20000

[postprocess]
kind = "tensor"
"""


def identity(element_type, shapes):
    """A model that returns each of its inputs."""
    inputs = [helper.make_tensor_value_info(f"x{i}", element_type, shape) for i, shape in enumerate(shapes)]
    outputs = [helper.make_tensor_value_info(f"y{i}", element_type, shape) for i, shape in enumerate(shapes)]
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(len(shapes))]
    return helper.make_graph(nodes, "identity", inputs, outputs)


def two():
    """sum = a + a; is_long = (length of the row's text t is not 0)."""
    a = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 3])
    t = helper.make_tensor_value_info("t", TensorProto.INT64, ["n"])
    doubled = helper.make_tensor_value_info("doubled", TensorProto.FLOAT, ["n", 3])
    negated = helper.make_tensor_value_info("negated", TensorProto.INT64, ["n"])
    nodes = [helper.make_node("Add", ["a", "a"], ["doubled"]), helper.make_node("Neg", ["t"], ["negated"])]
    return helper.make_graph(nodes, "two", [a, t], [doubled, negated])


def slow():
    """Some hundred products of matrices, one after the other."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    size = 1024
    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.random((size, size), dtype=np.float32) / size, "w")
    ones = onnx.numpy_helper.from_array(np.ones((1, size), dtype=np.float32), "ones")
    rows = onnx.numpy_helper.from_array(np.ones((256, 1), dtype=np.float32), "rows")
    # [n, 1] → [n, 256, size] → … → [n, 1]
    nodes = [helper.make_node("MatMul", ["x", "ones"], ["h"]),
             helper.make_node("Unsqueeze", ["h", "axis"], ["h1"]),
             helper.make_node("Mul", ["h1", "rows"], ["h2"])]
    axis = onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    last = "h2"
    for step in range(24):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{step}"]))
        last = f"m{step}"
    axes = onnx.numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes")
    nodes += [helper.make_node("ReduceMean", [last, "axes"], ["mean"], keepdims=0),
              helper.make_node("Unsqueeze", ["mean", "axis"], ["y"])]
    return helper.make_graph(nodes, "slow", [x], [y], [weights, ones, rows, axis, axes])


def write(repository, name, graph, model=""):
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx")
    (repository / name / "model.toml").write_text(STAGES.format(model=model))


def main(repository):
    for name, element_type in TYPES.items():
        shapes = [[f"d{rank}{at}" for at in range(rank)] for rank in RANKS]
        write(repository, f"whole_{name}", identity(element_type, shapes), 'rows = "none"\n')
        write(repository, f"rows_{name}", identity(element_type, [["batch", 2, 3]]))
    write(repository, "two", two())
    write(repository, "slow", slow())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
