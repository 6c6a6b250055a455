"""scikit-learn's models and pipelines, by skl2onnx, also with models of LightGBM and XGBoost in them.

A pipeline is converted from a copy in which a few things are written as ONNX can have them: a missing text is a word of
its own, a boolean is 1 or 0. So nothing has to be trained again. Parity is checked afterwards, on every row.
"""

from __future__ import annotations

import copy
from typing import Any, Callable, Iterable

from leeway.errors import ExportFailed
from leeway.exporting.boosting import register, without_names
from leeway.exporting.conversion import Converted
from leeway.exporting.table import MISSING_TEXT, Kind, Table, module

#: Opsets that ONNX Runtime 1.31 runs, and in which skl2onnx's trees have their missing values.
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def convert(model: Any, table: Table, is_classifier: bool, dtype: str) -> Converted:
    """Converts a fitted model. With float64, numbers are computed as scikit-learn does, up to the last step, which gets
    float32: as scikit-learn's own trees do."""
    skl2onnx = module("skl2onnx", "sklearn")
    types = module("skl2onnx.common.data_types", "sklearn")
    number = types.DoubleTensorType if dtype == "float64" else types.FloatTensorType
    rewritten = _Rewriting(table).model(model)
    if dtype == "float64":
        rewritten = _with_float32_last(rewritten)
    by_column = table.is_texts or _takes_columns_by_name(model)
    if by_column:
        of_kind = {Kind.TEXT: types.StringTensorType}
        inputs = [(column.name, of_kind.get(column.kind, number)([None, 1])) for column in table.columns]
    else:
        texts = [column.name for column in table.columns if column.kind is Kind.TEXT and not column.vocabulary]
        if texts:
            raise ExportFailed(
                f"the column {texts[0]!r} has texts, and the model has no ColumnTransformer that encodes them; put the "
                "encoding into the pipeline, so that it is exported, too"
            )
        inputs = [("input", number([None, len(table.columns)]))]
    register(_estimators(rewritten))
    onnx = _converted(skl2onnx, rewritten, inputs, is_classifier, table)
    graph = onnx.graph
    names = [entry.name for entry in graph.input]
    outputs = [entry.name for entry in graph.output]
    output = outputs[1] if is_classifier and len(outputs) > 1 else outputs[0]
    if not by_column:
        return Converted(onnx.SerializeToString(), dtype, output, matrix=names[0])
    used = {name for node in graph.node for name in node.input}
    by_name = {column.name: name for column, name in zip(table.columns, names) if name in used}
    for entry in [entry for entry in graph.input if entry.name not in used]:
        graph.input.remove(entry)
    return Converted(onnx.SerializeToString(), dtype, output, inputs=by_name)


def _converted(skl2onnx: Any, model: Any, inputs: list[Any], is_classifier: bool, table: Table) -> Any:
    imputer = module("sklearn.impute", "sklearn").SimpleImputer
    ordinal = module("sklearn.preprocessing", "sklearn").OrdinalEncoder
    ensemble = module("sklearn.ensemble", "sklearn")
    histograms = (ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor)
    registry = module("skl2onnx.common._registration", "sklearn")
    try:
        return skl2onnx.convert_sklearn(
            model,
            initial_types=inputs,
            options={"zipmap": False} if is_classifier else None,
            target_opset=_OPSETS,
            custom_conversion_functions={
                imputer: _convert_imputer,
                ordinal: _convert_ordinal,
                **dict.fromkeys(histograms, _convert_histograms),
            },
            custom_shape_calculators={
                imputer: registry.get_shape_calculator("SklearnSimpleImputer"),
                ordinal: _shape_of_ordinal,
            },
        )
    except Exception as error:
        # skl2onnx raises errors of every kind.
        reason = " ".join(str(error).split())[:400]
        raise ExportFailed(
            f"skl2onnx cannot convert this model: {reason} (what it supports: "
            f"skl2onnx.supported_converters(); a step that it cannot convert has to be replaced before training)"
        ) from error


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """SimpleImputer for float64, which ONNX's own Imputer does not take."""
    types = module("skl2onnx.common.data_types", "sklearn")
    common = module("skl2onnx.operator_converters.common", "sklearn")
    original = module("skl2onnx.operator_converters.imputer_op", "sklearn")
    numpy = module("numpy", "sklearn")
    imputer = operator.raw_operator
    if getattr(imputer, "add_indicator", False) and imputer.indicator_.features_.size:
        raise NotImplementedError("SimpleImputer(add_indicator=True); put a MissingIndicator of numbers beside the imputer")
    is_number = imputer.missing_values is None or not isinstance(imputer.missing_values, str)
    if not isinstance(operator.inputs[0].type, types.DoubleTensorType) or not (
        is_number and numpy.isnan(numpy.float64(imputer.missing_values))
    ):
        original.convert_sklearn_imputer(scope, operator, container)
        return
    numbers = common.concatenate_variables(scope, operator.inputs, container)
    fill, is_missing = scope.get_unique_variable_name("fill"), scope.get_unique_variable_name("is_missing")
    statistics = [float(value) for value in imputer.statistics_]
    double = module("onnx", "sklearn").TensorProto.DOUBLE
    container.add_initializer(fill, double, [1, len(statistics)], statistics)
    container.add_node("IsNaN", [numbers], [is_missing], op_version=13)
    container.add_node("Where", [is_missing, fill, numbers], [operator.outputs[0].full_name], op_version=16)


