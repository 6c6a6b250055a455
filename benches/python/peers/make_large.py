"""Writes a network of 24 dense layers of 2048 x 2048, 403 MB, to a file.

    python make_large.py FILE
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, LAYERS = 2048, 24

random = np.random.default_rng(0)
nodes, weights, last = [], [], "x"
for layer in range(LAYERS):
    matrix = (random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
    weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
    nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
    nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
    last = f"r{layer}"
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH])
graph = helper.make_graph(nodes, "large", [value("x")], [value(last)], weights)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), sys.argv[1])
