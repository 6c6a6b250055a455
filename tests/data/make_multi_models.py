#!/usr/bin/env python3
"""Writes small models with several answers for each row into tests/data/multi, and what each framework predicts for 12
instances (multi.json): regressors with several targets, multi-label classifiers, classifiers with several targets, and
detectors of anomalies, which answer a label and a score.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_multi_models.py

Written with numpy 2.3.5, scikit-learn 1.7.2, skl2onnx 1.20.0, onnx 1.20.1, onnxruntime 1.31.1.
"""

import warnings
from pathlib import Path

import numpy as np
from make_dependent_models import model_of, plain, save, session, write_json
from make_models import constant, value
from onnx import TensorProto as T
from onnx import helper as h
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import GradientBoostingRegressor, IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.svm import OneClassSVM
from sklearn.tree import DecisionTreeClassifier

OUT = Path(__file__).resolve().parent / "multi"
INSTANCES, COLUMNS = 12, 4
OPSET = {"": 17, "ai.onnx.ml": 3}

random = np.random.default_rng(0)
ROWS = random.normal(size=(40, COLUMNS)).round(2).astype(np.float32)
# Between those of the training, so that no tree compares with its own threshold.
HELD_OUT = (random.normal(size=(INSTANCES, COLUMNS)).round(2) + 0.004).astype(np.float32)
NUMBERS = ROWS @ np.array([[1, 2, 0], [3, -1, 0.5], [0, 4, 1], [2, 0, -2]]) + 10
# Three labels, each of which a row may have; and two targets, with two and with four classes.
LABELS = (ROWS[:, :3] + ROWS[:, 1:] > 0).astype(np.int64)
TARGETS = np.stack([ROWS[:, 0] > 0, (ROWS[:, 1] > 0) + 2 * (ROWS[:, 2] > 0)], axis=1).astype(np.int64)
NAMES = np.stack([np.array(["no", "yes"])[TARGETS[:, 0]], np.array(["a", "b", "c", "d"])[TARGETS[:, 1]]], axis=1)

golden = {}


def export(estimator, name, **options):
    initial = [("x", FloatTensorType([None, COLUMNS]))]
    options = {id(estimator): options} if options else None
    return to_onnx(estimator, initial_types=initial, name=name, target_opset=OPSET, options=options)


def add(name, model, expected, **outputs):
    """Writes a model and what its framework answers, with which these outputs of onnxruntime agree."""
    path = OUT / f"{name}.onnx"
    save(model, path)
    assert path.stat().st_size < 20_000, (name, path.stat().st_size)
    running = session(path)
    answers = running.run(list(outputs), {running.get_inputs()[0].name: HELD_OUT})
    for (output, should), answer in zip(outputs.items(), answers):
        if isinstance(answer, list):
            assert all(np.allclose(*pair, rtol=0, atol=1e-5) for pair in zip(answer, should)), (name, output)
        elif answer.dtype == np.float32:
            assert np.allclose(answer, should, rtol=1e-5, atol=1e-5), (name, output, answer, should)
        else:
            assert (np.reshape(answer, np.shape(should)) == should).all(), (name, output)
    golden[name] = {"instances": plain(HELD_OUT), **expected}