def _convert_ordinal(scope: Any, operator: Any, container: Any) -> None:
    """OrdinalEncoder of texts, with its values for missing and for unknown ones; skl2onnx's for anything else."""
    if not _is_of_texts(operator):
        module("skl2onnx.common._registration", "sklearn").get_converter("SklearnOrdinalEncoder")(scope, operator, container)
        return
    encoder = operator.raw_operator
    proto = module("onnx", "sklearn").TensorProto
    names = [part.full_name for part in operator.inputs]
    texts = names[0]
    if len(names) > 1:
        texts = scope.get_unique_variable_name("texts")
        container.add_node("Concat", names, [texts], axis=1, op_version=13)
    numbers = []
    for place, categories in enumerate(encoder.categories_):
        index, text, number = (scope.get_unique_variable_name(f"{name}{place}") for name in ("index", "text", "number"))
        container.add_initializer(index, proto.INT64, [1], [place])
        container.add_node("Gather", [texts, index], [text], axis=1, op_version=13)
        values = [float(value) for value in range(len(categories))]
        if len(categories) and categories[-1] == MISSING_TEXT:
            values[-1] = float(encoder.encoded_missing_value)
        # An unknown category is an error of scikit-learn without `unknown_value`.
        unknown = float("nan") if encoder.unknown_value is None else float(encoder.unknown_value)
        container.add_node(
            "LabelEncoder",
            [text],
            [number],
            keys_strings=[str(category) for category in categories],
            values_floats=values,
            default_float=unknown,
            op_domain="ai.onnx.ml",
            op_version=2,
        )
        numbers.append(number)
    container.add_node("Concat", numbers, [operator.outputs[0].full_name], axis=1, op_version=13)


def _shape_of_ordinal(operator: Any) -> None:
    types = module("skl2onnx.common.data_types", "sklearn")
    if _is_of_texts(operator):
        operator.outputs[0].type = types.FloatTensorType([None, len(operator.raw_operator.categories_)])
    else:
        module("skl2onnx.common._registration", "sklearn").get_shape_calculator("SklearnOrdinalEncoder")(operator)


def _is_of_texts(operator: Any) -> bool:
    types = module("skl2onnx.common.data_types", "sklearn")
    is_grouped = getattr(operator.raw_operator, "_infrequent_enabled", False)
    return not is_grouped and all(isinstance(part.type, types.StringTensorType) for part in operator.inputs)


def _convert_histograms(scope: Any, operator: Any, container: Any) -> None:
    """HistGradientBoosting, whose converter writes booleans and NumPy's numbers where onnx takes only integers of Python."""
    registry = module("skl2onnx.common._registration", "sklearn")
    alias = f"Sklearn{type(operator.raw_operator).__name__}"
    registry.get_converter(alias)(scope, operator, _PlainAttributes(container))


class _PlainAttributes:
    """A container of nodes in whose attributes integers are integers of Python."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *positional: Any, **attributes: Any) -> None:
        numpy = module("numpy", "sklearn")
        integers = (bool, int, numpy.integer)
        for name, value in attributes.items():
            if name != "inputs" and isinstance(value, list) and value and all(isinstance(one, integers) for one in value):
                attributes[name] = [int(one) for one in value]
        self._container.add_node(*positional, **attributes)


def _with_float32_last(model: Any) -> Any:
    """Returns a pipeline whose last step gets float32."""
    pipeline = module("sklearn.pipeline", "sklearn").Pipeline
    numpy = module("numpy", "sklearn")
    if not isinstance(model, pipeline) or len(model.steps) < 2:
        raise ExportFailed("there are no steps before the model that could be computed with float64")
    cast = module("skl2onnx.sklapi", "sklearn").CastTransformer(dtype=numpy.float32)
    cast.fit(numpy.zeros((1, 1)))
    model.steps.insert(len(model.steps) - 1, ("leeway_cast", cast))
    return model


def _takes_columns_by_name(model: Any) -> bool:
    """Returns true if a ColumnTransformer chooses the model's columns."""
    transformer = module("sklearn.compose", "sklearn").ColumnTransformer
    return any(isinstance(part, transformer) for part in _estimators(model))


