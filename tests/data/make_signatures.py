#!/usr/bin/env python3
"""Writes small ONNX models whose inputs and outputs are not one row for each instance in the first dimension into
tests/data/signatures, with the settings that serve them, and what each answers to requests that run alone (signatures.json).

Some are served by rows, which are in another dimension, or beside inputs that are constants. The others are served as whole tensors:
an instance is a call of the model. The answers are those of onnxruntime to each instance alone.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_signatures.py

Written with numpy 2.3.5, onnx 1.20.1, onnxruntime 1.31.1.
"""

from pathlib import Path

import numpy as np
from make_dependent_models import REQUESTS, SCALES, model_of, plain, save, session, write_json
from make_models import constant, value
from onnx import TensorProto as T
from onnx import helper as h

OUT = Path(__file__).resolve().parent / "signatures"
WHOLE = 'rows = "none"\n'

golden = {}
random = np.random.default_rng(20)


def numbers(*shape, scale=1):
    """Numbers that look short in JSON."""
    return random.normal(0, scale, shape).round(3).astype(np.float32)


def add(name, model, served, instances):
    """Writes a model. `served` has the ways to serve it by name: the settings below [model], the dimension of the rows of each input
    and output that instances have (None for a whole tensor), and constants. `instances` makes the instances of a request, from its
    index and a scale."""
    path = OUT / f"{name}.onnx"
    save(model, path)
    running = session(path)
    outputs = [output.name for output in running.get_outputs()]
    requests = [instances(index, SCALES[index % len(SCALES)]) for index in range(REQUESTS)]
    for way, (settings, rows, constants) in served.items():
        of_a_row = lambda key, array: array if rows.get(key, 0) is None else np.take(array, 0, rows.get(key, 0))  # noqa: E731
        asked, expected = [], []
        for request in requests:
            calls = [{key: np.asarray(part) for key, part in one.items()} for one in request]
            asked.append([{key: plain(of_a_row(key, part)) for key, part in one.items() if key not in constants} for one in request])
            answers = [dict(zip(outputs, running.run(outputs, {**one, **constants}))) for one in calls]
            rows_of = [{key: plain(of_a_row(key, answer)) for key, answer in one.items()} for one in answers]
            expected.append([one[outputs[0]] if len(outputs) == 1 else one for one in rows_of])
        assert any(expected[0] != other for other in expected), name
        golden[f"{name}_{way}"] = {"model": name, "settings": settings, "requests": asked, "expected": expected}


def whole(*tensors):
    """Serves whole tensors: none of them has rows."""
    return {"whole": (WHOLE, dict.fromkeys(tensors), {})}


def up_to_three(make):
    """Requests of one to three instances."""
    return lambda index, scale: [make(scale) for _ in range(1 + index % 3)]


def one_by_one(make):
    """Requests of one instance: the whole tensors of several may differ in shape."""
    return lambda index, scale: [make(scale)]


# ===== Rows, and constants beside them =====


def scaled_by_a_scalar():
    """y = x · rate, which has no dimensions."""
    model = model_of(
        "scalar", [h.make_node("Mul", ["x", "rate"], ["y"])], [value("x", T.FLOAT, ["n", 2]), value("rate", T.FLOAT, [])],
        [value("y", T.FLOAT, ["n", 2])],
    )
    fixed = {"rate": np.asarray(0.5, np.float32)}
    add("scalar", model, {"constant": ("[model.inputs.rate]\nvalue = 0.5\n", {}, fixed)}, up_to_three(lambda scale: {"x": numbers(1, 2, scale=scale)}))
    two = one_by_one(lambda scale: {"x": numbers(random.integers(1, 4), 2, scale=scale), "rate": np.asarray(scale * 2, np.float32)})
    add("scalar", model, whole("x", "rate", "y"), two)


def scaled_by_a_vector():
    """y = x · w, with two weights beside the rows."""
    model = model_of(
        "shared", [h.make_node("Mul", ["x", "w"], ["y"])], [value("x", T.FLOAT, ["n", 2]), value("w", T.FLOAT, [2])],
        [value("y", T.FLOAT, ["n", 2])],
    )
    fixed = {"w": np.asarray([3, -4], np.float32)}
    add("shared", model, {"constant": ("[model.inputs.w]\nvalue = [3, -4]\n", {}, fixed)}, up_to_three(lambda scale: {"x": numbers(1, 2, scale=scale)}))
    add("shared", model, whole("x", "w", "y"), one_by_one(lambda scale: {"x": numbers(3, 2, scale=scale), "w": numbers(2)}))


