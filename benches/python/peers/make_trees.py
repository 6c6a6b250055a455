"""Trains a model of 500 trees with LightGBM, and writes trees.txt, model.onnx and request.json to a folder.

    python make_trees.py FOLDER
"""

import json
import sys
from pathlib import Path

import lightgbm
import numpy as np
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

FEATURES, TREES = 30, 500

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(0)
rows = random.standard_normal((20_000, FEATURES)).astype(np.float32)
hidden = np.sin(rows @ random.standard_normal(FEATURES)) + rows[:, 0] * rows[:, 1]
truth = hidden + random.standard_normal(len(rows)) > 0
parameters = {"objective": "binary", "num_leaves": 31, "verbose": -1, "seed": 0}
booster = lightgbm.train(parameters, lightgbm.Dataset(rows, truth), num_boost_round=TREES)
booster.save_model(folder / "trees.txt")
model = convert_lightgbm(booster, initial_types=[("x", FloatTensorType([None, FEATURES]))], zipmap=False)
(folder / "model.onnx").write_bytes(model.SerializeToString())
(folder / "request.json").write_text(json.dumps({"instances": rows[:1].tolist()}))
