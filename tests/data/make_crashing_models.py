#!/usr/bin/env python3
"""Writes small ONNX models into tests/data/models that want more than a server has. Two of them add 1 to x, and go wrong
where x has the number 123456 in it:

- crash: ONNX Runtime ends its process (GatherND with a negative batch_dims reads where nothing is).
- hungry: asks for 32 TB.

The memory of the third, attention, grows with the square of the length of its rows, as that of an honest model does.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_crashing_models.py

Written with numpy 2.3.5, onnx 1.20.1.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

OUT = Path(__file__).resolve().parent / "models"


def value(name, shape):
    return h.make_tensor_value_info(name, T.FLOAT, shape)


def constant(name, array):
    return nh.from_array(np.array(array), name)


def model(name, then):
    """y = x + 1 + 0 · (what `then` makes), where one of x is 123456."""
    plain = h.make_graph([h.make_node("Identity", ["zero"], ["none"])], "else", [], [value("none", [])])
    nodes = [
        h.make_node("Equal", ["x", "number"], ["equal"]),
        h.make_node("Cast", ["equal"], ["ones"], to=T.FLOAT),
        h.make_node("ReduceMax", ["ones"], ["m"], keepdims=0),
        h.make_node("Cast", ["m"], ["c"], to=T.BOOL),
        h.make_node("If", ["c"], ["s"], then_branch=then, else_branch=plain),
        h.make_node("Mul", ["s", "zero"], ["nothing"]),
        h.make_node("Add", ["x", "one"], ["x1"]),
        h.make_node("Add", ["x1", "nothing"], ["y"]),
    ]
    constants = [
        constant("number", np.float32(123456)),
        constant("one", np.float32(1)),
        constant("zero", np.float32(0)),
        constant("index", np.array([[3], [7], [1], [-1], [-2], [1]], np.int64)),
        constant("one_64", np.array([1, 1], np.int64)),
        constant("shape", np.array([6, 1], np.int64)),
        constant("cube", np.array([1, 4, 4], np.float32)),
        constant("square", np.zeros((1, 4, 4), np.float32)),
        constant("billions", np.array([4_000_000_000_000], np.int64)),
        constant("all", np.array([0], np.int64)),
    ]
    graph = h.make_graph(nodes, name, [value("x", ["N", 2])], [value("y", ["N", 2])], constants)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9, producer_name="leeway-tests")


def crash():
    then = h.make_graph(
        [
            # By way of m, so that it is not computed when the model is opened.
            h.make_node("Cast", ["m"], ["mi"], to=T.INT64),
            h.make_node("Mul", ["mi", "shape"], ["as"]),
            h.make_node("Reshape", ["index", "as"], ["ix"]),
            h.make_node("Add", ["square", "m"], ["sq"]),
            h.make_node("GatherND", ["sq", "ix"], ["g"], batch_dims=-2),
            h.make_node("Cast", ["g"], ["gf"], to=T.FLOAT),
            h.make_node("ReduceSum", ["gf"], ["ts"], keepdims=0),
        ],
        "then",
        [],
        [value("ts", [])],
    )
    return model("crash", then)


def hungry():
    then = h.make_graph(
        [
            h.make_node("Cast", ["m"], ["mi"], to=T.INT64),
            h.make_node("Mul", ["mi", "billions"], ["size"]),
            h.make_node("ConstantOfShape", ["size"], ["filled"], value=constant("v", np.array([1], np.int64))),
            h.make_node("Cast", ["filled"], ["ff"], to=T.FLOAT),
            h.make_node("ReduceSum", ["ff"], ["ts"], keepdims=0),
        ],
        "then",
        [],
        [value("ts", [])],
    )
    return model("hungry", then)


def attention():
    """y = mean(softmax(x · xᵀ)), which is 1 / length."""
    axis = lambda name, number: constant(name, np.array([number], np.int64))
    nodes = [
        h.make_node("Unsqueeze", ["x", "a2"], ["column"]),
        h.make_node("Unsqueeze", ["x", "a1"], ["row"]),
        h.make_node("MatMul", ["column", "row"], ["product"]),
        h.make_node("Softmax", ["product"], ["weights"], axis=-1),
        h.make_node("ReduceMean", ["weights"], ["mean"], axes=[1, 2], keepdims=0),
        h.make_node("Unsqueeze", ["mean", "a1"], ["y"]),
    ]
    graph = h.make_graph(
        nodes, "attention", [value("x", ["N", "length"])], [value("y", ["N", 1])], [axis("a1", 1), axis("a2", 2)]
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9, producer_name="leeway-tests")


if __name__ == "__main__":
    for made in (crash(), hungry(), attention()):
        onnx.save(made, OUT / f"{made.graph.name}.onnx")
