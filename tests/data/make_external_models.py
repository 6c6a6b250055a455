#!/usr/bin/env python3
"""Writes small ONNX models that keep a weight in another file, at every place where ONNX lets a tensor stand, into
tests/data/external. Each adds [1.5, -2] to its input; the weight's bytes are those of tests/data/external/weights.bin.

The location is the name of a file that also lies in the checkout (Cargo.toml): whoever looks for it there, and not in the
version, answers with other numbers.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_external_models.py

Written with numpy 2.3.5, onnx 1.20.1.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

OUT = Path(__file__).resolve().parent / "external"
LOCATION = "Cargo.toml"
WEIGHT = np.array([1.5, -2], np.float32)
# The weight is not at the beginning of its file.
OFFSET = 4


def value(name, shape, of=T.FLOAT):
    return h.make_tensor_value_info(name, of, shape)


def external(name, dims=(2,), of=T.FLOAT, entries=None):
    tensor = T(name=name, data_type=of, dims=dims, data_location=T.EXTERNAL)
    for key, text in entries or [("location", LOCATION), ("offset", str(OFFSET)), ("length", "8")]:
        tensor.external_data.add(key=key, value=text)
    return tensor


def sparse(name):
    return h.make_sparse_tensor(external(name), nh.from_array(np.array([0, 1], np.int64), name + "_at"), [2])


def graph(name, nodes, outputs, inputs=(), initializers=(), sparse_initializers=()):
    return h.make_graph(
        nodes, name, list(inputs), list(outputs), list(initializers), sparse_initializer=list(sparse_initializers)
    )


def model(nodes, initializers=(), sparse_initializers=(), functions=()):
    """y = x + w, where the nodes make w."""
    main = graph(
        "g",
        [*nodes, h.make_node("Add", ["x", "w"], ["y"])],
        [value("y", ["N", 2])],
        [value("x", ["N", 2])],
        initializers,
        sparse_initializers,
    )
    opsets = [h.make_opsetid("", 18), *([h.make_opsetid("own", 1)] if functions else [])]
    return h.make_model(main, opset_imports=opsets, ir_version=9, functions=list(functions), producer_name="leeway-tests")


TRUE = nh.from_array(np.array(True), "true")
ONE = nh.from_array(np.array(1, np.int64), "one")


def branch(name, initializers=(), nodes=None):
    nodes = nodes or [h.make_node("Identity", ["b"], [name + "_out"])]
    return graph(name, nodes, [value(name + "_out", [2])], initializers=initializers)


def if_with(then, otherwise=None, outputs=("w",)):
    plain = branch("else", [nh.from_array(WEIGHT, "b")])
    return h.make_node("If", ["true"], list(outputs), then_branch=then, else_branch=otherwise or plain)


def constant(name, **attribute):
    return h.make_node("Constant", [], [name], **attribute)


def loop():
    body = graph(
        "body",
        [h.make_node("Identity", ["go"], ["go_on"]), h.make_node("Add", ["sum", "b"], ["sum_out"])],
        [value("go_on", [], T.BOOL), value("sum_out", [2])],
        [value("turn", [], T.INT64), value("go", [], T.BOOL), value("sum", [2])],
        [external("b")],
    )
    return h.make_node("Loop", ["one", "true", "zeros"], ["w"], body=body)


def scan():
    body = graph(
        "body",
        [h.make_node("Add", ["sum", "b"], ["sum_out"]), h.make_node("Identity", ["row"], ["row_out"])],
        [value("sum_out", [2]), value("row_out", [2])],
        [value("sum", [2]), value("row", [2])],
        [external("b")],
    )
    return h.make_node("Scan", ["zeros", "a_row"], ["w", "unused"], body=body, num_scan_inputs=1)


def function(node):
    return h.make_function("own", "Weight", [], ["w"], node, [h.make_opsetid("", 18)])


ZEROS = nh.from_array(np.zeros(2, np.float32), "zeros")
A_ROW = nh.from_array(np.zeros((1, 2), np.float32), "a_row")
TWO = nh.from_array(np.array([2], np.int64), "two")

MODELS = {
    "initializer": model([], [external("w")]),
    "constant": model([constant("w", value=external("w"))]),
    "sparse_initializer": model([h.make_node("Identity", ["s"], ["w"])], sparse_initializers=[sparse("s")]),
    "sparse_constant": model([constant("w", sparse_value=sparse("w"))]),
    "branch": model([if_with(branch("then", [external("b")]))], [TRUE]),
    "branch_constant": model([if_with(branch("then", nodes=[constant("then_out", value=external("c"))]))], [TRUE]),
    "nested_branch": model(
        [if_with(branch("then", nodes=[if_with(branch("inner", [external("b")]), outputs=["then_out"])]))], [TRUE]
    ),
    "loop": model([loop()], [TRUE, ONE, ZEROS]),
    "scan": model([scan()], [ZEROS, A_ROW]),
    "function_constant": model(
        [h.make_node("Weight", [], ["w"], domain="own")], functions=[function([constant("w", value=external("c"))])]
    ),
    "function_branch": model(
        [h.make_node("Weight", [], ["w"], domain="own")],
        functions=[
            function(
                [constant("true", value=nh.from_array(np.array(True))), if_with(branch("then", [external("b")]))]
            )
        ],
    ),
    "fill": model(
        [
            h.make_node("ConstantOfShape", ["two"], ["filled"], value=external("v", (1,), entries=[
                ("location", LOCATION), ("offset", str(OFFSET)), ("length", "4")])),
            h.make_node("Mul", ["filled", "by"], ["w"]),
        ],
        [TWO, nh.from_array(np.array([1, -2 / 1.5], np.float32), "by")],
    ),
}


def strict(entries, dims=(2,), of=T.FLOAT):
    """A weight in a branch that is not as it should be."""
    return model([if_with(branch("then", [external("b", dims, of, entries)]))], [TRUE])


def both():
    """A weight that says both that its data are here and that they are elsewhere."""
    weight = external("b")
    weight.data_location = T.DEFAULT
    weight.raw_data = WEIGHT.tobytes()
    return model([if_with(branch("then", [weight]))], [TRUE])


HERE = ("location", LOCATION)
WRONG = {
    "wrong_two_locations": strict([HERE, ("location", "other.bin"), ("offset", "4"), ("length", "8")]),
    "wrong_beyond_the_end": strict([HERE, ("offset", "12"), ("length", "8")]),
    "wrong_length": strict([HERE, ("offset", "4"), ("length", "4")]),
    "wrong_offset": strict([HERE, ("offset", "-4")]),
    "wrong_no_location": strict([("offset", "4")]),
    "wrong_texts": strict([HERE], of=T.STRING),
    "wrong_shape": strict([HERE], dims=(-1, 2)),
    "wrong_huge_shape": strict([HERE], dims=(1 << 40, 1 << 40)),
    "wrong_outside": strict([("location", "../Cargo.toml"), ("length", "8")]),
    "wrong_absolute": strict([("location", "/etc/hostname"), ("length", "8")]),
    # What ONNX Runtime writes itself for data in its memory.
    "wrong_address": model([], [external("w", entries=[("location", "*/_ORT_MEM_ADDR_/*"), ("length", "8")])]),
    "wrong_long": strict([("location", "w" * 5000), ("length", "8")]),
    "wrong_both": both(),
}


def repeated():
    """A file of 16 MiB that a model has in it 130 times."""
    weight = lambda name: external(name, (1 << 22,), entries=[("location", "weights.bin")])
    return model([if_with(branch("then", [weight(f"b{turn}") for turn in range(130)]))], [TRUE])


def twice():
    """A branch that occurs twice in its attribute, which readers merge."""
    whole = model([if_with(branch("then", [external("b")]))], [TRUE])
    attribute = whole.graph.node[0].attribute[0]
    copy = attribute.g.SerializeToString()
    attribute.g.Clear()
    attribute.ClearField("g")
    # Field 6, length-delimited, two times.
    field = b"\x32" + encoded(len(copy)) + copy
    encoding = attribute.SerializeToString() + field + field
    return splice(whole, attribute, encoding)


def encoded(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def splice(whole, attribute, encoding):
    """The model with this encoding in place of an attribute of its first node."""
    node = whole.graph.node[0]
    rest = [a.SerializeToString() for a in node.attribute if a is not attribute]
    del node.attribute[:]
    node_bytes = node.SerializeToString() + b"".join(
        b"\x2a" + encoded(len(part)) + part for part in [encoding, *rest]
    )
    graph_copy = whole.graph
    del graph_copy.node[0]
    graph_bytes = b"\x0a" + encoded(len(node_bytes)) + node_bytes + graph_copy.SerializeToString()
    whole.ClearField("graph")
    return whole.SerializeToString() + b"\x3a" + encoded(len(graph_bytes)) + graph_bytes


def main():
    OUT.mkdir(exist_ok=True)
    (OUT / "weights.bin").write_bytes(b"\0" * OFFSET + WEIGHT.tobytes())
    for name, made in {**MODELS, **WRONG, "repeated": repeated()}.items():
        (OUT / f"{name}.onnx").write_bytes(made.SerializeToString())
    (OUT / "wrong_part_twice.onnx").write_bytes(twice())


if __name__ == "__main__":
    main()
