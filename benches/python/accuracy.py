"""Predictions for real data whose distribution shifts, and NannyML's estimates of their accuracy, for
`benches/accuracy_estimate.rs`.

    python accuracy.py > cases

Each line of the output is a case as JSON: a model, its predictions for labelled rows, and for windows of rows with their true
accuracy and NannyML's estimate. A prediction is [class, confidence, true class].

A third of the rows of a data set of scikit-learn trains the model. Labelled rows are drawn from the second third, and windows from
the last one, each with noise (a smoothed bootstrap). Windows have less or more noise, or another share of the first class.
"""

import json
import os
import sys
import warnings

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore")

import nannyml
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LABELLED_ROWS = 3_000
WINDOW_ROWS = 1_000
# Noise in standard deviations of each feature: that of the labelled rows, and of the windows, each drawn five times.
NOISE = 0.6
WINDOWS = [(0.6, 1.0), (0.4, 1.0), (0.8, 1.0), (1.0, 1.0), (1.2, 1.0), (1.5, 1.0), (0.6, 0.3), (0.6, 3.0)] * 5

DATA_SETS = {"breast cancer": load_breast_cancer, "digits": load_digits, "wine": load_wine}
MODELS = {
    "naive Bayes": GaussianNB,
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=100, max_iter=5_000)),
    "random forest": lambda: RandomForestClassifier(50, random_state=0),
}


class Rows:
    """Draws rows of a data set with noise."""

    def __init__(self, features, labels, random):
        self.features, self.labels, self.random = features, labels, random
        self.deviation = features.std(axis=0)

    def draw(self, indexes, count, noise, weight_of_first):
        """Draws rows of these indexes. Rows of the first class are drawn `weight_of_first` times as often as others."""
        weights = np.where(self.labels[indexes] == 0, weight_of_first, 1.0)
        drawn = self.random.choice(indexes, count, p=weights / weights.sum())
        features = self.features[drawn] + self.random.normal(0, noise, (count, len(self.deviation))) * self.deviation
        return features, self.labels[drawn]


def frame(model, features, labels):
    """The predictions in the form of NannyML."""
    probabilities = model.predict_proba(features)
    columns = {f"p{index}": probabilities[:, index] for index in range(probabilities.shape[1])}
    return pd.DataFrame({"y": labels.astype(int), "predicted": probabilities.argmax(axis=1).astype(int), **columns})


def predictions(rows):
    probabilities = rows.filter(regex="^p[0-9]+$").to_numpy()
    return [[int(c), float(p), int(y)] for c, p, y in zip(rows["predicted"], probabilities.max(axis=1), rows["y"])]


def estimates(labelled, windows, classes):
    """NannyML's estimate of the accuracy of each window (CBPE, with its defaults)."""
    if classes == 2:
        kind = {"y_pred_proba": "p1", "problem_type": "classification_binary"}
    else:
        kind = {"y_pred_proba": {index: f"p{index}" for index in range(classes)}, "problem_type": "classification_multiclass"}
    estimator = nannyml.CBPE(y_true="y", y_pred="predicted", metrics=["accuracy"], chunk_size=WINDOW_ROWS, **kind)
    found = estimator.fit(labelled).estimate(pd.concat(windows, ignore_index=True)).filter(period="analysis").to_df()
    return found[("accuracy", "value")].tolist()


def main():
    random = np.random.default_rng(20261127)
    for data_set, load in DATA_SETS.items():
        data = load()
        varying = data.data.std(axis=0) > 0
        rows = Rows(data.data[:, varying].astype(float), data.target, random)
        for name, make in MODELS.items():
            training, second, third = np.array_split(random.permutation(len(rows.labels)), 3)
            model = make().fit(rows.features[training], rows.labels[training])
            labelled = frame(model, *rows.draw(second, LABELLED_ROWS, NOISE, 1.0))
            windows = [frame(model, *rows.draw(third, WINDOW_ROWS, noise, weight)) for noise, weight in WINDOWS]
            classes = len(model.classes_)
            case = {
                "data_set": data_set,
                "model": name,
                "nannyml": nannyml.__version__,
                "classes": classes,
                "labelled": predictions(labelled),
                "windows": [predictions(window) for window in windows],
                "estimates": estimates(labelled, windows, classes),
            }
            json.dump(case, sys.stdout)
            print(flush=True)


main()
