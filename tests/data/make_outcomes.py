#!/usr/bin/env python3
"""Writes outcomes_golden.json: what scikit-learn makes of the outcomes of real predictions.

Run by hand with the environment of models/requirements.txt; the product is committed:

    .venv/bin/python tests/data/make_outcomes.py
"""

import json
from pathlib import Path

import numpy as np
import sklearn
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    mean_absolute_error,
    precision_recall_fscore_support,
)
from sklearn.model_selection import train_test_split

BINS = 10


def expected_calibration_error(correct, confidence):
    """sum n_b/n |mean confidence - share of correct|, with scikit-learn's bins and means."""
    shares, means = calibration_curve(correct, confidence, n_bins=BINS, strategy="uniform")
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence), minlength=BINS)
    return float(np.sum(counts[counts > 0] / len(correct) * np.abs(means - shares)))


def classifier():
    pixels, digits = load_digits(return_X_y=True)
    # Few rows and noise, so that it is wrong often enough.
    train_x, test_x, train_y, test_y = train_test_split(pixels, digits, train_size=120, random_state=1)
    noise = np.random.default_rng(1).normal(0, 4, test_x.shape)
    model = LogisticRegression(max_iter=5000).fit(train_x, train_y)
    probabilities = model.predict_proba(test_x + noise).astype(np.float32)
    predicted = probabilities.argmax(axis=1)
    # As a client reads it: float32, exactly.
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (predicted == test_y).astype(int)
    precision, recall, _, _ = precision_recall_fscore_support(test_y, predicted)
    return {
        "what": "cases: predicted class, confidence, true class",
        "cases": [[int(p), float(c), int(t)] for p, c, t in zip(predicted, confidence, test_y)],
        "accuracy": accuracy_score(test_y, predicted),
        "brier_score": brier_score_loss(correct, confidence),
        "ece": expected_calibration_error(correct, confidence),
        "classes": {
            str(digit): {"precision": precision[digit], "recall": recall[digit]} for digit in range(10)
        },
    }


def regressor():
    x, y = load_diabetes(return_X_y=True)
    predicted = LinearRegression().fit(x[:200], y[:200]).predict(x[200:])
    return {
        "what": "cases: predicted value, true value",
        "cases": [[float(p), float(t)] for p, t in zip(predicted, y[200:])],
        "mae": mean_absolute_error(y[200:], predicted),
        "bias": float(np.mean(predicted - y[200:])),
    }


def fleet():
    """100,000 predictions of the shipped model: the held-out digits over and over, every seventh label a wrong one."""
    held_out = json.loads((Path(__file__).resolve().parent / "digits_held_out.json").read_text())
    rows = np.arange(100_000) % len(held_out["digits"])
    digits = np.array(held_out["digits"])[rows]
    labels = np.where(np.arange(100_000) % 7 == 0, (digits + 1) % 10, digits)
    probabilities = np.array(held_out["versions"]["2"]["probabilities"], dtype=np.float32)[rows]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    correct = (predicted == labels).astype(int)
    return {
        "accuracy": accuracy_score(labels, predicted),
        "brier_score": brier_score_loss(correct, confidence),
        "ece": expected_calibration_error(correct, confidence),
    }


golden = {
    "source": f"scikit-learn {sklearn.__version__}",
    "classifier": classifier(),
    "regressor": regressor(),
    "fleet": fleet(),
}
path = Path(__file__).resolve().parent / "outcomes_golden.json"
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print({key: value for key, value in golden["classifier"].items() if key in ("accuracy", "brier_score", "ece")})
