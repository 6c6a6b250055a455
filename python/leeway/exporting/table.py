"""Rows of training data: which columns there are, and how they reach the exported model.

A table with names becomes `kind = "tabular"`: each instance is an object by column name. An array becomes
`kind = "tensor"`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Sequence

from leeway.errors import ExportFailed

#: Stands for a missing text in the exported model, because ONNX has no missing text. model.toml puts it there.
MISSING_TEXT = "__missing__"


def module(name: str, extra: str) -> Any:
    """Imports a package that only an export needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportFailed(f"{error}; `pip install \"leeway-server[{extra}]\"` installs what this export needs") from error


class Kind(Enum):
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"
    #: Categories that the framework numbers itself, as LightGBM does with those of pandas.
    CATEGORY = "category"


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    #: True if the model takes rows without a value.
    may_be_missing: bool = False
    #: The categories in the order of their numbers.
    vocabulary: tuple[Any, ...] = ()

    def cells(self, values: Any, dtype: str) -> Any:
        """Returns the values as the model's input takes them, as Leeway will make them of an instance."""
        numpy = module("numpy", "sklearn")
        pandas = module("pandas", "sklearn")
        is_missing = pandas.isna(values).to_numpy()
        if self.kind is Kind.TEXT:
            texts = values.astype(object).to_numpy().copy()
            texts[is_missing] = MISSING_TEXT
            return texts
        if self.kind is Kind.CATEGORY:
            places = {value: float(place) for place, value in enumerate(self.vocabulary)}
            unknown = float(len(places))
            return numpy.array([places.get(value, unknown) for value in values.astype(object)], dtype=dtype)
        numbers = numpy.full(len(values), numpy.nan, dtype=numpy.float64)
        numbers[~is_missing] = values[~is_missing].astype(numpy.float64)
        return numbers.astype(dtype)


class Table:
    """The rows that were given to an export."""

    def __init__(self, rows: Any) -> None:
        numpy, pandas = module("numpy", "sklearn"), module("pandas", "sklearn")
        #: The rows as the framework takes them.
        self.rows = rows
        if hasattr(rows, "to_pandas"):
            rows = rows.to_pandas()
        if hasattr(rows, "sparse") and not isinstance(rows, (pandas.DataFrame, pandas.Series)) or hasattr(rows, "tocsr"):
            raise ExportFailed("X is a sparse matrix; give the pipeline that makes it, and the rows before it")
        self.is_texts = False
        if isinstance(rows, pandas.Series) or (isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], str)):
            # A pipeline that takes texts, not a table.
            self.is_texts = True
            name = getattr(rows, "name", None) or "text"
            rows = pandas.DataFrame({str(name): list(rows)})
        self.has_names = isinstance(rows, pandas.DataFrame)
        if not self.has_names:
            array = numpy.asarray(rows)
            if array.ndim != 2 or array.dtype.kind not in "biuf":
                raise ExportFailed(
                    f"X is an array of {array.ndim} dimensions and type {array.dtype}; give a DataFrame, or an array of "
                    "numbers with a row for each instance"
                )
            if array.dtype.kind == "f" and numpy.isnan(array).any():
                raise ExportFailed("X has missing values, and only columns with names may have them; give a DataFrame")
            rows = pandas.DataFrame(array)
        if len(rows) == 0:
            raise ExportFailed("X has no rows; give the rows that the model was trained on, or held-out rows")
        self.frame = rows
        self.columns: list[Column] = [column_of(name, rows[name]) for name in rows.columns]
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ExportFailed(f"two columns of X have one name: {sorted(name for name in names if names.count(name) > 1)[0]!r}")

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, places: Sequence[int]) -> Any:
        """Returns rows as the framework takes them."""
        if hasattr(self.rows, "iloc"):
            return self.rows.iloc[list(places)]
        if isinstance(self.rows, (list, tuple)):
            return [self.rows[place] for place in places]
        return self.rows[list(places)]

    def without(self, name: str, places: Sequence[int]) -> Any:
        """Returns rows of the frame in which a column has no values."""
        numpy = module("numpy", "sklearn")
        frame = self.frame.iloc[list(places)].copy()
        place = [column.name for column in self.columns].index(name)
        label = frame.columns[place]
        column, kind = frame[label], self.columns[place].kind
        if kind is Kind.CATEGORY:
            frame[label] = column.where([False] * len(column))
        elif kind is Kind.BOOLEAN or column.dtype == object:
            frame[label] = numpy.array([numpy.nan] * len(column), dtype=object)
        else:
            frame[label] = (column.astype("float64") if column.dtype.kind in "iu" else column).where([False] * len(column))
        return frame

    def set_missing(self, names: set[str]) -> None:
        self.columns = [replace(column, may_be_missing=column.name in names) for column in self.columns]


def column_of(name: Any, values: Any) -> Column:
    """Finds the kind of a column."""
    pandas = module("pandas", "sklearn")
    types = pandas.api.types
    shown = repr(str(name))
    if isinstance(values.dtype, pandas.CategoricalDtype):
        categories = values.dtype.categories
        kind = Kind.NUMBER if types.is_numeric_dtype(categories.dtype) else Kind.TEXT
        return Column(str(name), kind, bool(values.isna().any()), tuple(categories.tolist()))
    has_missing = bool(values.isna().any())
    if types.is_bool_dtype(values.dtype):
        return Column(str(name), Kind.BOOLEAN, has_missing)
    if types.is_numeric_dtype(values.dtype) and values.dtype.kind != "c":
        return Column(str(name), Kind.NUMBER, has_missing)
    found = types.infer_dtype(values, skipna=True)
    kinds = {"string": Kind.TEXT, "boolean": Kind.BOOLEAN, "integer": Kind.NUMBER, "floating": Kind.NUMBER}
    kinds |= {"mixed-integer-float": Kind.NUMBER}
    if found not in kinds:
        hint = {
            "empty": "it has no value at all; leave it out",
            "mixed-integer": "it mixes texts and numbers; convert it to one of them before training",
            "mixed": "it mixes values of several types; convert it to texts or to numbers before training",
        }.get(found, "convert it to numbers or texts before training, as a request will send it")
        raise ExportFailed(f"the column {shown} has values of the type {found}, which an instance cannot have: {hint}")
    return Column(str(name), kinds[found], has_missing)
