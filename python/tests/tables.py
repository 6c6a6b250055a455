"""A table as data scientists have them: numbers with gaps, texts with gaps, booleans, whole numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def customers(rows: int = 600, seed: int = 20261126) -> tuple[Any, Any]:
    """Returns a frame of customers, and who of them left."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": random.normal(40, 12, rows).round(1),
            "visits": random.integers(0, 30, rows),
            "plan": random.choice(["basic", "plus", "pro"], rows),
            "country": random.choice(["NL", "DE", "Österreich"], rows),
            "member": random.random(rows) < 0.4,
        }
    )
    frame.loc[random.random(rows) < 0.1, "age"] = np.nan
    frame.loc[random.random(rows) < 0.1, "plan"] = np.nan
    leaves = random.random(rows) < 0.3 + 0.3 * frame["member"] + 0.01 * frame["visits"]
    return frame, pd.Series(np.where(leaves, "leaves", "stays"), name="churn")


def numbers() -> Any:
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler())


def categories() -> Any:
    return make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))


def pipeline(model: Any) -> Any:
    """The usual pipeline, as the documentation has it, with the booleans among the numbers."""
    columns = make_column_transformer((numbers(), ["age", "visits", "member"]), (categories(), ["plan", "country"]))
    return make_pipeline(columns, model)
