#!/usr/bin/env python3
"""Trains the models that ship with Leeway and writes what the tests compare against.

Data: scikit-learn's bundled *digits*, 1,797 scanned handwritten digits of 8x8 pixels, each 0-16
(Alpaydin & Kaynak, UCI "Optical Recognition of Handwritten Digits"). Nothing is downloaded.

    models/digits/1   multinomial logistic regression
    models/digits/2   multi-layer perceptron, one hidden layer of 64

Each version is added with `leeway add`, which checks it and writes its manifest, and has examples with
scikit-learn's own predictions, which are checked whenever it is loaded, and a baseline of the training rows, from which
drift is told.

Run by hand; the products are committed:

    make build
    python3 -m venv .venv && .venv/bin/pip install -r models/requirements.txt
    .venv/bin/python models/train.py
"""

import json
import shutil
import subprocess
import tempfile
from datetime import date
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
EXAMPLES = 10
DATASET = f"scikit-learn load_digits, split with seed {SEED}"

def classifiers():
    """The two versions, in order: the second one is better."""
    logistic = make_pipeline(MinMaxScaler((0, 1)), LogisticRegression(max_iter=2000, random_state=SEED))
    mlp = make_pipeline(
        MinMaxScaler((0, 1)),
        MLPClassifier(hidden_layer_sizes=(64,), alpha=1e-3, max_iter=2000, random_state=SEED),
    )
    return {1: logistic, 2: mlp}


def add(folder, description, exported, golden, training_rows, accuracy):
    """Adds the next version."""
    with tempfile.TemporaryDirectory() as made:
        onnx, examples = Path(made) / "digits.onnx", Path(made) / "golden.json"
        training_data = Path(made) / "train.jsonl"
        training_data.write_text("".join(json.dumps(row) + "\n" for row in training_rows))
        onnx.write_bytes(exported)
        examples.write_text(json.dumps(golden) + "\n")
        facts = {
            "onnx": onnx,
            "golden": examples,
            "baseline-data": training_data,
            "description": description,
            "framework": f"scikit-learn {sklearn.__version__}",
            "trained-at": date.today().isoformat(),
            "dataset": DATASET,
            "metric": f"accuracy={accuracy:.4f}",
        }
        flags = [text for name, value in facts.items() for text in (f"--{name}", str(value))]
        subprocess.run([ROOT / "target/release/leeway", "add", folder, *flags], check=True)


def main():
    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits, test_size=HELD_OUT, stratify=digits, random_state=SEED
    )
    train_x, test_x = train_x.astype(np.float32), test_x.astype(np.float32)

    folder = ROOT / "models" / "digits"
    for version in classifiers():
        # A version is never changed; these are made anew.
        shutil.rmtree(folder / str(version), ignore_errors=True)

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
        exported = onnx_model.SerializeToString()

        labels = classifier.predict(test_x)
        probabilities = classifier.predict_proba(test_x)
        accuracy = float((labels == test_y).mean())
        held_out["versions"][str(version)] = {
            "labels": labels.tolist(),
            "probabilities": [[float(f"{p:.9g}") for p in row] for row in probabilities],
        }

        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        onnx_labels, onnx_probabilities = session.run(None, {"pixels": test_x})
        difference = float(np.abs(onnx_probabilities - probabilities).max())
        if (onnx_labels != labels).any() or difference > 1e-5:
            raise SystemExit(f"version {version}: the export differs from scikit-learn by {difference}")
        print(f"digits version {version}: accuracy {accuracy:.4f}, export differs by at most {difference:.1e}")
        expected = [
            {"label": int(label), "confidence": float(f"{row.max():.9g}")}
            for label, row in zip(labels[:EXAMPLES], probabilities)
        ]
        golden = {"instances": held_out["instances"][:EXAMPLES], "predictions": expected, "tolerance": 1e-4}
        add(folder, type(classifier[-1]).__name__, exported, golden, train_x.astype(int).tolist(), accuracy)

    (ROOT / "tests" / "data" / "digits_held_out.json").write_text(json.dumps(held_out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
