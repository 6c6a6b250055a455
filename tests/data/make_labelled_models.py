#!/usr/bin/env python3
"""Writes small classifiers whose files say what their classes are called into tests/data/classes, and what the framework
that each came from calls 12 instances (classes.json).

Every framework keeps the names in another place: in a node of ai.onnx.ml, in a constant that is looked up, in the
metadata. One of the models has no names at all.

Run by hand with the environment of models/requirements.txt and the packages named here; the products are committed:

    .venv/bin/pip install lightgbm==4.7.0 xgboost==3.2.0 onnxmltools==1.16.0 protobuf==6.33.6
    .venv/bin/python tests/data/make_labelled_models.py

Written with numpy 2.3.5, scikit-learn 1.7.2, skl2onnx 1.20.0, onnx 1.20.1, onnxruntime 1.31.1, and those above. With
protobuf 7, skl2onnx does not export histogram-based gradient boosting.
"""

import json
import warnings
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxmltools
import xgboost
from make_dependent_models import model_of, plain, save, session, write_json
from make_models import constant, value
from onnx import TensorProto as T
from onnx import helper as h
from onnx.reference import ReferenceEvaluator
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

OUT = Path(__file__).resolve().parent / "classes"
INSTANCES = 12
OPSET = {"": 18, "ai.onnx.ml": 3}

IRIS = load_iris().data.astype(np.float32)
SPECIES = load_iris().target
TEXTS = load_iris().target_names.astype(object)[SPECIES]
# Two species only, the two that are hard to tell apart.
TWO = SPECIES > 0


def held_out(rows):
    """Some of them, moved a little, so that none was trained on."""
    some = rows[np.linspace(2, len(rows) - 3, INSTANCES).astype(int)]
    return (some + np.linspace(-0.23, 0.23, INSTANCES)[:, None]).round(2).astype(np.float32)


HELD_OUT, HELD_OUT_OF_TWO = held_out(IRIS), held_out(IRIS[TWO])

golden = {}


def add(name, model, instances, labels, classes, output="probabilities", scores="probabilities", label_output="label"):
    """Writes a model and the labels of the framework, with which those of onnxruntime agree: the label it answers, if it
    answers one, and the class with the greatest score."""
    path = OUT / f"{name}.onnx"
    save(model, path)
    running = session(path)
    names = [output.name for output in running.get_outputs()]
    answers = dict(zip(names, running.run(names, {running.get_inputs()[0].name: instances})))
    labels, classes = ([part.item() if hasattr(part, "item") else part for part in given] for given in (labels, classes))
    # Each class is there.
    assert set(labels) == set(classes), (name, labels)
    assert answers[output].shape == (INSTANCES, len(classes)), (name, answers[output].shape)
    assert [classes[best] for best in answers[output].argmax(axis=1)] == labels, name
    if label_output is not None:
        assert answers[label_output].tolist() == labels, (name, answers[label_output], labels)
    if scores == "probabilities":
        assert np.allclose(answers[output].sum(axis=1), 1, atol=1e-5) and (answers[output] >= 0).all(), name
    golden[name] = {
        "output": output,
        "scores": scores,
        "instances": plain(instances),
        "labels": labels,
        "classes": classes,
    }


# ===== scikit-learn =====


def of_sklearn(name, classifier, targets, rows=slice(None), instances=HELD_OUT, keep_zip_map=False):
    """Trains, exports and adds a classifier."""
    classifier.fit(IRIS[rows], targets[rows])
    model = to_onnx(
        classifier,
        initial_types=[("x", FloatTensorType([None, IRIS.shape[1]]))],
        # Names of graphs are random unless they are given.
        name=name,
        target_opset=OPSET,
        options={id(classifier): {"zipmap": keep_zip_map}},
    )
    label_output = "label"
    if keep_zip_map:
        # What ZipMap takes is an output too, for those who need the numbers in a tensor.
        label_output = "output_label"
        model.graph.output.append(value("probabilities", T.FLOAT, ["n", len(classifier.classes_)]))
    labels = classifier.predict(instances)
    probabilities = classifier.predict_proba(instances)
    assert (classifier.classes_[probabilities.argmax(axis=1)] == labels).all(), name
    # None is so close that rounding may choose another.
    assert (np.diff(np.sort(probabilities)[:, -2:]) > 1e-3).all(), name
    add(name, model, instances, labels, classifier.classes_, label_output=label_output)


