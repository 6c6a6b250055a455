"""Models of LightGBM, XGBoost and CatBoost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Iterable

from leeway.errors import ExportFailed
from leeway.exporting.conversion import Converted
from leeway.exporting.table import Kind, Table, module


def register(parts: Iterable[Any]) -> None:
    """Tells skl2onnx of the converters for those boosted models that are among these parts."""
    for part in parts:
        name = type(part).__name__
        package = type(part).__module__.partition(".")[0]
        if package == "lightgbm" and name in ("LGBMClassifier", "LGBMRegressor"):
            converter = module("onnxmltools.convert.lightgbm.operator_converters.LightGbm", "boosting").convert_lightgbm
        elif package == "xgboost" and name in ("XGBClassifier", "XGBRegressor"):
            converter = module("onnxmltools.convert.xgboost.operator_converters.XGBoost", "boosting").convert_xgboost
        elif package == "catboost" and name.startswith("CatBoost"):
            raise ExportFailed(
                "CatBoost's own export takes no pipeline around the model; export the CatBoost model alone, on numbers"
            )
        else:
            continue
        _register(type(part), f"{package}{name}", converter)


def _register(kind: type, alias: str, converter: Any) -> None:
    skl2onnx = module("skl2onnx", "sklearn")
    shapes = module("skl2onnx.common.shape_calculator", "sklearn")
    if kind.__name__.endswith("Classifier"):
        skl2onnx.update_registered_converter(
            kind,
            alias,
            shapes.calculate_linear_classifier_output_shapes,
            converter,
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
        )
    else:
        skl2onnx.update_registered_converter(
            kind, alias, shapes.calculate_linear_regressor_output_shapes, converter, options={"split": None}
        )


def without_names(part: Any) -> None:
    """Removes the names of features from a copy of an XGBoost model: its converter knows them by their position only."""
    booster = getattr(part, "_Booster", None)
    if booster is not None:
        booster.feature_names = None
        booster.feature_types = None


def convert_catboost(model: Any, table: Table, is_classifier: bool) -> Converted:
    """Converts a model of CatBoost by its own exporter."""
    onnx = module("onnx", "boosting")
    texts = [column.name for column in table.columns if column.kind is Kind.TEXT]
    if texts:
        raise ExportFailed(
            f"the column {texts[0]!r} has texts, and CatBoost exports only models of numbers; encode it in a step before "
            "training, for example with scikit-learn and LightGBM in one pipeline"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            model.save_model(str(path), format="onnx")
        except Exception as error:
            raise ExportFailed(f"CatBoost cannot export this model: {str(error)[:400]}") from error
        exported = onnx.load(str(path))
    outputs = [entry.name for entry in exported.graph.output]
    output = outputs[1] if is_classifier else outputs[0]
    return Converted(exported.SerializeToString(), "float32", output, matrix=exported.graph.input[0].name)