def states():
    """A state of two layers beside the rows: y = x + the sum of the layers; the next state is the state · 0.5. In one file, names of
    dimensions say where the rows are."""
    for name, rows, settings in [
        ("state_named", "batch", ""),
        ("state_unnamed", None, "[model.inputs.h]\nrows = 1\n[model.outputs.next]\nrows = 1\n"),
    ]:
        model = model_of(
            name,
            [
                h.make_node("ReduceSum", ["h", "first"], ["sum"], keepdims=0),
                h.make_node("Add", ["x", "sum"], ["y"]),
                h.make_node("Mul", ["h", "half"], ["next"]),
            ],
            [value("x", T.FLOAT, [rows, 4]), value("h", T.FLOAT, [2, rows, 4])],
            [value("y", T.FLOAT, [rows, 4]), value("next", T.FLOAT, [2, rows, 4])],
            [constant("first", np.asarray([0])), constant("half", np.float32(0.5))],
        )
        make = up_to_three(lambda scale: {"x": numbers(1, 4, scale=scale), "h": numbers(2, 1, 4, scale=scale)})
        add(name, model, {"rows": (settings, {"h": 1, "next": 1}, {})}, make)


def voice_detection():
    """The signature of silero-vad, without names of dimensions: samples, a state [2, n, 3], and a sample rate without dimensions."""
    model = model_of(
        "voice",
        [
            h.make_node("Cast", ["sr"], ["rate"], to=T.FLOAT),
            h.make_node("Div", ["rate", "most"], ["share"]),
            h.make_node("ReduceMean", ["input", "second"], ["mean"], keepdims=1),
            h.make_node("ReduceMean", ["state", "ends"], ["kept"], keepdims=0),
            h.make_node("Unsqueeze", ["kept", "second"], ["before"]),
            h.make_node("Add", ["mean", "before"], ["sum"]),
            h.make_node("Mul", ["sum", "share"], ["scaled"]),
            h.make_node("Sigmoid", ["scaled"], ["output"]),
            h.make_node("Unsqueeze", ["mean", "none"], ["added"]),
            h.make_node("Add", ["state", "added"], ["stateN"]),
        ],
        [value("input", T.FLOAT, [None, None]), value("state", T.FLOAT, [2, None, 3]), value("sr", T.INT64, [])],
        [value("output", T.FLOAT, [None, 1]), value("stateN", T.FLOAT, [2, None, 3])],
        [
            constant("most", np.float32(16000)), constant("second", np.asarray([1])), constant("ends", np.asarray([0, 2])),
            constant("none", np.asarray([0])),
        ],
    )
    settings = "[model.inputs.sr]\nvalue = 8000\n[model.inputs.state]\nrows = 1\n[model.outputs.stateN]\nrows = 1\n"
    served = {"rows": (settings, {"state": 1, "stateN": 1}, {"sr": np.asarray(8000)})}
    add("voice", model, served, up_to_three(lambda scale: {"input": numbers(1, 8, scale=scale), "state": numbers(2, 1, 3)}))


def lstm():
    """An LSTM as PyTorch exports it without batch_first, with its states: [time, rows, …] and [1, rows, …]."""
    width, hidden = 3, 4
    for name, rows, settings in [("lstm_named", "batch", ""), ("lstm_unnamed", "n", "rows = 1\n")]:
        model = model_of(
            name,
            [
                h.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["all", "hn", "cn"], hidden_size=hidden),
                h.make_node("Squeeze", ["all", "directions"], ["y"]),
            ],
            [value("x", T.FLOAT, ["time", rows, width]), value("h", T.FLOAT, [1, rows, hidden]), value("c", T.FLOAT, [1, rows, hidden])],
            [value("y", T.FLOAT, ["time", rows, hidden]), value("hn", T.FLOAT, [1, rows, hidden]), value("cn", T.FLOAT, [1, rows, hidden])],
            [
                constant("W", numbers(1, 4 * hidden, width)), constant("R", numbers(1, 4 * hidden, hidden)),
                constant("B", numbers(1, 8 * hidden)), constant("directions", np.asarray([1])),
            ],
        )

        def instances(index, scale):
            steps = 1 + index % 4
            make = lambda: {"x": numbers(steps, 1, width, scale=scale), "h": numbers(1, 1, hidden), "c": numbers(1, 1, hidden)}  # noqa: E731
            return [make() for _ in range(1 + index % 3)]

        add(name, model, {"rows": (settings, dict.fromkeys(["x", "h", "c", "y", "hn", "cn"], 1), {})}, instances)


