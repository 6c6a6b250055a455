#!/usr/bin/env python3
"""Trains the models that ship with Leeway and writes what the tests compare against.

Data: scikit-learn's bundled *digits*, 1,797 scanned handwritten digits of 8x8 pixels, each 0-16
(Alpaydin & Kaynak, UCI "Optical Recognition of Handwritten Digits"). Nothing is downloaded.

    models/digits/1   multinomial logistic regression
    models/digits/2   multi-layer perceptron, one hidden layer of 64

Run by hand; the products are committed:

    python3 -m venv .venv && .venv/bin/pip install -r models/requirements.txt
    .venv/bin/python models/train.py
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import sklearn
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

ROOT = Path(__file__).resolve().parent.parent
SEED = 20261123
HELD_OUT = 360

MODEL_TOML = """\
# How requests for this model are served. The versions beside this file are the numbered folders;
# every key is described in docs/configuration.md.
description = "Handwritten digits: 64 pixels of 0-16, row by row, to the digit 0-9"

[preprocess]
kind = "tensor"              # each instance is an array of 64 numbers

[model]
providers = ["cpu"]          # in order of preference; ["cuda", "cpu"] for a GPU
intra_op_threads = 1         # a run takes microseconds: more threads would only wait for each other
workers = 1

[postprocess]
kind = "classifier"
output = "probabilities"     # the model's output that holds one score per class
scores = "probabilities"     # already normalised; "logits" would be passed through softmax
labels = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
top_k = 3
"""


def classifiers():
    """The two versions, in order: the second one is better."""
    logistic = make_pipeline(MinMaxScaler((0, 1)), LogisticRegression(max_iter=2000, random_state=SEED))
    mlp = make_pipeline(
        MinMaxScaler((0, 1)),
        MLPClassifier(hidden_layer_sizes=(64,), alpha=1e-3, max_iter=2000, random_state=SEED),
    )
    return {1: logistic, 2: mlp}


def main():
    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits, test_size=HELD_OUT, stratify=digits, random_state=SEED
    )
    train_x, test_x = train_x.astype(np.float32), test_x.astype(np.float32)

    folder = ROOT / "models" / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(MODEL_TOML)

    held_out = {
        "source": f"scikit-learn {sklearn.__version__}, load_digits, {HELD_OUT} held-out rows, seed {SEED}",
        "instances": test_x.astype(int).tolist(),
        "digits": test_y.tolist(),
        "versions": {},
    }
    for version, classifier in classifiers().items():
        classifier.fit(train_x, train_y)
        onnx_model = to_onnx(
            classifier,
            initial_types=[("pixels", FloatTensorType([None, 64]))],
            options={"zipmap": False},
            target_opset=18,
        )
        path = folder / str(version) / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(onnx_model.SerializeToString())

        labels = classifier.predict(test_x)
        probabilities = classifier.predict_proba(test_x)
        accuracy = float((labels == test_y).mean())
        held_out["versions"][str(version)] = {
            "labels": labels.tolist(),
            "probabilities": [[float(f"{p:.9g}") for p in row] for row in probabilities],
        }

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        onnx_labels, onnx_probabilities = session.run(None, {"pixels": test_x})
        difference = float(np.abs(onnx_probabilities - probabilities).max())
        if (onnx_labels != labels).any() or difference > 1e-5:
            raise SystemExit(f"version {version}: the export differs from scikit-learn by {difference}")
        print(f"digits version {version}: accuracy {accuracy:.4f}, export differs by at most {difference:.1e}")

    (ROOT / "tests" / "data" / "digits_held_out.json").write_text(json.dumps(held_out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
