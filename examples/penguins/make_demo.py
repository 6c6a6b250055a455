#!/usr/bin/env python3
"""Makes what `leeway demo` has in its program beside the shipped model: labelled rows, and a version that is worse.

    src/cli/demo/penguins.csv   the rows that examples/penguins/train.py holds out, with their species
    src/cli/demo/canary/        a version that was trained on body mass in kilograms, and is asked about grams

The canary is as good as the other versions on its own test data, which have kilograms, too. It has neither examples that
are checked at every load nor a baseline, so only outcomes show that it is worse.

Run by hand, as examples/penguins/train.py; the products are committed.
"""

import shutil
import subprocess
import tempfile
from datetime import date
from pathlib import Path

import sklearn
from palmerpenguins import load_penguins
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.model_selection import train_test_split

from train import CATEGORIES, COLUMNS, HELD_OUT, NUMBERS, ROOT, SEED, pipelines, prepared

DEMO = ROOT / "src/cli/demo"


def in_kilograms(frame):
    return frame.assign(body_mass_g=frame["body_mass_g"] / 1000)


def main():
    train, test = train_test_split(
        load_penguins(), test_size=HELD_OUT, stratify=load_penguins()["species"], random_state=SEED
    )
    test[["species", *COLUMNS]].to_csv(DEMO / "penguins.csv", index=False)

    canary = pipelines()[1].fit(prepared(in_kilograms(train)), train["species"])
    claimed = canary.score(prepared(in_kilograms(test)), test["species"])
    real = canary.score(prepared(test), test["species"])
    print(f"accuracy {claimed:.2f} on its own test data, {real:.2f} on what it is asked")
    inputs = [(name, FloatTensorType([None, 1])) for name in NUMBERS]
    inputs += [(name, StringTensorType([None, 1])) for name in CATEGORIES]
    inputs.sort(key=lambda named: COLUMNS.index(named[0]))
    exported = to_onnx(canary, initial_types=inputs, options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})
    with tempfile.TemporaryDirectory() as made:
        onnx, model = Path(made) / "canary.onnx", Path(made) / "penguins"
        onnx.write_bytes(exported.SerializeToString())
        shutil.copytree(ROOT / "models/penguins", model)
        facts = {
            "onnx": onnx,
            "description": "LogisticRegression, trained again",
            "framework": f"scikit-learn {sklearn.__version__}",
            "trained-at": date.today().isoformat(),
            "dataset": "palmerpenguins, with body mass in kilograms",
            "metric": f"accuracy={claimed:.2f}",
        }
        flags = [text for name, value in facts.items() for text in (f"--{name}", str(value))]
        subprocess.run([ROOT / "target/release/leeway", "add", model, *flags], check=True)
        shutil.rmtree(DEMO / "canary", ignore_errors=True)
        shutil.copytree(model / "3", DEMO / "canary")


if __name__ == "__main__":
    main()
