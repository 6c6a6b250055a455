"""What the outputs of a module mean: scores of classes, numbers, or tensors that are answered as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

from leeway.errors import ExportFailed
from leeway.exporting.pytorch.scores import Scores, candidates, columns, measured, output_of
from leeway.exporting.reference import Reference, plain_classes
from leeway.exporting.table import module


@dataclass(frozen=True)
class Predictions:
    """The outputs of a module as Leeway answers them."""

    #: PyTorch's outputs for the compared rows, by name.
    outputs: dict[str, Any]
    #: The output with the scores or numbers; None if all are answered as tensors.
    output: str | None = None
    #: The classes in the order of the scores; None if there are none.
    classes: tuple[Any, ...] | None = None
    #: What the scores of a classifier are. Independent ones are those of labels, of which any number may be right.
    scores: Scores | None = None
    #: How that was found.
    reason: str = ""
    #: True if any number of classes may be right.
    multi_label: bool = False
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
        scores = columns(self.outputs[self.output]).astype(numpy.float64)
        if self.classes is None:
            return scores
        is_each = self.multi_label or scores.shape[1] == 1
        if self.scores is Scores.LOGITS and is_each:
            # 1 ÷ (1 + exp(−s)), without an overflow.
            scores = 0.5 + 0.5 * numpy.tanh(scores / 2)
        elif self.scores is Scores.LOGITS:
            raised = numpy.exp(scores - scores.max(axis=1, keepdims=True))
            scores = raised / raised.sum(axis=1, keepdims=True)
        return scores if scores.shape[1] > 1 else numpy.concatenate([1 - scores, scores], axis=1)

    def documents(self, places: Sequence[int], labels: Sequence[Any] | None, tolerance: float) -> list[Any]:
        """Returns predictions in the form in which Leeway answers them."""
        if self.classes is not None and self.multi_label:
            names = self.names(labels)
            return [_labels(row, names, tolerance) for row in self.numbers()[list(places)].tolist()]
        if self.output is not None:
            reference = Reference(None, self.classes, self.targets)
            return list(reference.documents(self.numbers()[list(places)], labels, tolerance))
        rows = {name: array[list(places)].tolist() for name, array in self.outputs.items()}
        if len(rows) == 1:
            return list(next(iter(rows.values())))
        return [dict(zip(rows, row)) for row in zip(*rows.values())]

    def metrics(self, truth: Any) -> dict[str, float]:
        """Measures the module on the rows whose truth is given."""
        numpy = module("numpy", "torch")
        if truth is None or self.output is None or self.targets:
            return {}
        if self.classes is None:
            return {"mean_absolute_error": float(numpy.abs(self.numbers()[:, 0] - truth.reshape(-1)).mean())}
        if self.multi_label:
            return {"subset_accuracy": float(((self.numbers() >= 0.5) == (truth == 1)).all(axis=1).mean())}
        return {"accuracy": float((self.numbers().argmax(axis=1) == _places(truth, self.classes)).mean())}

    def names(self, labels: Sequence[Any] | None) -> list[Any]:
        """Returns the classes as they are answered."""
        return list(labels) if labels is not None else plain_classes(self.classes or ())

    def postprocess(self, labels: Sequence[Any] | None) -> tuple[dict[str, Any], list[str]]:
        """Returns the keys of `[postprocess]`, and comments on how they were found."""
        keys: dict[str, Any] = {"kind": self.kind}
        if self.output is None:
            return keys, []
        keys["output"] = self.output
        if self.classes is None:
            return {**keys, **({"targets": list(self.targets)} if self.targets else {})}, []
        keys["scores"] = "logits" if self.scores is Scores.LOGITS else "probabilities"
        keys["labels"] = self.names(labels)
        return {**keys, **({"multi_label": True} if self.multi_label else {})}, [f"# {self.reason}"]


    def summary(self) -> str:
        """Returns how the outputs are answered, for people."""
        if self.output is None:
            hint = "If they are scores of classes, give y, classes or labels."
            said = f"Answered as they are: {', '.join(self.outputs)}."
            return f"{said} {hint}" if candidates(self.outputs) else said
        if self.classes is None:
            return f"A regressor: the numbers are those of {self.output}."
        scores = "logits" if self.scores is Scores.LOGITS else "probabilities"
        labels = "labels, of which any number may be right" if self.multi_label else "classes"
        return f"A classifier of {len(self.classes)} {labels}, by the {scores} of {self.output}. {self.reason}"


@dataclass(frozen=True)
class Truth:
    """What is true of the rows: y."""

    values: Any
    #: Names of its columns, if they have some.
    columns: tuple[str, ...]

    @classmethod
    def of(cls, y: Any, rows: int) -> Truth:
        """Reads y, which must have as many rows as X."""
        numpy = module("numpy", "torch")
        values = numpy.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
        if values.ndim == 0 or len(values) != rows:
            raise ExportFailed(f"X has {rows} rows, and y has {len(values) if values.ndim else 'none'}")
        if values.dtype.kind == "f" and not numpy.isfinite(values).all():
            raise ExportFailed("y has NaN or infinity; leave out the rows whose truth is not known")
        return cls(values, tuple(str(name) for name in getattr(y, "columns", ())))


def predictions_of(
    outputs: dict[str, Any],
    given: Truth | None,
    classes: Sequence[Any] | None,
    labels: Sequence[Any] | None,
    far: Callable[[], Any],
) -> Predictions:
    """Finds out what the outputs mean, from their shapes and the truth of the rows.

    `far` returns outputs for numbers far from those of X, by which logits are told from probabilities.
    """
    if classes is None and labels is None and given is None:
        single = candidates(outputs) if len(outputs) == 1 else {}
        return Predictions(outputs, next((name for name, width in single.items() if width == 1), None))
    truth = None if given is None else given.values
    marks = truth if truth is not None and _are_marks(truth) else None
    if given is not None and given.values.size != len(given.values) and marks is None:
        return _of_targets(outputs, given)
    if given is not None and marks is not None and classes is None:
        classes = given.columns or range(marks.shape[1])
    output = _output(outputs, truth, None if classes is None and labels is None else len(classes or labels or ()))
    names = _classes(candidates(outputs)[output], truth, classes, labels)
    if names is None:
        return Predictions(outputs, output)
    if truth is not None:
        # Fails for a class that is not among them.
        _places(truth, names)
    if labels is not None and len(labels) != len(names):
        raise ExportFailed(f"labels: found {len(labels)}, expected {len(names)}, in the order of {list(names)}")
    scores, reason = measured(output, outputs, far)
    is_several = marks is not None and bool((marks.sum(axis=1) != 1).any())
    multi_label = marks is not None and (is_several or scores is Scores.INDEPENDENT)
    if scores is Scores.INDEPENDENT and not multi_label:
        raise ExportFailed(
            f"{output} has scores between 0 and 1 that do not add up to 1, as by a sigmoid for each class, so that no class "
            "is chosen; return logits or a softmax; or, if any number of classes may be right, give y with a column of 0 and 1 "
            "for each; or leave out y, classes and labels to answer the scores as they are"
        )
    return Predictions(outputs, output, names, scores, reason, multi_label)


def _of_targets(outputs: dict[str, Any], given: Truth) -> Predictions:
    """Several numbers for each row."""
    truth = given.values
    if truth.ndim != 2 or truth.dtype.kind not in "biuf":
        raise ExportFailed(
            f"y has the shape {list(truth.shape)} and the type {truth.dtype}; give a class for each row, or a column of "
            "numbers for each target"
        )
    count = truth.shape[1]
    output = output_of(outputs, f"a number for each of the {count} columns of y", lambda width: width == count)
    return Predictions(outputs, output, targets=given.columns or tuple(map(str, range(count))))


def _are_marks(truth: Any) -> bool:
    """Returns true if y has a column of 0 and 1 for each class."""
    numpy = module("numpy", "torch")
    is_table = truth.ndim == 2 and truth.shape[1] > 1 and truth.dtype.kind in "biuf"
    return bool(is_table and numpy.unique(truth).tolist() == [0, 1])


def _output(outputs: dict[str, Any], truth: Any, count: int | None) -> str:
    """Returns the output with the scores of the classes, or with the numbers."""
    if count is not None:
        fits = lambda width: width == count or (width == 1 and count == 2)
        return output_of(outputs, f"one score for each of the {count} classes", fits)
    if truth.dtype.kind in "biuf" and (truth % 1 != 0).any():
        return output_of(outputs, "one number", lambda width: width == 1)
    return output_of(outputs, "one score for each class or one number", lambda width: True)


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
        raise ExportFailed(
            "y has texts or other objects; name the classes in the order of the module's scores: classes=[\"…\", \"…\"]"
        )
    found = numpy.unique(truth)
    if width == 1:
        # One number: a class only if y has 0 and 1, and nothing else.
        return (0, 1) if found.tolist() == [0, 1] else None
    if not numpy.isin(found, numpy.arange(count)).all():
        raise ExportFailed(
            f"y has {_listed(found)}, and the module has {count} scores for each row: expected the positions 0 to {count - 1}; "
            "for other classes give classes=[…] in the order of the scores"
        )
    return tuple(range(count))


def _places(truth: Any, classes: tuple[Any, ...]) -> Any:
    """Returns the position of each true class: y has the classes, their positions, or a column of 0 and 1 for each."""
    numpy = module("numpy", "torch")
    if _are_marks(truth):
        return truth.argmax(axis=1)
    values = truth.reshape(-1).tolist()
    places = {name: place for place, name in enumerate(classes)}
    if not set(values) <= set(places) and truth.dtype.kind in "biuf":
        places = dict(zip(range(len(classes)), range(len(classes))))
    unknown = sorted({str(value) for value in values if value not in places})
    if unknown:
        raise ExportFailed(f"y has {_listed(unknown)}, and the classes are {list(classes)}, in the order of the scores")
    return numpy.array([places[value] for value in values])


def _labels(scores: list[float], names: list[Any], tolerance: float) -> dict[str, Any]:
    """Returns the labels that are more probable than not. Nothing, if which they are is a matter of the tolerance."""
    ordered = sorted(zip(scores, names), key=lambda pair: -pair[0])
    chosen = [(score, name) for score, name in ordered if score >= 0.5]
    bounds = [score for score, _ in chosen] + [0.5]
    is_certain = all(one - other > 2 * tolerance for one, other in zip(bounds, bounds[1:]))
    if not is_certain or any(abs(score - 0.5) <= 2 * tolerance for score in scores):
        return {}
    return {"labels": [{"label": name, "score": score} for score, name in chosen]}


def _listed(values: Sequence[Any]) -> str:
    shown = [str(value) for value in list(values)[:5]]
    return ", ".join(shown) + (" …" if len(values) > len(shown) else "")
