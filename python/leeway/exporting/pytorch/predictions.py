"""What the outputs of a module mean: scores of classes, numbers, or tensors that are answered as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

from leeway.errors import ExportFailed
from leeway.exporting.reference import Reference, plain_classes
from leeway.exporting.table import module

#: How far the probabilities of a row may be from adding up to 1.
_SUM = 1e-3


@dataclass(frozen=True)
class Predictions:
    """The outputs of a module as Leeway answers them."""

    #: PyTorch's outputs for the compared rows, by name.
    outputs: dict[str, Any]
    #: The output with the scores or numbers; None if all are answered as tensors.
    output: str | None = None
    #: The classes in the order of the scores; None if there are none.
    classes: tuple[Any, ...] | None = None
    #: "probabilities" or "logits", of a classifier, and how that was found.
    scores: str = ""
    measured: str = ""
    #: Names of the numbers of a row, if there are several.
    targets: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        if self.output is None:
            return "tensor"
        return "regressor" if self.classes is None else "classifier"

    def numbers(self) -> Any:
        """Returns the probabilities of the classes, or the predicted numbers, of each row."""
        numpy = module("numpy", "torch")
        if self.output is None:
            raise ExportFailed("tensors have neither probabilities nor numbers")
        scores = _columns(self.outputs[self.output]).astype(numpy.float64)
        if self.classes is None:
            return scores
        if scores.shape[1] == 1:
            second = scores if self.scores == "probabilities" else 1 / (1 + numpy.exp(-scores))
            return numpy.concatenate([1 - second, second], axis=1)
        if self.scores == "probabilities":
            return scores
        raised = numpy.exp(scores - scores.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def documents(self, places: Sequence[int], labels: Sequence[Any] | None, tolerance: float) -> list[Any]:
        """Returns predictions in the form in which Leeway answers them."""
        if self.output is not None:
            reference = Reference(None, self.classes, self.targets)
            return list(reference.documents(self.numbers()[list(places)], labels, tolerance))
        rows = {name: array[list(places)].tolist() for name, array in self.outputs.items()}
        if len(rows) == 1:
            return list(next(iter(rows.values())))
        return [dict(zip(rows, row)) for row in zip(*rows.values())]

    def metrics(self, y: Any) -> dict[str, float]:
        """Measures the module on the rows whose truth is given."""
        numpy = module("numpy", "torch")
        if y is None or self.output is None or self.targets:
            return {}
        if self.classes is None:
            truth = truth_of(y).astype(numpy.float64).reshape(-1)
            return {"mean_absolute_error": float(numpy.abs(self.numbers()[:, 0] - truth).mean())}
        places = _places(truth_of(y).reshape(-1), self.classes)
        return {"accuracy": float((self.numbers().argmax(axis=1) == places).mean())}


def truth_of(y: Any) -> Any:
    """Returns y as an array of NumPy."""
    numpy = module("numpy", "torch")
    return numpy.asarray(y.detach().cpu() if hasattr(y, "detach") else y)


def predictions_of(
    outputs: dict[str, Any], y: Any, classes: Sequence[Any] | None, labels: Sequence[Any] | None, far: Callable[[], Any]
) -> Predictions:
    """Finds out what the outputs mean, from their shapes and the truth of the rows.

    `far` returns outputs for numbers far from those of X, by which logits are told from probabilities.
    """
    if classes is None and labels is None and y is None:
        single = _scores(outputs) if len(outputs) == 1 else {}
        return Predictions(outputs, next((name for name, width in single.items() if width == 1), None))
    truth = None if y is None else truth_of(y)
    if truth is not None and truth.ndim == 2 and truth.shape[1] > 1 and classes is None and labels is None:
        return _of_targets(outputs, y, truth)
    if truth is not None and truth.size != len(truth):
        raise ExportFailed(f"y has the shape {list(truth.shape)}; give one class or number for each row")
    output = _output(outputs, None if classes is None and labels is None else len(classes or labels or ()))
    width = _scores(outputs)[output]
    names = _classes(width, None if truth is None else truth.reshape(-1), classes, labels)
    if names is None:
        return Predictions(outputs, output)
    if truth is not None:
        # Fails for a class that is not among them.
        _places(truth.reshape(-1), names)
    if labels is not None and len(labels) != len(names):
        raise ExportFailed(f"labels: found {len(labels)}, expected {len(names)}, in the order of the classes: {list(names)}")
    scores, measured = _kind_of_scores(output, outputs[output], far)
    return Predictions(outputs, output, names, scores, measured)


def _of_targets(outputs: dict[str, Any], y: Any, truth: Any) -> Predictions:
    """Several numbers for each row."""
    fitting = [name for name, width in _scores(outputs).items() if width == truth.shape[1]]
    if not fitting or truth.dtype.kind not in "biuf":
        raise ExportFailed(
            f"y has {truth.shape[1]} values for each row, and no output has as many numbers: {_shapes(outputs)}; leave y out "
            "to answer the outputs as they are"
        )
    named = getattr(y, "columns", range(truth.shape[1]))
    return Predictions(outputs, _preferred(fitting), targets=tuple(str(name) for name in named))


def _output(outputs: dict[str, Any], count: int | None) -> str:
    """Returns the output with the scores or numbers."""
    fitting = [
        name
        for name, width in _scores(outputs).items()
        if count is None or width == count or (width == 1 and count == 2)
    ]
    if not fitting:
        wanted = "one score for each class or one number" if count is None else f"one score for each of the {count} classes"
        raise ExportFailed(
            f"no output has {wanted} in a row: {_shapes(outputs)}; leave out y, classes and labels to answer the outputs as "
            "they are"
        )
    if len(fitting) > 1 and "logits" not in fitting:
        raise ExportFailed(
            f"{' and '.join(fitting)} may have the scores; name that output \"logits\", or wrap the module in one that returns "
            "it alone"
        )
    return _preferred(fitting)


def _preferred(fitting: Sequence[str]) -> str:
    return "logits" if "logits" in fitting else fitting[0]


def _classes(
    width: int, truth: Any, classes: Sequence[Any] | None, labels: Sequence[Any] | None
) -> tuple[Any, ...] | None:
    """Returns the classes in the order of the scores; None if the numbers are not scores."""
    numpy = module("numpy", "torch")
    count = max(width, 2)
    if classes is not None:
        return tuple(numpy.asarray(classes, dtype=object).tolist())
    if labels is not None or truth is None:
        return tuple(range(count))
    if truth.dtype.kind not in "biuf":
        raise ExportFailed("y has texts; name the classes in the order of the module's scores: classes=[\"…\", \"…\"]")
    found = numpy.unique(truth)
    if width == 1:
        # One number: a class only if y has 0 and 1, and nothing else.
        return (0, 1) if found.tolist() == [0, 1] else None
    if not numpy.isin(found, numpy.arange(count)).all():
        raise ExportFailed(
            f"y has {_listed(found)}, and the module has {count} scores for each row: expected the positions 0 to {count - 1}; "
            "for other classes give classes=[…] in the order of the scores, for several numbers a y with as many columns"
        )
    return tuple(range(count))


def _places(truth: Any, classes: tuple[Any, ...]) -> Any:
    """Returns the position of each true class: y has the classes themselves, or their positions."""
    numpy = module("numpy", "torch")
    values = truth.tolist()
    places = {name: place for place, name in enumerate(classes)}
    if not set(values) <= set(places) and truth.dtype.kind in "biuf":
        places = dict(zip(range(len(classes)), range(len(classes))))
    unknown = sorted({str(value) for value in values if value not in places})
    if unknown:
        raise ExportFailed(f"y has {_listed(unknown)}, and the classes are {list(classes)}, in the order of the scores")
    return numpy.array([places[value] for value in values])


def _kind_of_scores(name: str, scores: Any, far: Callable[[], Any]) -> tuple[str, str]:
    """Measures whether the scores are probabilities: for X, and for rows far from it. Returns what they are, and why."""
    measured = f"Measured on {len(scores)} rows: the scores"
    if not _are_within(scores):
        return "logits", f"{measured} are not all within 0 and 1."
    distant = far()
    if distant is not None and not _are_within(distant[name]):
        return "logits", f"{measured} are within 0 and 1, but those of much larger inputs are not."
    if _columns(scores).shape[1] == 1:
        return "probabilities", f"{measured} are within 0 and 1; each is the probability of the second class."
    if _add_up(scores):
        return "probabilities", f"{measured} are within 0 and 1, and add up to 1 in each row."
    raise ExportFailed(
        f"{name} has scores between 0 and 1 that do not add up to 1, as by a sigmoid for each class, so that no class is "
        "chosen; return logits or a softmax, or leave out y, classes and labels to answer the scores as they are"
    )


def _are_within(scores: Any) -> bool:
    numpy = module("numpy", "torch")
    finite = scores[numpy.isfinite(scores)]
    return bool(((finite >= 0) & (finite <= 1 + _SUM)).all())


def _add_up(scores: Any) -> bool:
    numpy = module("numpy", "torch")
    return bool((numpy.abs(_columns(scores).sum(axis=1) - 1) <= _SUM).all())


def _scores(outputs: dict[str, Any]) -> dict[str, int]:
    """Returns the outputs that may be scores or numbers of a row, with how many there are."""
    numbers = {name: array for name, array in outputs.items() if array.ndim <= 2 and array.dtype.kind == "f"}
    return {name: _columns(array).shape[1] for name, array in numbers.items()}


def _columns(array: Any) -> Any:
    return array.reshape(len(array), -1)


def _shapes(outputs: dict[str, Any]) -> str:
    found = {name: ", ".join(["rows", *map(str, array.shape[1:])]) for name, array in outputs.items()}
    return ", ".join(f"{name} {array.dtype}[{found[name]}]" for name, array in outputs.items())


def _listed(values: Sequence[Any]) -> str:
    shown = [str(value) for value in list(values)[:5]]
    return ", ".join(shown) + (" …" if len(values) > len(shown) else "")


def postprocess(predictions: Predictions, labels: Sequence[Any] | None) -> tuple[dict[str, Any], list[str]]:
    """Returns the keys of `[postprocess]`, and comments on how they were found."""
    keys: dict[str, Any] = {"kind": predictions.kind}
    if predictions.output is None:
        return keys, []
    keys["output"] = predictions.output
    if predictions.classes is None:
        return {**keys, **({"targets": list(predictions.targets)} if predictions.targets else {})}, []
    keys["scores"] = predictions.scores
    keys["labels"] = plain_classes(predictions.classes) if labels is None else list(labels)
    return keys, [f"# {predictions.measured}"]
