#!/usr/bin/env python3
"""A scikit-learn pipeline over a table with categories and missing values, exported whole and added to Leeway.

Data: the Palmer penguins (Horst, Hill & Gorman, 2020, CC0), 344 rows, from the PyPI package `palmerpenguins`, which
contains them: nothing else is downloaded.

    models/penguins/1   multinomial logistic regression
    models/penguins/2   a forest of 40 trees

The exported pipeline imputes and encodes, so that this need not be written again for serving: Leeway passes the columns
to it by name, as they were sent. `tests/data/penguins_held_out.json` gets scikit-learn's predictions for held-out rows,
some with unknown categories and missing values.

Run by hand; the products are committed:

    make build
    python3 -m venv .venv && .venv/bin/pip install -r examples/penguins/requirements.txt
    .venv/bin/python examples/penguins/train.py
"""

import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import pandas
import sklearn
from palmerpenguins import load_penguins
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "python"))
import leeway  # noqa: E402

SEED = 20261125
HELD_OUT = 100
EXAMPLES = 12
NUMBERS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
CATEGORIES = ["island", "sex"]
COLUMNS = ["island", *NUMBERS, "sex"]
# Stands for a missing category, because ONNX has no missing text.
MISSING = "missing"


def prepared(frame):
    """Returns the frame as the pipeline and the exported model get it: with numbers of single precision."""
    frame = frame[COLUMNS].copy()
    frame[NUMBERS] = frame[NUMBERS].astype(np.float32)
    frame[CATEGORIES] = frame[CATEGORIES].astype(object).fillna(MISSING)
    return frame


def pipelines():
    """The two versions, in order."""

    def columns(*then):
        return ColumnTransformer(
            [
                ("numbers", make_pipeline(SimpleImputer(strategy="median"), *then), NUMBERS),
                ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES),
            ]
        )

    return {
        1: make_pipeline(columns(StandardScaler()), LogisticRegression(max_iter=1000, random_state=SEED)),
        2: make_pipeline(columns(), RandomForestClassifier(n_estimators=40, max_depth=5, random_state=SEED)),
    }


def as_inputs(frame):
    """Returns each column as a separate input of the shape [rows, 1]."""
    frame = prepared(frame)
    return {
        name: frame[[name]].to_numpy(np.float32 if name in NUMBERS else object) for name in COLUMNS
    }


def held_out_rows(frame):
    """Returns the held-out rows, and copies of some with values that occur in serving but not in training."""
    rows = leeway.rows.instances(frame[COLUMNS])
    random = np.random.default_rng(SEED)
    for row in list(rows[:40]):
        changed = dict(row)
        # Every penguin in the data has an island, so the pipeline cannot impute it.
        for name in random.choice(COLUMNS[1:], size=random.integers(1, 4), replace=False):
            changed[name] = None
        if random.random() < 0.5:
            changed["island"] = "Atlantis"
        rows.append(changed)
    return rows


def add(version, pipeline, exported, train, golden_rows, golden, accuracy):
    """Adds the next version."""
    with tempfile.TemporaryDirectory() as made:
        onnx, examples, training = (Path(made) / name for name in ("penguins.onnx", "golden.json", "train.jsonl"))
        onnx.write_bytes(exported)
        leeway.rows.write_golden(examples, golden_rows, golden)
        leeway.rows.write_instances(training, train[COLUMNS])
        facts = {
            "onnx": onnx,
            "golden": examples,
            "baseline-data": training,
            "description": type(pipeline[-1]).__name__,
            "framework": f"scikit-learn {sklearn.__version__}",
            "trained-at": date.today().isoformat(),
            "dataset": f"palmerpenguins, split with seed {SEED}",
            "metric": f"accuracy={accuracy:.4f}",
        }
        flags = [text for name, value in facts.items() for text in (f"--{name}", str(value))]
        subprocess.run([ROOT / "target/release/leeway", "add", ROOT / "models/penguins", *flags], check=True)


def main():
    penguins = load_penguins()
    train, test = train_test_split(
        penguins, test_size=HELD_OUT, stratify=penguins["species"], random_state=SEED
    )
    rows = held_out_rows(test)
    asked = pandas.DataFrame(rows, columns=COLUMNS)
    held_out = {"source": f"scikit-learn {sklearn.__version__}, palmerpenguins, seed {SEED}", "instances": rows, "versions": {}}
    inputs = [
        (name, FloatTensorType([None, 1]) if name in NUMBERS else StringTensorType([None, 1])) for name in COLUMNS
    ]
    for version in pipelines():
        # A version is never changed, so these are removed and made again.
        shutil.rmtree(ROOT / "models/penguins" / str(version), ignore_errors=True)
    for version, pipeline in pipelines().items():
        pipeline.fit(prepared(train), train["species"])
        exported = to_onnx(
            pipeline, initial_types=inputs, options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3}
        ).SerializeToString()

        labels, probabilities = pipeline.predict(prepared(asked)), pipeline.predict_proba(prepared(asked))
        session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
        onnx_labels, onnx_probabilities = session.run(None, as_inputs(asked))
        difference = float(np.abs(onnx_probabilities - probabilities).max())
        if (onnx_labels != labels).any() or difference > 1e-5:
            raise SystemExit(f"version {version}: the export differs from scikit-learn by {difference}")
        accuracy = pipeline.score(prepared(test), test["species"])
        print(f"penguins version {version}: accuracy {accuracy:.4f}, export differs by at most {difference:.1e}")
        held_out["versions"][str(version)] = {
            "labels": labels.tolist(),
            "probabilities": [[float(f"{p:.9g}") for p in row] for row in probabilities],
        }
        # Some unchanged rows, and some with values that training did not have.
        chosen = [*range(EXAMPLES // 2), *range(len(rows) - EXAMPLES // 2, len(rows))]
        golden = leeway.rows.classes(labels[chosen], probabilities[chosen])
        add(version, pipeline, exported, train, [rows[row] for row in chosen], golden, accuracy)
    target = ROOT / "tests/data/penguins_held_out.json"
    target.write_text(json.dumps(held_out, separators=(",", ":"), allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