def estimators():
    from_one = SPECIES + 1
    few = {"n_estimators": 5, "max_depth": 3, "random_state": 0}
    logistic = {"max_iter": 1000}
    two = {"rows": TWO, "instances": HELD_OUT_OF_TWO}
    of_sklearn("logistic_1_2_3", LogisticRegression(**logistic), from_one)
    of_sklearn("logistic_minus_one", LogisticRegression(**logistic), SPECIES * 2 - 3, **two)
    of_sklearn("logistic_texts", LogisticRegression(**logistic), TEXTS)
    of_sklearn("logistic_zipmap_and_tensor", LogisticRegression(**logistic), TEXTS, keep_zip_map=True)
    of_sklearn("pipeline_texts", make_pipeline(StandardScaler(), LogisticRegression(**logistic)), TEXTS)
    of_sklearn("ovr_texts", OneVsRestClassifier(LogisticRegression(**logistic)), TEXTS)
    of_sklearn("forest_texts", RandomForestClassifier(**few), TEXTS)
    of_sklearn("gradient_boosting_texts", GradientBoostingClassifier(**few), TEXTS)
    of_sklearn("hist_texts", HistGradientBoostingClassifier(max_iter=5, max_depth=3, random_state=0), TEXTS)
    of_sklearn("svc_texts", SVC(probability=True, random_state=0), TEXTS)
    of_sklearn("bayes_texts", GaussianNB(), TEXTS)
    of_sklearn("bayes_1_2_3", GaussianNB(), from_one)
    # The neighbours are in the file, so there are few.
    of_sklearn("knn_1_2_3", KNeighborsClassifier(n_neighbors=5), from_one, rows=slice(None, None, 3))
    network = {"hidden_layer_sizes": (8,), "solver": "lbfgs", "alpha": 0.1, "max_iter": 200, "random_state": 0}
    of_sklearn("mlp_texts", MLPClassifier(**network), TEXTS)
    of_sklearn("mlp_two_texts", MLPClassifier(**network), TEXTS, **two)
    several = [("logistic", LogisticRegression(**logistic)), ("bayes", GaussianNB())]
    of_sklearn("voting_texts", VotingClassifier(several, voting="soft", flatten_transform=False), TEXTS)


# ===== Gradient boosting =====


def boosting():
    given = [("x", ToolsFloat([None, IRIS.shape[1]]))]
    few = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1, "random_state": 0}
    quiet = {**few, "deterministic": True, "force_col_wise": True, "verbose": -1}
    everything = slice(None)
    for name, kind, settings, targets, rows, instances in (
        ("lightgbm_texts", lightgbm.LGBMClassifier, quiet, TEXTS, everything, HELD_OUT),
        ("lightgbm_1_2_3", lightgbm.LGBMClassifier, quiet, SPECIES + 1, everything, HELD_OUT),
        ("lightgbm_two_texts", lightgbm.LGBMClassifier, quiet, TEXTS, TWO, HELD_OUT_OF_TWO),
        ("xgboost_0_1_2", xgboost.XGBClassifier, few, SPECIES, everything, HELD_OUT),
        ("xgboost_binary", xgboost.XGBClassifier, few, SPECIES - 1, TWO, HELD_OUT_OF_TWO),
    ):
        classifier = kind(**settings).fit(IRIS[rows], targets[rows])
        if kind is lightgbm.LGBMClassifier:
            model = onnxmltools.convert_lightgbm(classifier, name, given, target_opset=15, zipmap=False)
        else:
            model = onnxmltools.convert_xgboost(classifier, name, given, target_opset=15)
        add(name, model, instances, classifier.predict(instances), classifier.classes_)


# ===== Made by hand, as a PyTorch model is exported, with names added =====


def linear(name, output, more_nodes=(), more_outputs=(), more_constants=(), softmax=True):
    """A linear classifier, and whatever comes after its probabilities."""
    trained = LogisticRegression(max_iter=1000).fit(IRIS, SPECIES)
    nodes = [h.make_node("Gemm", ["x", "weight", "bias"], ["logits" if softmax else output], transB=1)]
    if softmax:
        nodes.append(h.make_node("Softmax", ["logits"], [output], axis=-1))
    model = model_of(
        name,
        [*nodes, *more_nodes],
        [value("x", T.FLOAT, ["n", IRIS.shape[1]])],
        [value(output, T.FLOAT, ["n", 3]), *more_outputs],
        [
            constant("weight", trained.coef_.astype(np.float32)),
            constant("bias", trained.intercept_.astype(np.float32)),
            *more_constants,
        ],
    )
    return model, trained.predict(HELD_OUT)


