"""Scores of classes: which output has them, and whether they are logits or probabilities."""

from __future__ import annotations

from enum import Enum
from typing import Any, Callable

from leeway.errors import ExportFailed
from leeway.exporting.table import module

#: How far the probabilities of a row may be from adding up to 1.
_SUM = 1e-3


class Scores(Enum):
    LOGITS = "logits"
    #: They add up to 1 in each row, or are those of the second of two classes.
    PROBABILITIES = "probabilities"
    #: A probability for each class by itself, as by a sigmoid.
    INDEPENDENT = "independent"


def measured(name: str, outputs: dict[str, Any], far: Callable[[], Any]) -> tuple[Scores, str]:
    """Measures what the scores of an output are, for X and for rows far from it. Returns that, and the reason."""
    scores = outputs[name]
    reason = f"Measured on {len(scores)} rows: the scores"
    if not _are_within(scores):
        return Scores.LOGITS, f"{reason} are not all within 0 and 1."
    distant = far()
    if distant is not None and not _are_within(distant[name]):
        return Scores.LOGITS, f"{reason} are within 0 and 1, but those of much larger inputs are not."
    if columns(scores).shape[1] == 1:
        return Scores.PROBABILITIES, f"{reason} are within 0 and 1; each is the probability of the second class."
    if _add_up(scores):
        return Scores.PROBABILITIES, f"{reason} are within 0 and 1, and add up to 1 in each row."
    return Scores.INDEPENDENT, f"{reason} are within 0 and 1, and do not add up to 1."


def _are_within(scores: Any) -> bool:
    numpy = module("numpy", "torch")
    finite = scores[numpy.isfinite(scores)]
    return bool(((finite >= 0) & (finite <= 1 + _SUM)).all())


def _add_up(scores: Any) -> bool:
    numpy = module("numpy", "torch")
    return bool((numpy.abs(columns(scores).sum(axis=1) - 1) <= _SUM).all())


def candidates(outputs: dict[str, Any]) -> dict[str, int]:
    """Returns the outputs that may be scores or numbers of a row, with how many there are."""
    numbers = {name: array for name, array in outputs.items() if array.ndim <= 2 and array.dtype.kind == "f"}
    return {name: columns(array).shape[1] for name, array in numbers.items()}


def output_of(outputs: dict[str, Any], wanted: str, fits: Callable[[int], bool]) -> str:
    """Returns the output whose number of values in a row fits. `wanted` says in a message what was looked for."""
    fitting = [name for name, width in candidates(outputs).items() if fits(width)]
    if not fitting:
        raise ExportFailed(
            f"no output has {wanted} in a row: {_shapes(outputs)}; leave out y, classes and labels to answer the outputs as "
            "they are"
        )
    if len(fitting) > 1 and "logits" not in fitting:
        raise ExportFailed(
            f"{' and '.join(fitting)} may have {wanted}; name the output with the scores of classes \"logits\", or wrap the "
            "module in one that returns only what is to be answered"
        )
    return "logits" if "logits" in fitting else fitting[0]


def columns(array: Any) -> Any:
    return array.reshape(len(array), -1)


def _shapes(outputs: dict[str, Any]) -> str:
    found = {name: ", ".join(["rows", *map(str, array.shape[1:])]) for name, array in outputs.items()}
    return ", ".join(f"{name} {array.dtype}[{found[name]}]" for name, array in outputs.items())