def _estimators(model: Any) -> Iterable[Any]:
    """Returns a model and all that it is made of, each once."""
    found: dict[int, Any] = {}
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in found:
            continue
        if isinstance(part, (list, tuple)):
            found[id(part)] = part
            waiting.extend(part)
        elif isinstance(part, dict):
            found[id(part)] = part
            waiting.extend(part.values())
        elif type(part).__module__.partition(".")[0] in ("sklearn", "lightgbm", "xgboost", "catboost", "imblearn"):
            found[id(part)] = part
            waiting.extend(vars(part).values() if hasattr(part, "__dict__") else [])
    return [part for part in found.values() if not isinstance(part, (list, tuple, dict))]


class _Rewriting:
    """Changes a copy of a model so that ONNX can have it."""

    def __init__(self, table: Table) -> None:
        self._kinds = {column.name: column.kind for column in table.columns}
        self._order = [column.name for column in table.columns]

    def model(self, model: Any) -> Any:
        compose, impute = module("sklearn.compose", "sklearn"), module("sklearn.impute", "sklearn")
        preprocessing = module("sklearn.preprocessing", "sklearn")
        rewritten = copy.deepcopy(model)
        for part in list(_estimators(rewritten)):
            if isinstance(part, compose.ColumnTransformer) and hasattr(part, "transformers_"):
                part.transformers_ = [piece for entry in part.transformers_ for piece in self._pieces(entry)]
        for part in _estimators(rewritten):
            if isinstance(part, impute.SimpleImputer) and hasattr(part, "statistics_"):
                _rewrite_imputer(part)
            elif isinstance(part, (preprocessing.OneHotEncoder, preprocessing.OrdinalEncoder)):
                if hasattr(part, "categories_"):
                    part.categories_ = [_rewrite_categories(categories) for categories in part.categories_]
            elif type(part).__module__.startswith("xgboost"):
                without_names(part)
        return rewritten

    def _pieces(self, entry: tuple[str, Any, Any]) -> list[tuple[str, Any, Any]]:
        """Divides an entry whose columns are of several kinds, because a tensor has one type."""
        name, transformer, columns = entry
        names = self._names(columns)
        kinds = [self._kinds.get(column) is Kind.TEXT for column in names]
        if isinstance(transformer, str) or len(set(kinds)) < 2:
            return [entry]
        pieces: list[tuple[list[int], list[str]]] = []
        for place, (column, is_text) in enumerate(zip(names, kinds)):
            if place == 0 or is_text != kinds[place - 1]:
                pieces.append(([], []))
            pieces[-1][0].append(place)
            pieces[-1][1].append(column)
        return [
            (f"{name}_{number}", _part_of(transformer, places, len(names)), columns)
            for number, (places, columns) in enumerate(pieces)
        ]

    def _names(self, columns: Any) -> list[str]:
        if isinstance(columns, (str, int)):
            columns = [columns]
        if isinstance(columns, slice):
            columns = self._order[columns]
        if len(columns) and isinstance(columns[0], bool):
            columns = [name for name, is_chosen in zip(self._order, columns) if is_chosen]
        return [self._order[column] if isinstance(column, int) else str(column) for column in columns]


def _part_of(transformer: Any, places: list[int], count: int) -> Any:
    """Returns a copy of a fitted transformer for some of its columns."""
    pipeline = module("sklearn.pipeline", "sklearn").Pipeline
    numpy = module("numpy", "sklearn")
    part = copy.copy(transformer)
    if isinstance(part, pipeline):
        part.steps = [(name, _part_of(step, places, count)) for name, step in part.steps]
        return part
    known = ("SimpleImputer", "OneHotEncoder", "OrdinalEncoder")
    if type(part).__name__ not in known:
        raise ExportFailed(
            f"{type(part).__name__} gets columns of texts and of numbers or booleans together; give it columns of one kind, "
            "in an entry of the ColumnTransformer for each kind"
        )
    for name, value in vars(part).items():
        if name.endswith("_") and isinstance(value, (list, numpy.ndarray)) and len(value) == count:
            setattr(part, name, [value[place] for place in places] if isinstance(value, list) else value[places])
    part.n_features_in_ = len(places)
    return part


def _rewrite_imputer(imputer: Any) -> None:
    texts = [isinstance(value, str) for value in imputer.statistics_]
    if all(texts):
        imputer.missing_values = MISSING_TEXT
        return
    numpy = module("numpy", "sklearn")
    if not any(texts):
        # Booleans among them are 1 and 0; NA of pandas is NaN.
        imputer.statistics_ = numpy.array([float(value) for value in imputer.statistics_])
        if not isinstance(imputer.missing_values, (int, float)):
            imputer.missing_values = float("nan")


def _rewrite_categories(categories: Any) -> Any:
    numpy = module("numpy", "sklearn")
    values = list(categories)
    is_missing: Callable[[Any], bool] = lambda value: value is None or value != value
    known = [value for value in values if not is_missing(value)]
    if known and all(isinstance(value, (bool, numpy.bool_)) for value in known):
        return numpy.array([float("nan") if is_missing(value) else float(value) for value in values])
    if any(isinstance(value, str) for value in known):
        return numpy.array([MISSING_TEXT if is_missing(value) else value for value in values], dtype=object)
    return categories