def by_hand():
    names = ["setosa", "versicolor", "virginica"]
    best = h.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0)
    label = value("label", T.STRING, ["n"])
    encoder = h.make_node(
        "LabelEncoder", ["best"], ["label"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=names
    )
    model, species = linear("classes_by_label_encoder", "probabilities", [best, encoder], [label])
    model.opset_import.append(h.make_opsetid("ai.onnx.ml", 3))
    add("classes_by_label_encoder", model, HELD_OUT, [names[place] for place in species], names)

    gather = h.make_node("Gather", ["names", "best"], ["label"])
    texts = constant("names", np.asarray(names, object))
    model, species = linear("classes_by_gather", "probabilities", [best, gather], [label], [texts])
    add("classes_by_gather", model, HELD_OUT, [names[place] for place in species], names)

    pets = ["cat", "dog", "bird"]
    model, species = linear("metadata_json", "logits", softmax=False)
    h.set_model_props(model, {"labels": json.dumps(pets, separators=(",", ":"))})
    labels = [pets[place] for place in species]
    add("metadata_json", model, HELD_OUT, labels, pets, output="logits", scores="logits", label_output=None)

    model, species = linear("nothing", "probabilities")
    add("nothing", model, HELD_OUT, species, [0, 1, 2], label_output=None)


def ultralytics():
    """A network that tells red, green and blue images apart, with the metadata that Ultralytics writes: str() of whatever
    there is, in its order. A class may have a quotation mark in its name."""
    names = {0: "cat", 1: "dog's", 2: "bird"}
    random = np.random.default_rng(1)
    kernels = random.normal(0, 0.02, (3, 3, 3, 3)) + np.eye(3)[:, :, None, None] / 9
    model = model_of(
        "main_graph",
        [
            h.make_node("Conv", ["images", "model.0.conv.weight", "model.0.conv.bias"], ["conv"], kernel_shape=[3, 3]),
            h.make_node("Sigmoid", ["conv"], ["gate"]),
            h.make_node("Mul", ["conv", "gate"], ["active"]),
            h.make_node("GlobalAveragePool", ["active"], ["mean"]),
            h.make_node("Flatten", ["mean"], ["flat"]),
            h.make_node("Gemm", ["flat", "model.1.linear.weight", "model.1.linear.bias"], ["scores"], transB=1),
            h.make_node("Softmax", ["scores"], ["output0"], axis=1),
        ],
        [value("images", T.FLOAT, ["batch", 3, 8, 8])],
        [value("output0", T.FLOAT, ["batch", 3])],
        [
            constant("model.0.conv.weight", kernels.astype(np.float32)),
            constant("model.0.conv.bias", np.zeros(3, np.float32)),
            constant("model.1.linear.weight", (np.eye(3) * 12).astype(np.float32)),
            constant("model.1.linear.bias", np.zeros(3, np.float32)),
        ],
    )
    model.producer_name = "pytorch"
    metadata = {
        "description": "Ultralytics YOLO11n-cls model trained on pets",
        "author": "Ultralytics",
        "date": "2026-11-23T10:20:30.405060",
        "version": "8.3.228",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "stride": 1,
        "task": "classify",
        "batch": 1,
        "imgsz": [8, 8],
        "names": names,
        "args": {"batch": 1, "half": False, "dynamic": True, "simplify": True, "opset": None, "nms": False},
        "channels": 3,
    }
    for key, content in metadata.items():
        model.metadata_props.add(key=key, value=str(content))
    colour = np.arange(INSTANCES) * 5 % 3
    images = random.uniform(0, 0.5, (INSTANCES, 3, 8, 8))
    images[np.arange(INSTANCES), colour] += 0.4
    images = images.round(2).astype(np.float32)
    [scores] = ReferenceEvaluator(model).run(None, {"images": images})
    assert (scores.argmax(axis=1) == colour).all()
    labels = [names[place] for place in colour.tolist()]
    add("ultralytics_cls", model, images, labels, names.values(), output="output0", label_output=None)


def main():
    # LightGBM misses the names of columns that it was not given.
    warnings.filterwarnings("ignore")
    OUT.mkdir(exist_ok=True)
    estimators()
    boosting()
    by_hand()
    ultralytics()
    write_json(OUT / "classes.json", golden)
    print(f"wrote {len(golden)} models to {OUT}")


if __name__ == "__main__":
    main()
