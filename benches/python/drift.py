"""Windows of real data with known shifts, and whether Evidently flags them, for `benches/drift.rs`.

    python drift.py > windows

The output starts with a line of JSON (an introduction) and the rows of the baseline. Then each window has a line of JSON and its
rows. A row is 31 little-endian numbers of single precision: 30 features of scikit-learn's breast cancer data, and the index of a
category. Evidently sees exactly these numbers.

Evidently's report takes seconds, so most windows are compared by the two distances that its defaults choose for a baseline of more
than 1,000 rows, which take milliseconds. One window of each shift and of each of the sizes in CHECKED_SIZES is also given to
Evidently's own report, which must have the same scores.
"""

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

os.environ["DO_NOT_TRACK"] = "1"
# More threads only wait for each other: `benches/drift.rs` needs the other core.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from scipy.spatial.distance import jensenshannon
from sklearn.datasets import load_breast_cancer

SIZES = [50, 100, 200, 350, 500, 700, 1_000, 1_400, 2_000, 5_000, 10_000]
BASELINE_ROWS = 10_000
QUIET_WINDOWS = 2_000
SHIFTED_WINDOWS = 200
CHECKED_SIZES = [350, 2_000]

# The last category does not occur in the baseline.
CATEGORIES = ["red", "blue", "green", "grey", "black", "violet"]
SHARES = [0.5, 0.25, 0.1, 0.1, 0.05, 0]
DOUBLED_SHARES = [0.8 / 0.9 * share for share in SHARES[:2]] + [0.2] + [0.8 / 0.9 * share for share in SHARES[3:]]
UNSEEN_SHARES = [0.97 * share for share in SHARES[:5]] + [0.03]
BENIGN = 357 / 569
# Evidently's threshold for both distances.
THRESHOLD = 0.1


class Population:
    """A smoothed bootstrap of scikit-learn's breast cancer data, with a category that depends on nothing."""

    def __init__(self):
        data = load_breast_cancer()
        self.names = [str(name) for name in data.feature_names]
        self.noise = (0.1 * data.data.std(axis=0)).astype(np.float32)
        self.benign, self.malignant = (data.data[data.target == target].astype(np.float32) for target in (1, 0))

    def draw(self, random, count, benign=BENIGN, shares=SHARES):
        """Returns the numbers and the categories of this many rows. `benign` is the share of benign cases."""
        is_benign = random.random((count, 1)) < benign
        of = lambda cases: cases[random.integers(len(cases), size=count)]
        numbers = np.where(is_benign, of(self.benign), of(self.malignant))
        numbers += random.standard_normal(numbers.shape, dtype=np.float32) * self.noise
        return np.maximum(numbers, 0, out=numbers), random.choice(len(shares), count, p=shares)


class EvidentlyDefaults:
    """The distances of Evidently's defaults from a baseline of more than 1,000 rows."""

    def __init__(self, names, numbers, categories):
        self.names = names
        self.columns = np.sort(numbers.astype(np.float64), axis=0).T.copy()
        # Evidently divides by this deviation.
        self.deviations = np.maximum(self.columns.std(axis=1), 0.001)
        self.shares = np.bincount(categories, minlength=len(CATEGORIES)) / len(categories)
        self.definition = DataDefinition(numerical_columns=names, categorical_columns=["category"])
        self.reference = self.dataset(numbers, categories)

    def scores(self, numbers, categories):
        """Returns the distance of each column of a window."""
        columns = np.sort(numbers.T, axis=1).astype(np.float64)
        distances = [self.wasserstein(index, column) for index, column in enumerate(columns)]
        shares = np.bincount(categories, minlength=len(CATEGORIES)) / len(categories)
        return np.array([*distances, jensenshannon(self.shares, shares)])

    def wasserstein(self, index, values):
        """Returns the normed Wasserstein distance of sorted values. Evidently drops missing values, which are last."""
        values = values[: len(values) - np.isnan(values).sum()]
        widths, of_baseline, of_window = overlaps(len(self.columns[index]), len(values))
        gaps = np.abs(self.columns[index][of_baseline] - values[of_window])
        return gaps @ widths / self.deviations[index]

    def scores_of_report(self, numbers, categories):
        """Returns the distance of each column, and the number of flagged columns, by Evidently's own report."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = Report([DataDriftPreset()]).run(self.dataset(numbers, categories), self.reference)
        count, *columns = report.dict()["metrics"]
        scores = {column["config"]["column"]: column for column in columns}
        for name in self.names:
            assert scores[name]["config"]["method"] == "Wasserstein distance (normed)", scores[name]
        assert scores["category"]["config"]["method"] == "Jensen-Shannon distance", scores["category"]
        assert all(column["config"]["threshold"] == THRESHOLD for column in columns)
        return np.array([scores[name]["value"] for name in [*self.names, "category"]]), count["value"]["count"]

    def check(self, scores, numbers, categories):
        """Fails if Evidently's own report has other scores, or flags other columns."""
        of_report, flagged = self.scores_of_report(numbers, categories)
        assert np.allclose(scores, of_report, rtol=1e-9, atol=1e-12), (scores, of_report)
        assert flagged == (scores >= THRESHOLD).sum(), (flagged, scores)

    def dataset(self, numbers, categories):
        frame = pd.DataFrame(numbers.astype(np.float64), columns=self.names)
        frame["category"] = [CATEGORIES[category] for category in categories]
        return Dataset.from_pandas(frame, self.definition)


