#!/usr/bin/env python3
"""A scikit-learn regressor: ten columns of a table to a number, in the unit of the training data.

Data: scikit-learn's bundled *diabetes*, 442 patients (Efron, Hastie, Johnstone & Tibshirani, "Least Angle Regression",
2004), unscaled, with the columns by name. Nothing is downloaded. The model predicts the standardised progression of the
disease; `model.toml` reverses the standardisation, and puts the columns into one tensor.

    pip install -r models/requirements.txt pandas
    python examples/diabetes/train.py models/diabetes

The tests serve the model that is written with `--held-out tests/data/diabetes/held_out.json tests/data/diabetes`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import sklearn
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "python"))
import leeway  # noqa: E402

SEED = 20261125

MODEL_TOML = """# A regressor over a table. How it was made: examples/diabetes/train.py.
description = "Ten measurements of a patient to the progression of diabetes a year later, 25 to 346"

[preprocess]
kind = "tabular"             # each instance is an object by column name; the columns become one tensor, in this order

{columns}
[model]
intra_op_threads = 1

[postprocess]
kind = "regressor"           # the model predicts a standardised value:
scale = {deviation!r}
offset = {mean!r}
clip = [0, 400]              # no progression was outside of this
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path, help="the model's folder, as in models/diabetes")
    parser.add_argument("--held-out", type=Path, help="write the held-out rows and scikit-learn's predictions")
    parser.add_argument("--leeway", default=ROOT / "target/release/leeway", help="path of the leeway program")
    arguments = parser.parse_args()

    rows, progression = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    rows = rows.astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(rows, progression, test_size=90, random_state=SEED)
    mean, deviation = float(train_y.mean()), float(train_y.std())
    model = GradientBoostingRegressor(n_estimators=80, max_depth=3, learning_rate=0.08, random_state=SEED)
    model.fit(train_x.to_numpy(), (train_y - mean) / deviation)
    predicted = model.predict(test_x.to_numpy()) * deviation + mean
    error = mean_absolute_error(test_y, predicted)
    print(f"mean absolute error {error:.1f}")

    folder = arguments.model_dir
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "1", ignore_errors=True)
    columns = "\n".join(f'[[preprocess.columns]]\nname = "{name}"\n' for name in rows.columns)
    (folder / "model.toml").write_text(MODEL_TOML.format(columns=columns, mean=mean, deviation=deviation))
    with tempfile.TemporaryDirectory() as made:
        made = Path(made)
        exported = to_onnx(model, initial_types=[("measurements", FloatTensorType([None, rows.shape[1]]))], target_opset=18)
        (made / "diabetes.onnx").write_bytes(exported.SerializeToString())
        leeway.rows.write_golden(made / "golden.json", test_x[:10], leeway.rows.values(predicted[:10]))
        leeway.rows.write_instances(made / "train.jsonl", train_x)
        command = [arguments.leeway, "add", folder, "--onnx", made / "diabetes.onnx", "--golden", made / "golden.json"]
        command += ["--baseline-data", made / "train.jsonl", "--framework", f"scikit-learn {sklearn.__version__}"]
        command += ["--trained-at", date.today().isoformat(), "--metric", f"mae={error:.2f}"]
        subprocess.run([str(part) for part in command], check=True)
    if arguments.held_out:
        held_out = {"instances": leeway.rows.instances(test_x), "values": [float(f"{value:.9g}") for value in predicted]}
        arguments.held_out.write_text(json.dumps(held_out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
