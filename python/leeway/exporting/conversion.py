"""From a framework's model to an ONNX file: chooses the converter, and describes the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator

from leeway.exporting.table import Table


@dataclass(frozen=True)
class Converted:
    """An ONNX file, and how its inputs and outputs belong to the table and the predictions."""

    onnx: bytes
    #: Type of the numbers that the inputs take.
    dtype: str
    #: The output with the scores of the classes, or with the numbers.
    output: str
    #: The input that takes all columns, in their order; None if each column has its own.
    matrix: str | None = None
    #: The input of each column that the model uses.
    inputs: dict[str, str] | None = None

    def used(self, table: Table) -> list[str]:
        """Returns the columns that the model uses."""
        names = [column.name for column in table.columns]
        return names if self.inputs is None else [name for name in names if name in self.inputs]


#: A conversion that is tried, with a description for messages.
Attempt = tuple[str, Callable[[], Converted]]


def framework_of(model: Any) -> str:
    """Returns the package that the model, or its class, is of."""
    for kind in (model if isinstance(model, type) else type(model)).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in ("sklearn", "lightgbm", "xgboost", "catboost", "torch"):
            # The classes of LightGBM and XGBoost come before those of scikit-learn, which they derive from.
            return package
    return type(model).__module__.partition(".")[0]


def attempts(model: Any, table: Table, is_classifier: bool) -> Iterator[Attempt]:
    """Returns the conversions to try, the usual one first. The next one is tried only if the answers differ."""
    # Converters are imported when a model needs them.
    if framework_of(model) == "catboost":
        from leeway.exporting.boosting import convert_catboost

        yield "its own export", lambda: convert_catboost(model, table, is_classifier)
        return
    from leeway.exporting.scikit_learn import convert

    yield "float32", lambda: convert(model, table, is_classifier, "float32")
    yield "float64", lambda: convert(model, table, is_classifier, "float64")