def time_first_outputs():
    """As models of speech and of texts in images answer for CTC: [time, rows, classes]."""
    transposed = [h.make_node("Transpose", ["x"], ["logits"], perm=[1, 0, 2])]
    named = model_of("ctc", transposed, [value("x", T.FLOAT, ["batch", 5, 3])], [value("logits", T.FLOAT, [5, "batch", 3])])
    add("ctc", named, {"rows": ("", {"logits": 1}, {})}, up_to_three(lambda scale: {"x": numbers(1, 5, 3, scale=scale)}))
    # Declared wrongly, as in some published models: two dimensions, where there are three.
    wrong = model_of("ctc_declared_wrongly", transposed, [value("x", T.FLOAT, [1, "w", 3])], [value("logits", T.FLOAT, [1, "n"])])
    add("ctc_declared_wrongly", wrong, whole("x", "logits"), one_by_one(lambda scale: {"x": numbers(1, random.integers(1, 6), 3, scale=scale)}))


def open_sizes():
    """A convolution that cannot run on an image of 1 × 1."""
    model = model_of(
        "open", [h.make_node("Conv", ["x", "k"], ["y"])], [value("x", T.FLOAT, ["n", 1, "h", "w"])], [value("y", T.FLOAT, ["n", 1, "h2", "w2"])],
        [constant("k", numbers(1, 1, 3, 3))],
    )
    add("open", model, {"rows": ("", {}, {})}, one_by_one(lambda scale: {"x": numbers(1, 1, *random.integers(3, 6, 2), scale=scale)}))


# ===== Whole tensors =====


def whole_tensors():
    loss = model_of(
        "loss",
        [h.make_node("Mul", ["x", "x"], ["y"]), h.make_node("ReduceMean", ["y"], ["loss"], keepdims=0)],
        [value("x", T.FLOAT, ["n", 2])], [value("y", T.FLOAT, ["n", 2]), value("loss", T.FLOAT, [])],
    )
    add("loss", loss, whole("x", "y", "loss"), one_by_one(lambda scale: {"x": numbers(random.integers(1, 4), 2, scale=scale)}))
    non_zero = model_of(
        "non_zero", [h.make_node("NonZero", ["x"], ["places"])], [value("x", T.FLOAT, ["n", 3])], [value("places", T.INT64, [2, "found"])]
    )
    add("non_zero", non_zero, whole("x", "places"), one_by_one(lambda scale: {"x": numbers(2, 3) * random.integers(0, 2, (2, 3)).astype(np.float32)}))
    pairs = model_of(
        "pairs",
        [h.make_node("Transpose", ["b"], ["turned"], perm=[1, 0]), h.make_node("MatMul", ["a", "turned"], ["products"])],
        [value("a", T.FLOAT, ["n", 2]), value("b", T.FLOAT, ["m", 2])], [value("products", T.FLOAT, ["n", "m"])],
    )
    make = one_by_one(lambda scale: {"a": numbers(random.integers(1, 4), 2, scale=scale), "b": numbers(random.integers(1, 4), 2)})
    add("pairs", pairs, whole("a", "b", "products"), make)
    nothing = model_of("no_inputs", [h.make_node("Identity", ["k"], ["y"])], [], [value("y", T.FLOAT, [2, 2])], [constant("k", numbers(2, 2))])
    save(nothing, OUT / "no_inputs.onnx")
    texts = model_of(
        "texts", [h.make_node("StringConcat", ["x", "end"], ["y"])], [value("x", T.STRING, ["n"]), value("end", T.STRING, [])],
        [value("y", T.STRING, ["n"])],
    )
    texts.opset_import[0].version = 20
    words = lambda count: np.asarray([f"w{random.integers(99)}" for _ in range(count)], object)  # noqa: E731
    add("texts", texts, whole("x", "end", "y"), one_by_one(lambda scale: {"x": words(random.integers(0, 4)), "end": words(1).reshape(())}))


def main():
    OUT.mkdir(exist_ok=True)
    scaled_by_a_scalar()
    scaled_by_a_vector()
    states()
    voice_detection()
    lstm()
    time_first_outputs()
    open_sizes()
    whole_tensors()
    write_json(OUT / "signatures.json", golden)
    print(f"wrote {len(golden)} ways to serve models to {OUT}")


if __name__ == "__main__":
    main()
