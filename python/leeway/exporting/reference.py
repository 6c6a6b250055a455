"""What the framework itself predicts, which the exported model is compared with."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Sequence

from leeway.errors import ExportFailed
from leeway.exporting.table import module


@dataclass(frozen=True)
class Reference:
    """A model of the framework, with the form of its predictions."""

    model: Any
    #: The classes of a classifier, in the order of its scores; None for a regressor.
    classes: tuple[Any, ...] | None
    #: Names of the numbers of a regressor that predicts several; empty if it predicts one.
    targets: tuple[str, ...] = ()

    @property
    def is_classifier(self) -> bool:
        return self.classes is not None

    def predict(self, rows: Any) -> Any:
        """Returns the scores of the classes, or the predicted numbers, as an array with a row for each instance."""
        numpy = module("numpy", "sklearn")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predicted = self.model.predict_proba(rows) if self.is_classifier else self.model.predict(rows)
        scores = numpy.asarray(predicted, dtype=numpy.float64)
        return scores.reshape(len(scores), -1)

    def documents(self, scores: Any, labels: Sequence[Any] | None, tolerance: float) -> list[dict[str, Any]]:
        """Returns predictions in the form in which Leeway answers them. A label that another one equals within the tolerance is
        left out."""
        if self.classes is None:
            if self.targets:
                return [{"values": dict(zip(self.targets, map(float, row)))} for row in scores]
            return [{"value": float(row[0])} for row in scores]
        names = plain_classes(self.classes) if labels is None else list(labels)
        documents: list[dict[str, Any]] = []
        for row in scores:
            *_, second, best = sorted(map(float, row))
            is_certain = best - second > 2 * tolerance
            label = {"label": names[int(row.argmax())]} if is_certain else {}
            documents.append({**label, "confidence": best})
        return documents


def reference_of(model: Any, truth: Any) -> Reference:
    """Finds out what a model predicts."""
    numpy = module("numpy", "sklearn")
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    if isinstance(model, type) or not hasattr(model, "predict"):
        raise ExportFailed(f"{name} has no predict; give a fitted model, not its class or its parameters")
    classes = getattr(model, "classes_", None)
    # CatBoost's regressors have classes, but none.
    if classes is None or len(classes) == 0:
        shape: tuple[int, ...] = numpy.shape(truth) if truth is not None else ()
        if len(shape) == 2 and shape[1] > 1:
            named = getattr(truth, "columns", range(shape[1]))
            return Reference(model, None, tuple(str(name) for name in named))
        return Reference(model, None)
    if isinstance(classes, list) and classes and numpy.ndim(classes[0]) == 1:
        raise ExportFailed(f"{name} predicts several targets; export it yourself, with [[postprocess.targets]] (docs/stages.md)")
    if not hasattr(model, "predict_proba"):
        raise ExportFailed(
            f"{name} has no predict_proba, so it has no confidence to answer; wrap it in CalibratedClassifierCV, or set "
            "probability=True for an SVC"
        )
    return Reference(model, tuple(numpy.asarray(classes).tolist()))


def plain_classes(classes: Sequence[Any]) -> list[Any]:
    """Returns classes as a converted model has them: booleans and whole numbers are integers."""
    is_number = all(isinstance(name, (bool, int, float)) and float(name).is_integer() for name in classes)
    return [int(name) for name in classes] if is_number else [str(name) for name in classes]
