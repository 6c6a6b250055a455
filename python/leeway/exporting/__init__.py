"""`leeway.export`: a framework's fitted model becomes a version of Leeway, in one call.

It finds the columns and their types, tries which of them may be missing, converts the model, compares its answers with the
framework's on every row, and writes `model.toml`, golden examples and training rows, from which `leeway add` makes the
version. It trains nothing, and changes nothing in the model.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Mapping, Sequence

from leeway import rows
from leeway.errors import ExportFailed, ParityFailed
from leeway.executable import CommandFailed, run
from leeway.exporting.conversion import Converted, attempts, framework_of
from leeway.exporting.model_toml import model_toml
from leeway.exporting.parity import Parity, Session, compare, spread
from leeway.exporting.reference import Reference, plain_classes, reference_of
from leeway.exporting.table import Column, Kind, Table, module

#: Rows on which answers are compared.
_PARITY_ROWS = 20_000
#: Rows that a column's values are removed from, to see whether the model takes that.
_PROBE_ROWS = 25


@dataclass(frozen=True)
class Exported:
    """A version that was made."""

    #: Folder of the model, with its model.toml.
    model_dir: Path
    #: Number of the version; None if it was not added.
    version: int | None
    #: How far its answers are from the framework's.
    parity: Parity
    #: Columns that may be missing in a request.
    may_be_missing: tuple[str, ...]
    #: What was done, and what `leeway add` said, for people.
    report: str

    def __str__(self) -> str:
        return self.report


def export(
    model: Any,
    X: Any,
    y: Any,
    model_dir: str | Path,
    *,
    labels: Sequence[Any] | None = None,
    tolerance: float = 1e-4,
    golden_rows: int = 200,
    baseline_rows: int = 100_000,
    description: str | None = None,
    dataset: str | None = None,
    trained_at: date | str | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Exported:
    """Makes a fitted model the next version of the model in `model_dir`, as in "models/churn".

    `X` has rows as the model takes them: those that it was trained on, or better held-out rows; with `y`, their truth, its
    accuracy (or mean absolute error) is noted. `y` may be None. `labels` renames the classes, in the order of `classes_`.

    The model's answers to all rows of `X` (20,000 at most) are compared with the framework's. A number may differ by
    tolerance · max(1, |expected|); otherwise ParityFailed is raised, and nothing is written. An existing `model.toml` is
    kept. Prints what was done, unless `quiet` is set.
    """
    table = Table(X)
    reference = reference_of(_unwrapped(model), y)
    if framework_of(reference.model) == "lightgbm":
        table.columns = [_as_lightgbm_has_it(column) for column in table.columns]
    if labels is not None:
        _check_labels(labels, reference)
    truths = _Truths.of(table, reference)
    converted, parity, method = _convert(table, reference, truths, tolerance)
    may_be_missing = _find_missing(table, converted, reference, truths, tolerance)

    folder = Path(model_dir)
    text = model_toml(table, converted, reference, labels, description)
    facts = {**_score(reference, table, truths, y), **(metrics or {})}
    report = [_summary(reference, table, parity, method, may_be_missing)]
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if (folder / "model.toml").exists():
            report.append(f"{folder / 'model.toml'} was there, and is kept.")
        else:
            (folder / "model.toml").write_text(text, encoding="utf-8")
            report.append(f"Wrote {folder / 'model.toml'}.")
        said = _add(folder, table, converted, reference, truths, labels, tolerance, golden_rows, baseline_rows, facts,
                    description, dataset, trained_at, tags or {})
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    report.append(said.rstrip())
    exported = Exported(folder, _version(said), parity, may_be_missing, "\n".join(report))
    if not quiet:
        print(exported)
    return exported


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


def _add(
    folder: Path,
    table: Table,
    converted: Converted,
    reference: Reference,
    truths: _Truths,
    labels: Sequence[Any] | None,
    tolerance: float,
    golden_rows: int,
    baseline_rows: int,
    metrics: Mapping[str, float],
    description: str | None,
    dataset: str | None,
    trained_at: date | str | None,
    tags: Mapping[str, str],
) -> str:
    """Writes the files of the version, and runs `leeway add`. Returns what it said."""
    with tempfile.TemporaryDirectory(prefix="leeway-export-") as made:
        onnx, golden, train = (Path(made) / name for name in ("model.onnx", "golden.json", "train.jsonl"))
        onnx.write_bytes(converted.onnx)
        chosen = spread(len(truths.places), golden_rows)
        examples = _instances(table, converted, table.frame.iloc[[truths.places[place] for place in chosen]])
        predictions = reference.documents(truths.expected[list(chosen)], labels, tolerance)
        for column in table.columns:
            if column.may_be_missing and column.name in converted.used(table):
                frame, expected = truths.without[column.name]
                examples += _instances(table, converted, frame.iloc[:1])
                predictions += reference.documents(expected[:1], labels, tolerance)
        rows.write_golden(golden, examples, predictions, tolerance)
        rows.write_instances(train, _instances(table, converted, table.frame.iloc[list(spread(len(table), baseline_rows))]))
        package = framework_of(reference.model)
        arguments: list[str | Path] = ["add", folder, "--onnx", onnx, "--golden", golden, "--baseline-data", train]
        arguments += ["--framework", f"{_PACKAGES.get(package, package)} {module(package, 'sklearn').__version__}"]
        arguments += ["--trained-at", str(trained_at)] if trained_at else []
        arguments += ["--description", description or type(_last(reference.model)).__name__]
        arguments += ["--dataset", dataset] if dataset else []
        for name, number in metrics.items():
            arguments += ["--metric", f"{name}={number:.6g}"]
        for name, text in tags.items():
            arguments += ["--tag", f"{name}={text}"]
        try:
            return run(arguments)
        except CommandFailed as failed:
            raise ExportFailed(f"leeway add refused the model: {failed}") from failed


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


def _version(said: str) -> int | None:
    first = said.partition("Added version ")[2].partition(":")[0]
    return int(first) if first.isdigit() else None


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
