#!/usr/bin/env python3
"""Writes small classifiers whose probabilities are a list of maps (ZipMap), as exporters write them without options, into
tests/data/zipmap, and what each framework predicts for 12 instances (zipmap.json).

Run by hand with the environment of models/requirements.txt and the packages named here; the products are committed:

    .venv/bin/pip install lightgbm==4.7.0 xgboost==3.2.0 onnxmltools==1.16.0 catboost==1.2.10
    .venv/bin/python tests/data/make_zipmap_models.py

Written with numpy 2.3.5, scikit-learn 1.7.2, skl2onnx 1.20.0, onnx 1.20.1, onnxruntime 1.31.1, and those above.
"""

import tempfile
import warnings
from pathlib import Path

import catboost
import lightgbm
import numpy as np
import onnx
import onnxmltools
from make_dependent_models import plain, session, without_notes, write_json
from make_labelled_models import HELD_OUT, HELD_OUT_OF_TWO, INSTANCES, IRIS, SPECIES, TEXTS, TWO
from onnx import TensorProto, helper
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

OUT = Path(__file__).resolve().parent / "zipmap"
ALL = slice(None)

golden = {}


def between(instances):
    """Instances that no tree compares with their own value: exporters round the thresholds of trees to float32."""
    return (instances.astype(float) + 0.004).round(3).astype(np.float32)


THREE_CLASSES, TWO_CLASSES = between(HELD_OUT), between(HELD_OUT_OF_TWO)


def add(name, classifier, model, instances):
    """Writes an export, unchanged but for notes and the order of its imports, and the predictions of the framework, with
    which those of onnxruntime agree."""
    labels, probabilities = np.ravel(classifier.predict(instances)), classifier.predict_proba(instances)
    classes = np.asarray(classifier.classes_).tolist()
    assert set(labels.tolist()) == set(classes), (name, labels)
    # None is so close that rounding may choose another.
    assert (np.diff(np.sort(probabilities)[:, -2:]) > 1e-3).all(), name
    without_notes(model)
    # CatBoost's are about the place and time of training.
    del model.metadata_props[:]
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    path = OUT / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    assert path.stat().st_size < 20_000, (name, path.stat().st_size)
    assert [node.op_type for node in model.graph.node].count("ZipMap") == 1, name
    running = session(path)
    label, maps = running.get_outputs()
    assert maps.type.startswith("seq(map("), maps.type
    answered, maps_answered = running.run([label.name, maps.name], {running.get_inputs()[0].name: instances})
    if name == "catboost_minus_one":
        # With scores for both of two classes that are numbers, onnxruntime answers their positions.
        answered = classifier.classes_[answered]
    assert answered.tolist() == labels.tolist(), (name, answered, labels)
    assert [list(row) for row in maps_answered] == [classes] * INSTANCES, name
    assert np.allclose([list(row.values()) for row in maps_answered], probabilities, rtol=0, atol=2e-6), name
    golden[name] = {
        "output": maps.name,
        "instances": plain(instances),
        "classes": classes,
        "labels": labels.tolist(),
        "probabilities": plain(probabilities.astype(np.float32)),
    }


def each(name, kinds, export):
    """Trains, exports and adds classifiers with names or numbers as classes, and with three or two of them."""
    for kind, targets, rows, instances in (
        ("texts", TEXTS, ALL, THREE_CLASSES),
        ("1_2_3", SPECIES + 1, ALL, THREE_CLASSES),
        ("two_texts", TEXTS, TWO, TWO_CLASSES),
        ("minus_one", SPECIES * 2 - 3, TWO, TWO_CLASSES),
    ):
        classifier = kinds().fit(IRIS[rows], targets[rows])
        add(f"{name}_{kind}", classifier, export(classifier, f"{name}_{kind}"), instances)


def of_sklearn(classifier, name):
    return to_onnx(classifier, initial_types=[("x", FloatTensorType([None, IRIS.shape[1]]))], name=name)


def of_lightgbm(classifier, name):
    return onnxmltools.convert_lightgbm(
        classifier, name, [("x", ToolsFloat([None, IRIS.shape[1]]))], target_opset=15
    )


def of_catboost(classifier, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        classifier.save_model(str(path), format="onnx", export_parameters={"onnx_graph_name": name})
        return onnx.load(path)


def add_without_a_score_for_each_class():
    """Three names for two scores, as onnxmltools exports a random forest of LightGBM: ONNX Runtime refuses each run."""
    nodes = [
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]),
    ]
    maps = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        nodes,
        "two_scores_three_names",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
            helper.make_value_info("maps", helper.make_sequence_type_proto(maps)),
        ],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    path = OUT.with_name("zipmap_refused") / "two_scores_three_names.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(deterministic=True))
    try:
        session(path).run(None, {"scores": np.zeros((1, 2), np.float32)})
    except Exception as error:
        assert "features_per_batch" in str(error), error
    else:
        raise AssertionError("ONNX Runtime runs it")


def main():
    # LightGBM misses the names of columns that it was not given.
    warnings.filterwarnings("ignore")
    OUT.mkdir(exist_ok=True)
    few = {"n_estimators": 5, "max_depth": 3, "random_state": 0}
    each("logistic", lambda: LogisticRegression(max_iter=1000), of_sklearn)
    forest = RandomForestClassifier(**few).fit(IRIS, TEXTS)
    add("forest_texts", forest, of_sklearn(forest, "forest_texts"), THREE_CLASSES)
    scaled = ColumnTransformer([("scaled", StandardScaler(), [0, 1, 2, 3])])
    pipeline = make_pipeline(scaled, LogisticRegression(max_iter=1000)).fit(IRIS, TEXTS)
    add("pipeline_texts", pipeline, of_sklearn(pipeline, "pipeline_texts"), THREE_CLASSES)
    quiet = {**few, "n_jobs": 1, "deterministic": True, "force_col_wise": True, "verbose": -1}
    each("lightgbm", lambda: lightgbm.LGBMClassifier(**quiet), of_lightgbm)
    boosted = {"iterations": 8, "depth": 2, "random_seed": 0, "thread_count": 1, "learning_rate": 0.5}
    silent = {"verbose": False, "allow_writing_files": False}
    each("catboost", lambda: catboost.CatBoostClassifier(**boosted, **silent), of_catboost)
    add_without_a_score_for_each_class()
    write_json(OUT / "zipmap.json", golden)
    print(f"wrote {len(golden)} models to {OUT}")


if __name__ == "__main__":
    main()