def rows_first(model):
    """Puts the rows of the probabilities first, [labels, rows, classes] -> [rows, labels, classes]."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["of_labels" if name == "probabilities" else name for name in names]
    model.graph.node.append(h.make_node("Transpose", ["of_labels"], ["probabilities"], perm=[1, 0, 2]))
    (declared,) = [output for output in model.graph.output if output.name == "probabilities"]
    labels, rows, classes = declared.type.tensor_type.shape.dim
    shape = ["rows", labels.dim_value, classes.dim_value]
    declared.CopyFrom(value("probabilities", T.FLOAT, shape))
    return model


# ===== regressors =====


def regressors():
    few = {"n_estimators": 2, "max_depth": 2, "random_state": 0}
    for name, estimator in (
        ("ridge", Ridge()),
        # Its export declares one number per row, and gives three.
        ("forest_regressor", RandomForestRegressor(**few)),
        ("boosted_regressors", MultiOutputRegressor(GradientBoostingRegressor(**few))),
    ):
        predicted = estimator.fit(ROWS, NUMBERS).predict(HELD_OUT)
        add(name, export(estimator, name), {"values": plain(predicted)}, variable=predicted)
    # A network with two heads, as PyTorch exports it: an output for each.
    weights = random.normal(size=(COLUMNS, 2)).astype(np.float32)
    price, days = (HELD_OUT @ weights).T
    nodes = [
        h.make_node("MatMul", ["x", "of_price"], ["price"]),
        h.make_node("MatMul", ["x", "of_days"], ["days_in_rows"]),
        h.make_node("Reshape", ["days_in_rows", "rows"], ["days"]),
    ]
    constants = [
        constant("of_price", weights[:, :1]),
        constant("of_days", weights[:, 1:]),
        constant("rows", np.array([-1])),
    ]
    outputs = [value("price", T.FLOAT, ["n", 1]), value("days", T.FLOAT, ["n"])]
    model = model_of("heads", nodes, [value("x", T.FLOAT, ["n", COLUMNS])], outputs, constants)
    add("heads", model, {"values": plain(np.stack([price, days], 1))}, price=price[:, None], days=days)


# ===== multi-label classifiers =====


def multi_label():
    ovr = OneVsRestClassifier(LogisticRegression()).fit(ROWS, LABELS)
    network = {"hidden_layer_sizes": (5,), "solver": "lbfgs", "alpha": 0.1, "max_iter": 500, "random_state": 0}
    for name, estimator in (("ovr_multi_label", ovr), ("mlp_multi_label", MLPClassifier(**network).fit(ROWS, LABELS))):
        probabilities, labels = estimator.predict_proba(HELD_OUT), estimator.predict(HELD_OUT)
        expected = {"probabilities": plain(probabilities), "labels": labels.tolist()}
        add(name, export(estimator, name, zipmap=False), expected, probabilities=probabilities, label=labels)
        if estimator is ovr:
            add(f"{name}_maps", export(ovr, f"{name}_maps"), expected, output_label=labels)
    few = {"n_estimators": 3, "max_depth": 2, "random_state": 0}
    for name, estimator in (
        ("knn_multi_label", KNeighborsClassifier(3)),
        ("forest_multi_label", RandomForestClassifier(**few)),
    ):
        estimator.fit(ROWS, LABELS)
        labels, of_labels = estimator.predict(HELD_OUT), np.array(estimator.predict_proba(HELD_OUT))
        expected = {"probabilities": plain(of_labels[:, :, 1].T), "labels": labels.tolist()}
        add(name, export(estimator, name, zipmap=False), expected, probabilities=of_labels, label=labels)
        first = rows_first(export(estimator, f"{name}_rows_first", zipmap=False))
        add(f"{name}_rows_first", first, expected, probabilities=of_labels.transpose(1, 0, 2), label=labels)
    # skl2onnx 1.20 writes other probabilities than those of this estimator, which do not add up to 1.
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(ROWS, LABELS)
    labels = tree.predict(HELD_OUT)
    model = rows_first(export(tree, "wrong_tree_multi_label", zipmap=False))
    add("wrong_tree_multi_label", model, {"labels": labels.tolist()}, label=labels)
    # Independent scores of classes of which exactly one is right, as a network with sigmoids gives them.
    weights = random.normal(size=(COLUMNS, 3)).astype(np.float32)
    nodes = [h.make_node("MatMul", ["x", "weights"], ["logits"]), h.make_node("Sigmoid", ["logits"], ["probabilities"])]
    inputs, outputs = [value("x", T.FLOAT, ["n", COLUMNS])], [value("probabilities", T.FLOAT, ["n", 3])]
    probabilities = 1 / (1 + np.exp(-(HELD_OUT @ weights).astype(np.float64)))
    model = model_of("sigmoids", nodes, inputs, outputs, [constant("weights", weights)])
    add("sigmoids", model, {"probabilities": plain(probabilities)}, probabilities=probabilities)


# ===== classifiers with several targets =====


def several_targets():
    few = {"n_estimators": 3, "max_depth": 2, "random_state": 0}
    for name, estimator, targets in (
        ("multi_output", MultiOutputClassifier(LogisticRegression()), TARGETS * 2 - 1),
        ("multi_output_texts", MultiOutputClassifier(LogisticRegression()), NAMES),
        ("multi_output_forests", MultiOutputClassifier(RandomForestClassifier(**few)), NAMES),
    ):
        estimator.fit(ROWS, targets)
        classes = [part.classes_.tolist() for part in estimator.estimators_]
        add_targets(name, export(estimator, name, zipmap=False), estimator, classes)
    # One forest for both targets: [targets, rows, classes], filled up with zeros where a target has fewer classes.
    forest = RandomForestClassifier(**few).fit(ROWS, TARGETS)
    classes = [part.tolist() for part in forest.classes_]
    model = rows_first(export(forest, "forest_targets_rows_first", zipmap=False))
    add_targets("forest_targets_rows_first", model, forest, classes)


def add_targets(name, model, estimator, classes):
    labels, probabilities = estimator.predict(HELD_OUT), estimator.predict_proba(HELD_OUT)
    expected = {
        "classes": classes,
        "labels": labels.tolist(),
        "probabilities": [plain(part) for part in probabilities],
    }
    if not name.endswith("rows_first"):
        return add(name, model, expected, label=labels, probabilities=probabilities)
    most = max(part.shape[1] for part in probabilities)
    filled = [np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in probabilities]
    return add(name, model, expected, label=labels, probabilities=np.stack(filled, axis=1))


# ===== anomalies =====


def anomalies():
    few = {"max_samples": 8, "random_state": 0}
    for name, estimator, options in (
        ("isolation_forest", IsolationForest(n_estimators=3, **few), {}),
        ("isolation_forest_two_scores", IsolationForest(n_estimators=2, **few), {"score_samples": True}),
        ("one_class_svm", OneClassSVM(nu=0.3), {}),
        ("local_outlier_factor", LocalOutlierFactor(n_neighbors=5, novelty=True, contamination=0.3), {}),
    ):
        estimator.fit(ROWS)
        labels, scores = estimator.predict(HELD_OUT), estimator.decision_function(HELD_OUT)
        assert set(labels.tolist()) == {-1, 1}, (name, labels)
        assert (abs(scores) > 1e-4).all(), name
        expected = {"labels": labels.tolist(), "scores": plain(scores)}
        model = export(estimator, name, **options)
        # The exporter does not say the shape of this output.
        for output in model.graph.output[2:]:
            output.CopyFrom(value(output.name, T.FLOAT, ["rows", 1]))
        add(name, model, expected, label=labels, scores=scores[:, None])


def main():
    warnings.filterwarnings("ignore")
    OUT.mkdir(exist_ok=True)
    regressors()
    multi_label()
    several_targets()
    anomalies()
    write_json(OUT / "multi.json", golden)
    print(f"wrote {len(golden)} models to {OUT}")


if __name__ == "__main__":
    main()
