#!/usr/bin/env python3
"""Writes small ONNX models whose rows are independent into tests/data/independent, and what each answers to 8 instances,
each run alone (independent.json).

They are what exporters make of usual models, so that none of them is taken for one whose rows depend on each other. What
onnxruntime answers is compared with the framework that the model came from.

Run by hand with the environment of models/requirements.txt and the packages named here; the products are committed:

    .venv/bin/pip install lightgbm==4.7.0 xgboost==3.2.0 pandas==3.1.1
    .venv/bin/pip install onnxmltools==1.16.0 onnxconverter-common==1.16.0 protobuf==6.33.6
    .venv/bin/python tests/data/make_independent_models.py

Written with numpy 2.3.5, scikit-learn 1.7.2, skl2onnx 1.20.0, onnx 1.20.1, onnxruntime 1.31.1, and those above. With
protobuf 7, skl2onnx does not export histogram-based gradient boosting.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxmltools
import pandas
import xgboost
from make_dependent_models import dense_network, model_of, plain, save, session, write_json
from make_models import constant, value
from onnx import TensorProto as T
from onnx import helper as h
from onnxconverter_common.float16 import convert_float_to_float16
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from skl2onnx import to_onnx
from skl2onnx.common.data_types import BooleanTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

OUT = Path(__file__).resolve().parent / "independent"
INSTANCES = 8
SMALL_FOREST = {"n_estimators": 5, "max_depth": 3, "random_state": 0}
# The newest sets that the exporters have all converters for.
OPSET = {"": 18, "ai.onnx.ml": 3}

IRIS = load_iris().data.astype(np.float32)
SPECIES = load_iris().target
# What a regressor is trained on, two numbers.
TARGETS = np.column_stack([IRIS[:, 3] * 2 - IRIS[:, 1], IRIS[:, 0] ** 2 / 5])
# Some rows of each species, moved a little, so that none was trained on.
HELD_OUT = (IRIS[np.linspace(3, 146, INSTANCES).astype(int)] + np.linspace(-0.23, 0.23, INSTANCES)[:, None]).round(2)
HELD_OUT = HELD_OUT.astype(np.float32)

golden = {}


def add(name, model, inputs, expected=None, preprocess="tensor", tolerance=1e-5):
    """Writes a model and its answers to inputs, by input name, one row at a time. `expected` are those of the framework,
    by output name."""
    path = OUT / f"{name}.onnx"
    save(model, path)
    running = session(path)
    names = [output.name for output in running.get_outputs()]
    rows = []
    for row in range(INSTANCES):
        answers = running.run(names, {key: column[row : row + 1] for key, column in inputs.items()})
        assert all(len(answer) == 1 for answer in answers), name
        rows.append(dict(zip(names, answers)))
    outputs = {output: np.concatenate([row[output] for row in rows]) for output in names}
    for output, wanted in (expected or {}).items():
        wanted = np.asarray(wanted).reshape(outputs[output].shape)
        if outputs[output].dtype.kind == "f":
            difference = np.abs(outputs[output].astype(float) - wanted).max()
            assert difference <= tolerance * max(1, np.abs(wanted).max()), (name, output, difference)
        else:
            assert (outputs[output] == wanted).all(), (name, output)
    for output, answers in outputs.items():
        assert answers.dtype.kind != "f" or np.isfinite(answers).all(), (name, output)
        # Not all answers are the same.
        assert any(np.any(answers[0] != other) for other in answers), (name, output)
    together = dict(zip(names, running.run(names, inputs)))
    for output, answers in outputs.items():
        if answers.dtype.kind == "f":
            assert np.allclose(together[output], answers, rtol=1e-4, atol=tolerance), (name, output)
        else:
            assert (together[output] == answers).all(), (name, output)

    def instance(row):
        parts = {key: plain(column[row]) for key, column in inputs.items()}
        if preprocess == "tabular":
            # A column is [n, 1].
            return {key: part[0] for key, part in parts.items()}
        return next(iter(parts.values())) if len(parts) == 1 else parts

    golden[name] = {
        "preprocess": preprocess,
        "instances": [instance(row) for row in range(INSTANCES)],
        "expected": {output: plain(answers) for output, answers in outputs.items()},
    }


def normal(seed, shape, scale=1.0, digits=3):
    """Numbers that look short in JSON."""
    return np.random.default_rng(seed).normal(0, scale, shape).round(digits).astype(np.float32)


# ===== Networks =====


def networks():
    x = normal(10, (INSTANCES, 16))
    dense = dense_network("mlp_float32", seed=11)
    parts = {part.name: onnx.numpy_helper.to_array(part).astype(float) for part in dense.graph.initializer}
    logits = np.maximum(x @ parts["weights_1"] + parts["bias_1"], 0) @ parts["weights_2"] + parts["bias_2"]
    add("mlp_float32", dense, {"x": x}, {"logits": logits})

    half = convert_float_to_float16(dense_network("mlp_float16", seed=11), keep_io_types=False)
    add("mlp_float16", half, {"x": x.astype(np.float16)}, {"logits": logits}, tolerance=5e-3)

    whole = static_int8(dense_network("mlp_int8_static", seed=11))
    add("mlp_int8_static", whole, {"x": x}, {"logits": logits}, tolerance=5e-2)


class Samples(CalibrationDataReader):
    """What the scales of the activations are taken from."""

    def __init__(self):
        self.batches = iter(normal(12, (16, 4, 16)))

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch}


def static_int8(model):
    """Scales are constants here, so that rows are independent. Weights have seven bits, so that no processor saturates
    where others do not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp_int8_static.onnx"
        quantize_static(
            model,
            path,
            Samples(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return onnx.load(path)


def convolution(name, height, width):
    """Conv, Relu, global average, Gemm: logits of [n, 5]."""
    return model_of(
        name,
        [
            h.make_node("Conv", ["x", "kernels_1", "shift_1"], ["conv_1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            h.make_node("Relu", ["conv_1"], ["relu_1"]),
            h.make_node("Conv", ["relu_1", "kernels_2", "shift_2"], ["conv_2"], kernel_shape=[3, 3]),
            h.make_node("Relu", ["conv_2"], ["relu_2"]),
            h.make_node("GlobalAveragePool", ["relu_2"], ["mean"]),
            h.make_node("Flatten", ["mean"], ["flat"]),
            h.make_node("Gemm", ["flat", "weights", "bias"], ["logits"], transB=1),
        ],
        [value("x", T.FLOAT, ["n", 3, height, width])],
        [value("logits", T.FLOAT, ["n", 5])],
        [
            constant("kernels_1", normal(20, (4, 3, 3, 3), 0.3)),
            constant("shift_1", normal(21, 4, 0.1)),
            constant("kernels_2", normal(22, (6, 4, 3, 3), 0.3)),
            constant("shift_2", normal(23, 6, 0.1)),
            constant("weights", normal(24, (5, 6))),
            constant("bias", normal(25, 5, 0.1)),
        ],
    )


def images():
    add("small_cnn", convolution("small_cnn", 8, 8), {"x": normal(26, (INSTANCES, 3, 8, 8), digits=2)})
    # The second convolution does not pad: images need at least 3x3.
    add("open_image", convolution("open_image", "h", "w"), {"x": normal(27, (INSTANCES, 3, 5, 6), digits=2)})


def lstm_batch_first():
    """As PyTorch exports batch_first=True: transposed around the node. The answer is made of the last step."""
    hidden, width = 4, 3
    model = model_of(
        "lstm_batch_first",
        [
            h.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
            h.make_node("LSTM", ["time_first", "weights", "recurrence", "shift"], ["steps"], hidden_size=hidden),
            h.make_node("Squeeze", ["steps", "direction"], ["hidden"]),
            h.make_node("Transpose", ["hidden"], ["batch_first"], perm=[1, 0, 2]),
            h.make_node("Gather", ["batch_first", "last"], ["end"], axis=1),
            h.make_node("Gemm", ["end", "head", "head_bias"], ["y"]),
        ],
        [value("x", T.FLOAT, ["n", "time", width])],
        [value("y", T.FLOAT, ["n", 2])],
        [
            constant("weights", normal(30, (1, 4 * hidden, width), 0.7)),
            constant("recurrence", normal(31, (1, 4 * hidden, hidden), 0.7)),
            constant("shift", normal(32, (1, 8 * hidden), 0.3)),
            constant("direction", np.asarray([1])),
            constant("last", np.asarray(-1)),
            constant("head", normal(33, (hidden, 2))),
            constant("head_bias", normal(34, 2)),
        ],
    )
    add("lstm_batch_first", model, {"x": normal(35, (INSTANCES, 5, width))})


def recommender():
    """A user, what is known of the visit, and a flag. Users are 0 to 19."""
    model = model_of(
        "recommender",
        [
            h.make_node("Gather", ["vectors", "user"], ["vector"]),
            h.make_node("Cast", ["is_member"], ["member"], to=T.FLOAT),
            h.make_node("Unsqueeze", ["member", "last"], ["member_column"]),
            h.make_node("Concat", ["vector", "visit", "member_column"], ["joined"], axis=1),
            h.make_node("Gemm", ["joined", "weights", "bias"], ["hidden"]),
            h.make_node("Relu", ["hidden"], ["active"]),
            h.make_node("MatMul", ["active", "items"], ["products"]),
            h.make_node("Sigmoid", ["products"], ["scores"]),
        ],
        [value("user", T.INT64, ["n"]), value("visit", T.FLOAT, ["n", 3]), value("is_member", T.BOOL, ["n"])],
        [value("scores", T.FLOAT, ["n", 6])],
        [
            constant("vectors", normal(40, (20, 4))),
            constant("last", np.asarray([1])),
            constant("weights", normal(41, (8, 8), 0.5)),
            constant("bias", normal(42, 8, 0.1)),
            constant("items", normal(43, (8, 6), 0.5)),
        ],
    )
    user = np.asarray([0, 19, 7, 3, 12, 7, 5, 1])
    is_member = np.asarray([True, False, True, True, False, False, True, False])
    add("recommender", model, {"user": user, "visit": normal(44, (INSTANCES, 3)), "is_member": is_member})


def transformer():
    """One layer of an encoder with masked attention, and the mean of the tokens that count, as sentence-transformers has
    it. A token that is masked changes nothing, so that texts of any length may be padded to one."""
    vocabulary, width, heads = 50, 8, 2
    part = width // heads
    nodes, initializers = [], []

    def node(op, inputs, output, **attributes):
        nodes.append(h.make_node(op, inputs, [output], **attributes))
        return output

    def weights(name, array):
        initializers.append(constant(name, array))
        return name

    def dense(name, given, rows, columns, seed):
        weight = weights(f"{name}.weight", normal(seed, (rows, columns), rows**-0.5))
        product = node("MatMul", [given, weight], f"{name}_p")
        return node("Add", [product, weights(f"{name}.bias", normal(seed + 1, columns, 0.1))], name)

    def heads_of(name, given, order):
        split = node("Reshape", [given, "split"], f"{name}_split")
        return node("Transpose", [split], f"{name}_heads", perm=order)

    def layer_norm(name, given):
        scale = weights(f"{name}.weight", np.ones(width, np.float32))
        bias = weights(f"{name}.bias", normal(50, width, 0.1))
        return node("LayerNormalization", [given, scale, bias], name, axis=-1)

    weights("split", np.asarray([0, 0, heads, part]))
    weights("merged", np.asarray([0, 0, width]))
    embedded = node("Gather", [weights("embeddings", normal(51, (vocabulary, width))), "input_ids"], "embedded")

    # What a masked token gets added to its scores.
    counts = node("Cast", ["attention_mask"], "counts", to=T.BOOL)
    place = weights("mask_axes", np.asarray([1, 2]))
    penalty = node(
        "Where",
        [counts, weights("nothing", np.asarray(0, np.float32)), weights("least", np.asarray(np.finfo(np.float32).min))],
        "penalty",
    )
    penalty = node("Unsqueeze", [penalty, place], "penalty_of_keys")

    query = heads_of("query", dense("query", embedded, width, width, 52), [0, 2, 1, 3])
    key = heads_of("key", dense("key", embedded, width, width, 54), [0, 2, 3, 1])
    content = heads_of("content", dense("content", embedded, width, width, 56), [0, 2, 1, 3])
    scores = node("MatMul", [query, key], "raw_scores")
    scores = node("Div", [scores, weights("root", np.asarray(part**0.5, np.float32))], "scaled_scores")
    scores = node("Add", [scores, penalty], "scores")
    attention = node("Softmax", [scores], "attention", axis=-1)
    seen = node("MatMul", [attention, content], "seen")
    seen = node("Transpose", [seen], "seen_tokens", perm=[0, 2, 1, 3])
    seen = node("Reshape", [seen, "merged"], "seen_merged")
    hidden = node("Add", [embedded, dense("output", seen, width, width, 58)], "residual_1")
    hidden = layer_norm("norm_1", hidden)
    inner = node("Relu", [dense("inner", hidden, width, 16, 60)], "inner_active")
    hidden = node("Add", [hidden, dense("outer", inner, 16, width, 62)], "residual_2")
    hidden = layer_norm("norm_2", hidden)

    mask = node("Cast", ["attention_mask"], "mask", to=T.FLOAT)
    column = node("Unsqueeze", [mask, weights("last", np.asarray([-1]))], "mask_column")
    tokens = weights("tokens_axis", np.asarray([1]))
    total = node("ReduceSum", [node("Mul", [hidden, column], "masked"), tokens], "total", keepdims=0)
    number = node("ReduceSum", [column, tokens], "number", keepdims=0)
    number = node("Max", [number, weights("tiny", np.asarray(1e-9, np.float32))], "number_or_tiny")
    node("Div", [total, number], "embedding")
    model = model_of(
        "transformer",
        nodes,
        [value(name, T.INT64, ["rows", "tokens"]) for name in ("input_ids", "attention_mask")],
        [value("embedding", T.FLOAT, ["rows", width])],
        initializers,
    )
    lengths = np.asarray([6, 3, 5, 1, 6, 2, 4, 6])
    attention_mask = (np.arange(6) < lengths[:, None]).astype(np.int64)
    input_ids = np.random.default_rng(64).integers(1, vocabulary, (INSTANCES, 6)) * attention_mask
    add("transformer", model, {"input_ids": input_ids, "attention_mask": attention_mask})

    # Padded or not, the answer is the same.
    running = session(OUT / "transformer.onnx")
    for ids, length, wanted in zip(input_ids, lengths, golden["transformer"]["expected"]["embedding"]):
        alone = {"input_ids": ids[None, :length], "attention_mask": np.ones((1, length), np.int64)}
        assert np.allclose(running.run(None, alone)[0], wanted, atol=1e-5)


def normalised():
    """Normalises over the elements of a row, never over the rows."""
    model = model_of(
        "normalised",
        [
            h.make_node("InstanceNormalization", ["x", "scale_1", "bias_1"], ["instance"]),
            h.make_node("Flatten", ["instance"], ["flat"]),
            h.make_node("MatMul", ["flat", "weights"], ["hidden"]),
            h.make_node("LayerNormalization", ["hidden", "scale_2", "bias_2"], ["y"], axis=-1),
        ],
        [value("x", T.FLOAT, ["n", 3, 8])],
        [value("y", T.FLOAT, ["n", 6])],
        [
            constant("scale_1", np.asarray([1, 0.5, 2], np.float32)),
            constant("bias_1", normal(70, 3, 0.1)),
            constant("weights", normal(71, (24, 6), 0.2)),
            constant("scale_2", np.ones(6, np.float32)),
            constant("bias_2", normal(72, 6, 0.1)),
        ],
    )
    add("normalised", model, {"x": normal(73, (INSTANCES, 3, 8))})


def two_outputs():
    """A vector of numbers, and the number of the nearest of four others."""
    model = model_of(
        "two_outputs",
        [
            h.make_node("MatMul", ["x", "weights"], ["product"]),
            h.make_node("Tanh", ["product"], ["embedding"]),
            h.make_node("MatMul", ["embedding", "centres"], ["scores"]),
            h.make_node("ArgMax", ["scores"], ["cluster"], axis=1, keepdims=0),
        ],
        [value("x", T.FLOAT, ["n", 6])],
        [value("embedding", T.FLOAT, ["n", 3]), value("cluster", T.INT64, ["n"])],
        [constant("weights", normal(80, (6, 3), 0.4)), constant("centres", normal(81, (3, 4)))],
    )
    add("two_outputs", model, {"x": normal(82, (INSTANCES, 6))})


# ===== scikit-learn =====


def of_sklearn(name, estimator, **options):
    """An exported estimator. Names of graphs are random unless they are given."""
    return to_onnx(
        estimator,
        initial_types=[("x", FloatTensorType([None, IRIS.shape[1]]))],
        name=name,
        target_opset=OPSET,
        options={id(estimator): options} if options else None,
    )


def estimators():
    x = {"x": HELD_OUT}
    classifiers = {
        "random_forest_classifier": RandomForestClassifier(**SMALL_FOREST),
        "gradient_boosting": GradientBoostingClassifier(n_estimators=5, max_depth=3, random_state=0),
        "logistic_regression": LogisticRegression(max_iter=1000),
        "svc": SVC(probability=True, random_state=0),
        "k_neighbors": KNeighborsClassifier(n_neighbors=4),
        "gaussian_naive_bayes": GaussianNB(),
    }
    for name, classifier in classifiers.items():
        # The neighbours are in the file, so there are few.
        every = 4 if name == "k_neighbors" else 1
        classifier.fit(IRIS[::every], SPECIES[::every])
        wanted = {"label": classifier.predict(HELD_OUT), "probabilities": classifier.predict_proba(HELD_OUT)}
        add(name, of_sklearn(name, classifier, zipmap=False), x, wanted, tolerance=1e-4)

    regressors = {
        "random_forest_regressor": RandomForestRegressor(**SMALL_FOREST).fit(IRIS, TARGETS[:, 0]),
        "random_forest_multi_output": RandomForestRegressor(**SMALL_FOREST).fit(IRIS, TARGETS),
        "hist_gradient_boosting": HistGradientBoostingRegressor(max_iter=5, max_depth=3).fit(IRIS, TARGETS[:, 0]),
        "pca": PCA(2).fit(IRIS),
    }
    for name, regressor in regressors.items():
        wanted = (regressor.transform if name == "pca" else regressor.predict)(HELD_OUT)
        add(name, of_sklearn(name, regressor), x, {"variable": wanted})

    k_means = KMeans(3, n_init=1, random_state=0).fit(IRIS)
    wanted = {"label": k_means.predict(HELD_OUT), "scores": k_means.transform(HELD_OUT)}
    add("k_means", of_sklearn("k_means", k_means), x, wanted, tolerance=1e-4)

    mixture = GaussianMixture(3, random_state=0).fit(IRIS)
    wanted = {"label": mixture.predict(HELD_OUT), "probabilities": mixture.predict_proba(HELD_OUT)}
    add("gaussian_mixture", of_sklearn("gaussian_mixture", mixture), x, wanted, tolerance=1e-3)

    isolation = IsolationForest(n_estimators=3, max_samples=16, random_state=0, contamination=0.3).fit(IRIS)
    wanted = {"label": isolation.predict(HELD_OUT), "scores": isolation.decision_function(HELD_OUT)}
    add("isolation_forest", of_sklearn("isolation_forest", isolation), x, wanted)


def data_frame():
    """A pipeline that takes a table, with an input for each column: whole numbers, numbers, texts and booleans."""
    random, rows = np.random.default_rng(90), 200
    table = pandas.DataFrame(
        {
            "age": random.integers(18, 80, rows),
            "income": random.normal(30, 9, rows).round(1).astype(np.float32),
            "plan": random.choice(["basic", "plus", "pro"], rows),
            "member": random.integers(0, 2, rows).astype(bool),
        }
    )
    score = table.age / 20 - table.income / 10 + 2 * (table.plan == "pro") - 1.5 * table.member
    left = np.where(score + random.normal(0, 0.5, rows) > score.median(), "leaves", "stays")
    columns = ColumnTransformer(
        [
            ("whole", StandardScaler(), ["age"]),
            ("numbers", StandardScaler(), ["income"]),
            ("texts", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["plan"]),
            ("flags", "passthrough", ["member"]),
        ]
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(table, left)
    kinds = {
        "age": Int64TensorType, "income": FloatTensorType, "plan": StringTensorType, "member": BooleanTensorType,
    }
    model = to_onnx(
        pipeline,
        initial_types=[(name, kind([None, 1])) for name, kind in kinds.items()],
        name="data_frame",
        target_opset=OPSET,
        options={id(pipeline): {"zipmap": False}},
    )
    some = table.iloc[:INSTANCES]
    inputs = {name: some[[name]].to_numpy() for name in kinds}
    inputs["plan"] = inputs["plan"].astype(object)
    wanted = {"label": pipeline.predict(some), "probabilities": pipeline.predict_proba(some)}
    add("data_frame", model, inputs, wanted, preprocess="tabular")


# ===== Gradient boosting =====


def boosting():
    x, given = {"x": HELD_OUT}, [("x", ToolsFloat([None, IRIS.shape[1]]))]
    few = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1, "random_state": 0}

    quiet = {**few, "deterministic": True, "force_col_wise": True, "verbose": -1}
    convert = onnxmltools.convert_lightgbm
    classifier = lightgbm.LGBMClassifier(**quiet).fit(IRIS, SPECIES)
    wanted = {"label": classifier.predict(HELD_OUT), "probabilities": classifier.predict_proba(HELD_OUT)}
    model = convert(classifier, "lightgbm_classifier", given, target_opset=15, zipmap=False)
    add("lightgbm_classifier", model, x, wanted)
    regressor = lightgbm.LGBMRegressor(**quiet).fit(IRIS, TARGETS[:, 0])
    model = convert(regressor, "lightgbm_regressor", given, target_opset=15)
    add("lightgbm_regressor", model, x, {"variable": regressor.predict(HELD_OUT)})

    convert = onnxmltools.convert_xgboost
    classifier = xgboost.XGBClassifier(**few).fit(IRIS, SPECIES)
    wanted = {"label": classifier.predict(HELD_OUT), "probabilities": classifier.predict_proba(HELD_OUT)}
    add("xgboost_classifier", convert(classifier, "xgboost_classifier", given, target_opset=15), x, wanted)
    regressor = xgboost.XGBRegressor(**few).fit(IRIS, TARGETS[:, 0])
    model = convert(regressor, "xgboost_regressor", given, target_opset=15)
    add("xgboost_regressor", model, x, {"variable": regressor.predict(HELD_OUT)})


def main():
    # The quantiser would have models prepared for it first, which these do not need; scikit-learn and LightGBM miss the
    # names of columns that they were not given.
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    OUT.mkdir(exist_ok=True)
    networks()
    images()
    lstm_batch_first()
    recommender()
    transformer()
    normalised()
    two_outputs()
    estimators()
    data_frame()
    boosting()
    write_json(OUT / "independent.json", golden)
    print(f"wrote {len(golden)} models to {OUT}")


if __name__ == "__main__":
    main()
