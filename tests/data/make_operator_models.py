#!/usr/bin/env python3
"""Writes tests/data/operators/add_one.onnx: a model with the operator of tests/data/custom_operator.c, which ONNX Runtime
does not have.

Run by hand; the product is committed:

    pip install onnx==1.20.1
    python tests/data/make_operator_models.py
"""

from pathlib import Path

import onnx
from onnx import TensorProto as T
from onnx import helper as h

OUT = Path(__file__).resolve().parent / "operators"


def main():
    OUT.mkdir(exist_ok=True)
    graph = h.make_graph(
        [h.make_node("AddOne", ["x"], ["y"], domain="leeway.tests")],
        "add_one",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 2])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n", 2])],
    )
    opsets = [h.make_opsetid("", 18), h.make_opsetid("leeway.tests", 1)]
    onnx.save(h.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="leeway-tests"), OUT / "add_one.onnx")


if __name__ == "__main__":
    main()