@functools.lru_cache(maxsize=64)
def overlaps(baseline, window):
    """Returns the parts of 0 to 1 in which two sorted samples of these sizes have the same value each: their widths, and the indexes
    of the values. The Wasserstein distance is the mean difference of the quantiles over these parts."""
    ends = np.union1d(np.arange(1, baseline + 1) * window, np.arange(1, window + 1) * baseline)
    return np.diff(ends, prepend=0) / (baseline * window), (ends - 1) // window, (ends - 1) // baseline


# ===== shifts =====


@dataclass
class Shift:
    """A change of a window. `drawn` has arguments of `Population.draw`."""

    drawn: dict = field(default_factory=dict)
    # Returns the changed values of the first feature.
    first: Callable = lambda random, values: values
    # Factor of all features.
    factor: float = 1

    def draw(self, random, population, count):
        numbers, categories = population.draw(random, count, **self.drawn)
        numbers[:, 0] = self.first(random, numbers[:, 0])
        numbers *= self.factor
        return numbers, categories


def shifts(mean, deviation):
    """Returns the shifts by name, for this mean and deviation of the first feature."""
    plus = lambda deviations: Shift(first=lambda random, x: x + deviations * deviation)
    stretched = lambda factor: Shift(first=lambda random, x: mean + factor * (x - mean))
    with_share = lambda share, value: Shift(first=lambda random, x: np.where(random.random(len(x)) < share, value, x))
    return {
        "none": Shift(),
        "mean + 0.25 σ": plus(0.25),
        "mean + 0.5 σ": plus(0.5),
        "mean + 1 σ": plus(1),
        "deviation × 1.5": stretched(1.5),
        "deviation × 0.7": stretched(0.7),
        "a category 10 % → 20 %": Shift(drawn={"shares": DOUBLED_SHARES}),
        "3 % in an unseen category": Shift(drawn={"shares": UNSEEN_SHARES}),
        "2 % missing": with_share(0.02, np.nan),
        "5 % missing": with_share(0.05, np.nan),
        "5 % are −999": with_share(0.05, -999),
        "5 % are 0, out of range": with_share(0.05, 0),
        "10 % in another unit (× 10)": Shift(
            first=lambda random, x: np.where(random.random(len(x)) < 0.1, 10 * x, x)
        ),
        "all features × 1.1": Shift(factor=1.1),
        "one feature permuted among rows": Shift(first=lambda random, x: random.permutation(x)),
        "benign cases 63 % → 80 %": Shift(drawn={"benign": 0.8}),
    }


# ===== output =====


def write(header, numbers, categories):
    rows = np.column_stack([numbers, categories]).astype("<f4")
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    sys.stdout.buffer.write(rows.tobytes())


def write_windows(population, evidently, number, name, shift):
    """Writes the windows of a shift. Each has a seed of its own."""
    for size in SIZES:
        for index in range(QUIET_WINDOWS if name == "none" else SHIFTED_WINDOWS):
            numbers, categories = shift.draw(np.random.default_rng([number, size, index]), population, size)
            scores = evidently.scores(numbers, categories)
            is_checked = index == 0 and size in CHECKED_SIZES
            if is_checked:
                evidently.check(scores, numbers, categories)
            is_flagged = bool((scores >= THRESHOLD).any())
            header = {"shift": name, "rows": size, "is_flagged": is_flagged, "is_checked": is_checked}
            write(header, numbers, categories)


if __name__ == "__main__":
    population = Population()
    numbers, categories = population.draw(np.random.default_rng(0), BASELINE_ROWS)
    evidently = EvidentlyDefaults(population.names, numbers, categories)
    introduction = {"numbers": population.names, "categories": CATEGORIES, "rows": BASELINE_ROWS}
    write({**introduction, "evidently": version("evidently")}, numbers, categories)
    all_shifts = shifts(mean=float(numbers[:, 0].mean()), deviation=float(numbers[:, 0].std()))
    for number, (name, shift) in enumerate(all_shifts.items(), start=1):
        write_windows(population, evidently, number, name, shift)
