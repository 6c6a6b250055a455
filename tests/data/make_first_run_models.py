#!/usr/bin/env python3
"""Writes small ONNX models whose first run needs care, into tests/data/first_run.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_first_run_models.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

OUT = Path(__file__).resolve().parent / "first_run"


def write(name, nodes, inputs, outputs, initializers=()):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9, producer_name="leeway-tests")
    OUT.mkdir(exist_ok=True)
    onnx.save(model, OUT / f"{name}.onnx")


def value(name, dtype, shape):
    return h.make_tensor_value_info(name, dtype, shape)


def constant(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def multiples_of_96():
    """Images whose sides must be multiples of 96: y = x + the largest value of each tile of 96 x 96."""
    write(
        "multiples_of_96",
        [
            h.make_node("MaxPool", ["x"], ["tiles"], kernel_shape=[96, 96], strides=[96, 96]),
            h.make_node("Resize", ["tiles", "", "scale"], ["large"], mode="nearest"),
            # Unlike Add, Concat does not broadcast.
            h.make_node("Concat", ["x", "large"], ["both"], axis=1),
            h.make_node("ReduceSum", ["both", "channels"], ["y"], keepdims=1),
        ],
        [value("x", T.FLOAT, ["n", 1, "height", "width"])],
        [value("y", T.FLOAT, ["n", 1, "height", "width"])],
        [constant("scale", np.asarray([1, 1, 96, 96], np.float32)), constant("channels", np.asarray([1]))],
    )


def steps_first():
    """Reads a line of text of any width, as recognisers of characters do: the file declares a row for each image, and the
    model returns a row for every eight columns of the image."""
    write(
        "steps_first",
        [
            h.make_node("Reshape", ["x", "eights"], ["cut"]),
            h.make_node("MatMul", ["cut", "weights"], ["steps"]),
            h.make_node("Unsqueeze", ["steps", "axis"], ["y"]),
        ],
        [value("x", T.FLOAT, [1, "width"])],
        [value("y", T.FLOAT, [1, "steps"])],
        [
            constant("eights", np.asarray([-1, 8])),
            constant("weights", np.random.default_rng(3).normal(0, 1, (8, 5)).astype(np.float32)),
            constant("axis", np.asarray([1])),
        ],
    )


def drops_large():
    """y = the rows of x whose first number is below a million."""
    write(
        "drops_large",
        [
            h.make_node("Gather", ["x", "first"], ["number"], axis=1),
            h.make_node("Less", ["number", "million"], ["is_small"]),
            h.make_node("Compress", ["x", "is_small"], ["y"], axis=0),
        ],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, ["n", 2])],
        [constant("first", np.asarray(0)), constant("million", np.asarray(1e6, np.float32))],
    )


def lower_case():
    """Turns three texts into lower case with the locale en_US.UTF-8, as scikit-learn's TfidfVectorizer does by default."""
    write(
        "lower_case",
        [h.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="en_US.UTF-8")],
        [value("x", T.STRING, [1, 3])],
        [value("y", T.STRING, [1, 3])],
    )


def one_row():
    """y = 2 x, and runs with one row only, although the file declares any number."""
    write(
        "one_row",
        [h.make_node("Reshape", ["x", "shape"], ["row"]), h.make_node("Add", ["row", "row"], ["y"])],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, ["n", 2])],
        [constant("shape", np.asarray([1, 2]))],
    )


def mean_of_the_batch():
    """y = the mean of all rows: one row, whatever is asked."""
    write(
        "mean_of_the_batch",
        [h.make_node("ReduceMean", ["x", "axis"], ["y"], keepdims=1)],
        [value("x", T.FLOAT, ["n", 2])],
        [value("y", T.FLOAT, [1, 2])],
        [constant("axis", np.asarray([0]))],
    )


def sized():
    """y = x in another shape, which is an input: made-up numbers are no shape for it."""
    write(
        "sized",
        [h.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1)],
        [value("x", T.FLOAT, [23 * 29]), value("shape", T.INT64, [2])],
        [value("y", T.FLOAT, ["height", "width"])],
    )


def unknown_rank():
    """y = max(x, 0) for an x of any number of dimensions: the file has no shape for it."""
    write(
        "unknown_rank",
        [h.make_node("Relu", ["x"], ["y"])],
        [value("x", T.FLOAT, None)],
        [value("y", T.FLOAT, None)],
    )


def unit_length(name, rows):
    """y = x / |x|, which is NaN for zeros."""
    write(
        name,
        [
            h.make_node("ReduceL2", ["x", "axis"], ["length"], keepdims=1),
            h.make_node("Div", ["x", "length"], ["y"]),
        ],
        [value("x", T.FLOAT, [rows, 4])],
        [value("y", T.FLOAT, [rows, 4])],
        [constant("axis", np.asarray([1]))],
    )


def logarithm_of_minus_one():
    """y = log(0 x - 1), which is NaN for every x."""
    write(
        "always_nan",
        [
            h.make_node("Mul", ["x", "zero"], ["zeros"]),
            h.make_node("Sub", ["zeros", "one"], ["minus_one"]),
            h.make_node("Log", ["minus_one"], ["y"]),
        ],
        [value("x", T.FLOAT, ["n", 4])],
        [value("y", T.FLOAT, ["n", 4])],
        [constant("zero", np.float32(0)), constant("one", np.float32(1))],
    )


def brightness():
    """The mean of an image of 320 x 320 pixels: its JSON has more than a million characters."""
    write(
        "brightness",
        [h.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        [value("x", T.FLOAT, ["n", 3, 320, 320])],
        [value("y", T.FLOAT, ["n"])],
        [constant("axes", np.asarray([1, 2, 3]))],
    )


if __name__ == "__main__":
    multiples_of_96()
    steps_first()
    drops_large()
    lower_case()
    one_row()
    mean_of_the_batch()
    sized()
    unknown_rank()
    unit_length("unit_length", "n")
    unit_length("unit_length_of_three", 3)
    logarithm_of_minus_one()
    brightness()
