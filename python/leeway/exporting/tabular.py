"""Models of tables: scikit-learn, LightGBM, XGBoost, CatBoost.

Finds the columns and their types, tries which of them may be missing, converts the model, and compares its answers with the
framework's on every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from leeway import rows
from leeway.errors import ExportFailed, ParityFailed
from leeway.exporting.conversion import Converted, attempts, framework_of
from leeway.exporting.model_toml import model_toml
from leeway.exporting.parity import Parity, Session, compare, spread
from leeway.exporting.reference import Reference, plain_classes, reference_of
from leeway.exporting.table import Column, Kind, Table, module
from leeway.exporting.version import Exported, Facts, Files, Sizes, make_version

#: Rows on which answers are compared.
_PARITY_ROWS = 20_000
#: Rows that a column's values are removed from, to see whether the model takes that.
_PROBE_ROWS = 25


def export_table(
    model: Any,
    X: Any,
    y: Any,
    held_out: tuple[Any, Any] | None,
    model_dir: Path,
    labels: Sequence[Any] | None,
    tolerance: float,
    facts: Facts,
    sizes: Sizes,
) -> Exported:
    """Makes a fitted model the next version of the model in a folder."""
    table = Table(X)
    reference = reference_of(_unwrapped(model), y)
    if framework_of(reference.model) == "lightgbm":
        table.columns = [_as_lightgbm_has_it(column) for column in table.columns]
    if labels is not None:
        _check_labels(labels, reference)
    labelled = None if held_out is None else _HeldOut.of(held_out, table, reference, labels)
    truths = _Truths.of(table, reference)
    converted, parity, method = _convert(table, reference, truths, tolerance)
    may_be_missing = _find_missing(table, converted, reference, truths, tolerance)

    package = framework_of(reference.model)
    framework = f"{_PACKAGES.get(package, package)} {module(package, 'sklearn').__version__}"
    text = model_toml(table, converted, reference, labels, facts.description)
    facts = facts.completed(type(_last(reference.model)).__name__, framework, _score(reference, table, truths, y))
    files = _Writing(table, converted, reference, truths, labelled, labels, tolerance, sizes)
    version, done = make_version(model_dir, text, facts, files.write)
    report = [_summary(reference, table, parity, method, may_be_missing), *done]
    return Exported(model_dir, version, parity, may_be_missing, "\n".join(report))


@dataclass(frozen=True)
class _HeldOut:
    """Rows that the model was not trained on, with their truth as Leeway answers it."""

    table: Table
    labels: list[Any]

    @classmethod
    def of(
        cls, given: tuple[Any, Any], table: Table, reference: Reference, labels: Sequence[Any] | None
    ) -> _HeldOut:
        numpy = module("numpy", "sklearn")
        X, y = given
        found = Table(X)
        names, expected = [column.name for column in found.columns], [column.name for column in table.columns]
        if names != expected:
            raise ExportFailed(f"held_out: the columns are {names}, and those of X are {expected}")
        if reference.targets:
            raise ExportFailed("held_out: the model predicts several numbers, and only one can be compared with its truth")
        truth = numpy.asarray(y)
        if truth.shape not in ((len(found),), (len(found), 1)):
            raise ExportFailed(f"held_out: X has {len(found)} rows, and y has the shape {truth.shape}")
        values = truth.reshape(len(found)).tolist()
        if reference.classes is None:
            return cls(found, [float(value) for value in values])
        answered = plain_classes(reference.classes) if labels is None else list(labels)
        by_class = dict(zip(reference.classes, answered))
        for value in values:
            if value not in by_class:
                raise ExportFailed(f"held_out: y has {value!r}, which is none of the classes {list(reference.classes)}")
        return cls(found, [by_class[value] for value in values])


@dataclass(frozen=True)
class _Truths:
    """What the framework predicts: for rows of the table, and for rows in which a column has no values."""

    places: Sequence[int]
    expected: Any
    without: dict[str, tuple[Any, Any]]

    @classmethod
    def of(cls, table: Table, reference: Reference) -> _Truths:
        places = spread(len(table), _PARITY_ROWS)
        try:
            expected = reference.predict(table.take(places))
        except Exception as error:
            # A framework raises errors of every kind.
            raise ExportFailed(f"the model cannot predict the rows of X: {' '.join(str(error).split())[:400]}") from error
        without: dict[str, tuple[Any, Any]] = {}
        probed = spread(len(table), _PROBE_ROWS)
        for column in table.columns if table.has_names and not table.is_texts else []:
            frame = table.without(column.name, probed)
            try:
                without[column.name] = (frame, reference.predict(frame))
            except Exception:
                # The model does not take rows without a value in this column.
                continue
        return cls(places, expected, without)


def _convert(
    table: Table, reference: Reference, truths: _Truths, tolerance: float
) -> tuple[Converted, Parity, str]:
    """Tries conversions until one answers as the framework does."""
    best: tuple[Converted, Parity, str] | None = None
    failed: ExportFailed | None = None
    for method, convert in attempts(reference.model, table, reference.is_classifier):
        try:
            converted = convert()
            found = Session(converted, table, reference).predict(table.frame.iloc[list(truths.places)])
        except ExportFailed as error:
            failed = failed or error
            continue
        except Exception as error:
            reason = " ".join(str(error).split())[:400]
            if "Failed to construct locale" in reason:
                reason = (
                    "it turns texts into lower case, and ONNX Runtime needs the locale en_US.UTF-8 for that, which this machine "
                    "does not have; install it (Debian: the package locales-all), here and where the model is served, or set "
                    "lowercase=False and send texts in lower case"
                )
            failed = failed or ExportFailed(f"ONNX Runtime cannot run the exported model: {reason}")
            continue
        parity = compare(truths.expected, found, tolerance)
        if best is None or parity.differing < best[1].differing:
            best = (converted, parity, method)
        if parity.differing == 0:
            break
    if best is None:
        raise failed or ExportFailed("there is no conversion for this model")
    _, parity, _ = best
    if parity.differing:
        raise ParityFailed(
            f"the exported model answers {parity.differing} of {parity.rows} rows differently from the framework, by up to "
            f"{parity.largest:.2g}; the first is row {truths.places[parity.first or 0]}. If so much does not matter, accept it "
            f"with tolerance={parity.largest * 1.01:.2g}; otherwise train on float32 numbers, or replace the step that "
            "differs"
        )
    return best


def _find_missing(
    table: Table, converted: Converted, reference: Reference, truths: _Truths, tolerance: float
) -> tuple[str, ...]:
    """Finds the columns that may be missing: those without which both models give the same answers."""
    session = Session(converted, table, reference)
    may_be_missing = set()
    for name, (frame, expected) in truths.without.items():
        try:
            found = session.predict(frame)
        except Exception:
            continue
        if compare(expected, found, tolerance).differing == 0:
            may_be_missing.add(name)
    used = converted.used(table)
    table.set_missing(may_be_missing)
    return tuple(name for name in used if name in may_be_missing)


@dataclass(frozen=True)
class _Writing:
    """What the files of a version are written from."""

    table: Table
    converted: Converted
    reference: Reference
    truths: _Truths
    labelled: _HeldOut | None
    labels: Sequence[Any] | None
    tolerance: float
    sizes: Sizes

    def write(self, folder: Path) -> Files:
        """Writes the model, the examples, the training rows and the labelled rows."""
        table, converted, reference, truths = self.table, self.converted, self.reference, self.truths
        held_out = None if self.labelled is None else folder / "held_out.jsonl"
        files = Files(folder / "model.onnx", folder / "golden.json", folder / "train.jsonl", held_out)
        files.onnx.write_bytes(converted.onnx)
        chosen = spread(len(truths.places), self.sizes.golden_rows)
        examples = _instances(table, converted, table.frame.iloc[[truths.places[place] for place in chosen]])
        predictions = reference.documents(truths.expected[list(chosen)], self.labels, self.tolerance)
        for column in table.columns:
            if column.may_be_missing and column.name in converted.used(table):
                frame, expected = truths.without[column.name]
                examples += _instances(table, converted, frame.iloc[:1])
                predictions += reference.documents(expected[:1], self.labels, self.tolerance)
        rows.write_golden(files.golden, examples, predictions, self.tolerance)
        train = table.frame.iloc[list(spread(len(table), self.sizes.baseline_rows))]
        rows.write_instances(files.train, _instances(table, converted, train))
        if self.labelled is not None and held_out is not None:
            labelled = _instances(table, converted, self.labelled.table.frame)
            rows.write_labelled(held_out, labelled, self.labelled.labels)
        return files


_PACKAGES = {"sklearn": "scikit-learn"}


def _instances(table: Table, converted: Converted, frame: Any) -> list[Any]:
    """Returns rows as a client sends them."""
    pandas = module("pandas", "sklearn")
    if not table.has_names:
        return rows.instances(frame.to_numpy().tolist())
    used = set(converted.used(table))
    cells: dict[str, list[Any]] = {}
    for column, name in zip(table.columns, frame.columns):
        if column.name not in used:
            continue
        missing, values = pandas.isna(frame[name]).tolist(), frame[name].tolist()
        as_sent = bool if column.kind is Kind.BOOLEAN else (lambda value: value)
        cells[column.name] = [None if gone else as_sent(value) for gone, value in zip(missing, values)]
    return rows.instances([dict(zip(cells, row)) for row in zip(*cells.values())])


def _score(reference: Reference, table: Table, truths: _Truths, y: Any) -> dict[str, float]:
    """Measures the model on the rows that were given."""
    if y is None or reference.targets:
        return {}
    numpy = module("numpy", "sklearn")
    truth = numpy.asarray(y)
    if len(truth) != len(table):
        raise ExportFailed(f"X has {len(table)} rows, and y has {len(truth)}")
    truth = truth.reshape(len(truth), -1)[list(truths.places), 0]
    if reference.classes is None:
        return {"mean_absolute_error": float(numpy.abs(truths.expected[:, 0] - truth).mean())}
    names = numpy.asarray(reference.classes, dtype=object)[truths.expected.argmax(axis=1)]
    return {"accuracy": float((names == truth.astype(object)).mean())}


def _check_labels(labels: Sequence[Any], reference: Reference) -> None:
    if reference.classes is None:
        raise ExportFailed("labels: the model is not a classifier")
    if len(labels) != len(reference.classes):
        raise ExportFailed(
            f"labels: found {len(labels)}, expected {len(reference.classes)}, in the order of classes_: "
            f"{plain_classes(reference.classes)}"
        )


def _as_lightgbm_has_it(column: Column) -> Column:
    """LightGBM numbers the categories of pandas by itself."""
    return Column(column.name, Kind.CATEGORY, column.may_be_missing, column.vocabulary) if column.vocabulary else column


def _unwrapped(model: Any) -> Any:
    """Returns the best model of a search."""
    while hasattr(model, "best_estimator_"):
        model = model.best_estimator_
    return model


def _last(model: Any) -> Any:
    steps = getattr(model, "steps", None)
    return steps[-1][1] if steps else model


def _summary(
    reference: Reference, table: Table, parity: Parity, method: str, may_be_missing: tuple[str, ...]
) -> str:
    kind = "the probabilities" if reference.is_classifier else "the numbers"
    lines = [
        f"{type(_last(reference.model)).__name__}, converted with {method}: {kind} of all {parity.rows} rows are the "
        f"framework's, within {parity.largest:.1g}."
    ]
    if table.has_names:
        lines.append(f"May be null or left out in a request: {', '.join(may_be_missing) or 'no column'}.")
    return "\n".join(lines)
