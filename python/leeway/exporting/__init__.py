"""`leeway.export`: a framework's fitted model becomes a version of Leeway, in one call.

It converts the model, compares its answers with the framework's, and writes `model.toml`, golden examples and training rows,
from which `leeway add` makes the version. It trains nothing, and changes nothing in the model. `tabular` has the models of
tables, `pytorch` the modules of PyTorch.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Mapping, Sequence

from leeway.errors import ExportFailed
from leeway.exporting.conversion import framework_of
from leeway.exporting.version import Exported, Facts, Sizes


def export(
    model: Any,
    X: Any,
    y: Any,
    model_dir: str | Path,
    *,
    held_out: tuple[Any, Any] | None = None,
    labels: Sequence[Any] | None = None,
    classes: Sequence[Any] | None = None,
    dynamic: Mapping[Any, Any] | None = None,
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

    `held_out` is (X, y) of rows that the model was not trained on: the version then has the accuracy to expect, and a server
    estimates accuracy before there are labels, and warns if it falls. It is for models of tables; for a module of PyTorch,
    `leeway baseline --label-column` does the same.

    A module of PyTorch takes arrays or tensors, with the rows in the first dimension: one, a tuple, or a dictionary by the
    arguments of `forward`. `classes` are its classes, in the order of the scores, if they are not 0, 1, 2 …; `dynamic` names
    the dimensions whose length may change, as in {"ids": {1: "tokens"}}.

    The model's answers to all rows of `X` (20,000 at most) are compared with the framework's. A number may differ by
    tolerance · max(1, |expected|); otherwise ParityFailed is raised, and nothing is written. An existing `model.toml` is
    kept. Prints what was done, unless `quiet` is set.
    """
    folder, sizes = Path(model_dir), Sizes(golden_rows, baseline_rows)
    facts = Facts(description, dataset, trained_at, metrics or {}, tags or {})
    # Either imports packages that the other does not need.
    if framework_of(model) == "torch":
        from leeway.exporting.pytorch import Meaning, export_module

        if held_out is not None:
            raise ExportFailed("held_out is for models of tables; for a module of PyTorch, use leeway baseline --label-column")

        meaning = Meaning(classes, labels, dynamic or {})
        exported = export_module(model, X, y, folder, meaning, tolerance, facts, sizes)
    else:
        from leeway.exporting.tabular import export_table

        if classes is not None or dynamic:
            raise ExportFailed("classes and dynamic are for modules of PyTorch; the classes of this model are its classes_")
        exported = export_table(model, X, y, held_out, folder, labels, tolerance, facts, sizes)
    if not quiet:
        print(exported)
    return exported
