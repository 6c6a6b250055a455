#!/usr/bin/env python3
"""Models for the tests of rollouts: versions of one classifier, of which some are worse.

The input x is a number from 0 to 1, and the probabilities of the classes low and high are 1 - x and x. A version that is
worse is so for a known share of the inputs, by the third decimal of x.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_rollout_models.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

FOLDER = Path(__file__).parent / "models"


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def save(name, nodes, constants):
    x = h.make_tensor_value_info("x", T.FLOAT, ["rows", 1])
    probabilities = h.make_tensor_value_info("probabilities", T.FLOAT, ["rows", 2])
    graph = h.make_graph(nodes, name, [x], [probabilities], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9, producer_name="leeway-tests")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FOLDER / f"{name}.onnx")


def classes(high):
    """Nodes that turn the tensor `high` into the probabilities."""
    return [h.make_node("Sub", ["one", high], ["low"]), h.make_node("Concat", ["low", high], ["probabilities"], axis=1)]


def third_decimal_is(digit):
    """Nodes of the tensor `chosen`: whether the third decimal of x is this digit."""
    return [
        h.make_node("Mul", ["x", "thousand"], ["thousands"]),
        h.make_node("Round", ["thousands"], ["rounded"]),
        h.make_node("Mod", ["rounded", "ten"], ["digit"], fmod=1),
        h.make_node("Equal", ["digit", "chosen_digit"], ["chosen"]),
    ], [
        constant("thousand", np.float32(1000)),
        constant("ten", np.float32(10)),
        constant("chosen_digit", np.float32(digit)),
    ]


def slow(name, trips):
    """The classifier after a loop of matrix products, which the answer depends on in no digit."""
    size = 64
    matrix = np.eye(size, dtype=np.float32)
    body = h.make_graph(
        [
            h.make_node("MatMul", ["state", "matrix"], ["next"]),
            h.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            h.make_tensor_value_info("trip", T.INT64, []),
            h.make_tensor_value_info("go", T.BOOL, []),
            h.make_tensor_value_info("state", T.FLOAT, [size, size]),
        ],
        [h.make_tensor_value_info("go_on", T.BOOL, []), h.make_tensor_value_info("next", T.FLOAT, [size, size])],
    )
    nodes = [
        # Depends on x, so that the loop is not computed once for all.
        h.make_node("ReduceMax", ["x"], ["highest"], keepdims=0),
        h.make_node("Mul", ["matrix", "highest"], ["begin"]),
        h.make_node("Loop", ["trips", "yes", "begin"], ["end"], body=body),
        h.make_node("ReduceMin", ["end"], ["least"], keepdims=0),
        h.make_node("Mul", ["least", "zero"], ["nothing"]),
        h.make_node("Add", ["x", "nothing"], ["high"]),
        *classes("high"),
    ]
    constants = [
        constant("matrix", matrix),
        constant("trips", np.int64(trips)),
        constant("yes", np.bool_(True)),
        constant("zero", np.float32(0)),
        constant("one", np.float32(1)),
    ]
    save(name, nodes, constants)


def main():
    one = constant("one", np.float32(1))
    save("low_high", classes("x"), [one])

    chosen, constants = third_decimal_is(3)
    flipped = [h.make_node("Sub", ["one", "x"], ["other"]), h.make_node("Where", ["chosen", "other", "x"], ["high"])]
    save("low_high_flipped", chosen + flipped + classes("high"), [*constants, one])

    chosen, constants = third_decimal_is(3)
    nan = [h.make_node("Where", ["chosen", "nan", "x"], ["high"])]
    save("low_high_nan", chosen + nan + classes("high"), [*constants, one, constant("nan", np.float32("nan"))])

    slow("low_high_slow", 1200)
    slow("low_high_slower", 1560)


if __name__ == "__main__":
    main()
