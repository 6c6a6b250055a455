"""`leeway.export` on ordinary tables: what is served is what the framework predicts, also for missing values."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC

import leeway
import leeway.testing
from leeway import rows
from tables import categories, customers, numbers, pipeline

FRAME, CHURN = customers()
SETTINGS = {"LEEWAY_LOADING__TRIAL": "false"}


def export(model: Any, frame: Any, truth: Any, folder: Path, **options: Any) -> leeway.Exported:
    model.fit(frame, truth)
    return leeway.export(model, frame, truth, folder, quiet=True, **options)


def check_served(folder: Path, model: Any, frame: Any, dropped: tuple[str, ...] = ()) -> None:
    """Compares what is served with what the framework predicts."""
    with leeway.testing.serve(folder.parent, settings=SETTINGS) as server, server.client() as client:
        answer = client.predict(folder.name, frame.drop(columns=list(dropped)) if dropped else frame)
    if hasattr(model, "predict_proba"):
        scores = model.predict_proba(frame)
        expected = model.classes_[scores.argmax(axis=1)]
        # Which of two classes with the same score is the label is a matter of the last digit.
        best = np.sort(scores, axis=1)[:, -2:]
        is_certain = best[:, 1] - best[:, 0] > 1e-3
        assert is_certain.mean() > 0.8
        assert all(row["label"] == label for row, label, certain in zip(answer, expected, is_certain) if certain)
        assert np.allclose([row["confidence"] for row in answer], scores.max(axis=1), atol=1e-4)
    else:
        assert np.allclose([row["value"] for row in answer], model.predict(frame), rtol=1e-4, atol=1e-4)


def framework(name: str) -> Any:
    """Returns a framework. The test is skipped without it, or without its libraries, as OpenMP on macOS."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        pytest.skip(f"{name}: {error}")


def columns_of(folder: Path) -> dict[str, Any]:
    model_toml = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    return {column["name"]: column for column in model_toml["preprocess"]["columns"]}


def test_a_table_with_texts_gaps_and_booleans_is_served_as_it_is(tmp_path: Path) -> None:
    model, folder = pipeline(LogisticRegression()), tmp_path / "models" / "churn"
    exported = export(model, FRAME, CHURN, folder, dataset="customers-1", tags={"run": "7"}, trained_at="2026-11-26")
    assert (exported.version, exported.parity.rows, exported.parity.differing) == (1, 600, 0)
    assert exported.may_be_missing == ("age", "visits", "plan", "country", "member")
    assert "reproduces its 205 golden examples" in exported.report
    assert "As this is the first version of churn, a server gives it all requests" in exported.report
    columns = columns_of(folder)
    assert (columns["plan"]["kind"], columns["plan"]["missing"]) == ("text", "__missing__")
    assert (columns["member"]["kind"], columns["member"]["missing"]) == ("boolean", "nan")
    manifest = tomllib.loads((folder / "1/version.toml").read_text())
    assert 0.5 < manifest["metrics"]["accuracy"] <= 1
    assert manifest["framework"].startswith("scikit-learn ") and manifest["tags"] == {"run": "7"}

    unusual = FRAME.head(40).copy()
    unusual["member"] = unusual["member"].astype(object)
    unusual.loc[unusual.index[:8], ["age", "plan"]] = np.nan
    unusual.loc[unusual.index[4:12], ["member", "country"]] = np.nan
    unusual.loc[unusual.index[12:16], "country"] = "Atlantis"
    check_served(folder, model, pd.concat([unusual, FRAME.astype({"member": object})]))


def test_a_forest_behind_a_scaler_is_exported_with_float64(tmp_path: Path) -> None:
    model = pipeline(RandomForestClassifier(60, random_state=1))
    exported = export(model, FRAME, CHURN, tmp_path / "churn")
    assert "converted with float64" in exported.report and exported.parity.largest < 1e-5
    check_served(tmp_path / "churn", model, FRAME)


def test_columns_of_several_kinds_may_share_an_encoder(tmp_path: Path) -> None:
    mixed = make_column_transformer(
        (numbers(), make_column_selector(dtype_include="number")), (categories(), make_column_selector(dtype_exclude="number"))
    )
    plain = make_column_transformer(
        (numbers(), ["age", "visits"]), (OneHotEncoder(handle_unknown="ignore"), ["plan", "member", "country"])
    )
    for number, columns in enumerate((mixed, plain)):
        model = make_pipeline(columns, LogisticRegression())
        export(model, FRAME, CHURN, tmp_path / f"m{number}/churn")
        check_served(tmp_path / f"m{number}/churn", model, FRAME)


def test_gaps_in_booleans_and_in_whole_numbers_are_gaps(tmp_path: Path) -> None:
    frame = FRAME.astype({"member": object, "visits": "Int64"})
    frame.loc[frame.index[::7], "member"] = np.nan
    frame.loc[frame.index[::9], "visits"] = pd.NA
    model = make_pipeline(
        make_column_transformer((numbers(), ["age"]), (categories(), ["plan", "country", "member"])), LogisticRegression()
    )
    export(model, frame, CHURN, tmp_path / "churn")
    columns = columns_of(tmp_path / "churn")
    assert columns["member"] == {"name": "member", "kind": "boolean", "missing": "nan"}
    assert "visits" not in columns
    check_served(tmp_path / "churn", model, frame, dropped=("visits",))
    check_served(tmp_path / "churn", model, frame)


def test_boosting_by_histograms_takes_gaps_by_itself(tmp_path: Path) -> None:
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    filled = FRAME.fillna({"plan": "none"})
    model = make_pipeline(
        make_column_transformer((encode, ["plan", "country"]), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=20),
    )
    export(model, filled, CHURN, tmp_path / "churn")
    assert columns_of(tmp_path / "churn")["age"]["missing"] == "nan"
    check_served(tmp_path / "churn", model, filled)


def test_matrices_searches_regressors_and_texts(tmp_path: Path) -> None:
    filled = FRAME[["age", "visits", "member"]].fillna(40.0)
    search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.5, 1]}, cv=2)
    export(search, filled, CHURN, tmp_path / "search/churn")
    check_served(tmp_path / "search/churn", search, filled)

    spend = FRAME["visits"] * 3.5 + filled["age"]
    regressor = pipeline(GradientBoostingRegressor(n_estimators=20))
    export(regressor, FRAME, spend, tmp_path / "spend/spend")
    check_served(tmp_path / "spend/spend", regressor, FRAME)

    array = filled.to_numpy(np.float64)
    forest = RandomForestRegressor(10, random_state=1)
    export(forest, array, spend, tmp_path / "array/spend")
    check_served(tmp_path / "array/spend", forest, array)

    both = pd.DataFrame({"spend": spend, "visits": FRAME["visits"]})
    several = pipeline(RandomForestRegressor(10, random_state=1))
    export(several, FRAME, both, tmp_path / "several/two")
    with leeway.testing.serve(tmp_path / "several", settings=SETTINGS) as server, server.client() as client:
        assert set(client.predict("two", FRAME.head(2))[0]["values"]) == {"spend", "visits"}

    # ASCII, because the tokenizer of skl2onnx takes other letters for spaces, which the comparison finds.
    countries = FRAME["country"].replace("Österreich", "AT")
    notes = pd.Series([f"{plan} in {country}" for plan, country in zip(FRAME["plan"], countries)], name="note")
    # Without `lowercase`, which needs the locale en_US.UTF-8 of the machine.
    words = make_pipeline(CountVectorizer(lowercase=False), LogisticRegression())
    words.fit(notes, CHURN)
    leeway.export(words, notes, CHURN, tmp_path / "words/notes", quiet=True)
    check_served(tmp_path / "words/notes", _OfColumn(words, "note"), pd.DataFrame({"note": notes}))


class _OfColumn:
    """A model of texts, for a frame with them."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name, self.classes_ = model, name, model.classes_

    def predict_proba(self, frame: Any) -> Any:
        return self._model.predict_proba(frame[self._name])


def test_classes_can_be_renamed_and_booleans_are_one_and_zero(tmp_path: Path) -> None:
    model = pipeline(LogisticRegression()).fit(FRAME, CHURN == "leaves")
    leeway.export(model, FRAME, CHURN == "leaves", tmp_path / "churn", quiet=True)
    leeway.export(model, FRAME, None, tmp_path / "named/churn", labels=["stays", "leaves"], quiet=True)
    golden = [json.loads((tmp_path / path / "1/golden.json").read_text()) for path in ("churn", "named/churn")]
    assert {row["label"] for row in golden[0]["predictions"]} == {0, 1}
    assert {row["label"] for row in golden[1]["predictions"]} == {"stays", "leaves"}
    with pytest.raises(leeway.ExportFailed, match=r"labels: found 1, expected 2, .* \[0, 1\]"):
        leeway.export(model, FRAME, None, tmp_path / "x", labels=["leaves"], quiet=True)


def test_held_out_rows_give_the_accuracy_that_is_to_be_expected(tmp_path: Path) -> None:
    model, folder = pipeline(LogisticRegression()), tmp_path / "models" / "churn"
    trained, has_left = slice(0, 400), (CHURN == "leaves").astype(int)
    held_out = (FRAME[400:], has_left[400:])
    exported = export(model, FRAME[trained], has_left[trained], folder, held_out=held_out, labels=["stays", "leaves"])
    labelled = json.loads((folder / "1" / "baseline.json").read_text(encoding="utf-8"))["labelled"]
    correct = int((model.predict(held_out[0]) == np.asarray(held_out[1])).sum())
    assert (labelled["kind"], labelled["rows"], labelled["correct"]) == ("classes", 200, correct)
    assert {pair["actual"] for pair in labelled["confusion"]} == {"stays", "leaves"}
    assert f"Of 200 labelled rows, {correct / 2:.1f} % are predicted right." in exported.report

    frame, folder = FRAME[["visits"]].astype(float), tmp_path / "models" / "price"
    price = 2 * frame["visits"] + np.random.default_rng(0).normal(0, 3, len(frame))
    line = LinearRegression()
    export(line, frame[:400], price[:400], folder, held_out=(frame[400:], price[400:]))
    labelled = json.loads((folder / "1" / "baseline.json").read_text(encoding="utf-8"))["labelled"]
    error = np.abs(line.predict(frame[400:]) - price[400:]).mean()
    assert labelled["rows"] == 200 and labelled["mean_absolute_error"] == pytest.approx(error, rel=1e-4)

    for wrong, problem in [
        ((FRAME[400:].drop(columns="age"), CHURN[400:]), "held_out: the columns are "),
        ((FRAME[400:], CHURN[401:]), "held_out: X has 200 rows, and y has the shape (199,)"),
        ((FRAME[400:], ["maybe"] * 200), "held_out: y has 'maybe', which is none of the classes"),
    ]:
        with pytest.raises(leeway.ExportFailed) as failed:
            export(model, FRAME[trained], CHURN[trained], tmp_path / "models" / "other", held_out=wrong)
        assert problem in str(failed.value)


def test_a_second_export_is_a_second_version_and_keeps_what_was_edited(tmp_path: Path) -> None:
    folder = tmp_path / "churn"
    export(pipeline(LogisticRegression()), FRAME, CHURN, folder)
    edited = (folder / "model.toml").read_text().replace("total_ms = 200 ", "total_ms = 300 ")
    (folder / "model.toml").write_text(edited)
    second = export(pipeline(LogisticRegression(C=0.1)), FRAME, CHURN, folder)
    assert second.version == 2 and "was there, and is kept" in second.report
    assert "gives it no traffic" in second.report and (folder / "model.toml").read_text() == edited


def test_a_model_that_cannot_be_exported_is_an_error_that_says_what_to_change(tmp_path: Path) -> None:
    fitted = pipeline(LogisticRegression()).fit(FRAME, CHURN)
    times = FRAME.assign(since=pd.Timestamp("2026-01-01"))
    logs = make_pipeline(make_column_transformer((FunctionTransformer(np.log1p), ["visits"])), LogisticRegression())
    logs.fit(FRAME, CHURN)
    margins = pipeline(SVC()).fit(FRAME, CHURN)
    for model, frame, message in [
        (fitted, times, "the column 'since' has values of the type datetime64"),
        (fitted, FRAME.head(0), "X has no rows"),
        (logs, FRAME, "skl2onnx cannot convert this model"),
        (margins, FRAME, "SVC has no predict_proba|Pipeline has no predict_proba"),
        (LogisticRegression, FRAME, "fitted model, not its class"),
        (LogisticRegression(), FRAME[["age"]], "cannot predict the rows of X: .* not fitted yet"),
        (fitted, FRAME.drop(columns="plan"), "cannot predict the rows of X: "),
        (fitted, FRAME.to_numpy(object), "give a DataFrame"),
    ]:
        with pytest.raises(leeway.ExportFailed, match=message):
            leeway.export(model, frame, None, tmp_path / "churn", quiet=True)
    assert not (tmp_path / "churn").exists()


def test_answers_that_differ_are_counted_and_can_be_accepted(tmp_path: Path) -> None:
    # Trees compare float32 with thresholds between numbers that float32 cannot tell apart.
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"a": 1000 + random.integers(0, 40, 400) * 1e-5, "b": random.random(400)})
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=1))
    truth = (frame["a"] * 1e5).round().astype(int) % 2
    model.fit(frame, truth)
    good = leeway.export(model, frame, truth, tmp_path / "exact", quiet=True)
    assert "float64" in good.report and good.parity.differing == 0
    with pytest.raises(leeway.ParityFailed, match=r"answers \d+ of 400 rows differently .* tolerance="):
        leeway.export(model, frame, truth, tmp_path / "strict", tolerance=0.0, quiet=True)
    assert not (tmp_path / "strict").exists()
    assert leeway.export(model, frame, truth, tmp_path / "loose", tolerance=1e-3, quiet=True).version == 1


def test_rows_of_every_library_are_instances() -> None:
    assert rows.instances(FRAME.head(1))[0]["member"] in (True, False)
    assert rows.instances([{"a": np.float32(0.5), "b": pd.NA, "c": np.nan}]) == [{"a": 0.5, "b": None, "c": None}]
    assert rows.instances(np.array([[1, 2]])) == [[1, 2]]
    with pytest.raises(TypeError, match="cannot be part of an instance"):
        rows.instances([object()])


def test_lightgbm_with_categories_of_pandas(tmp_path: Path) -> None:
    lightgbm = framework("lightgbm")
    frame = FRAME.astype({"plan": "category", "country": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1)
    export(model, frame, CHURN, tmp_path / "churn")
    assert columns_of(tmp_path / "churn")["plan"]["vocabulary"] == ["basic", "plus", "pro"]
    check_served(tmp_path / "churn", model, frame)
    regressor = pipeline(lightgbm.LGBMRegressor(n_estimators=20, verbose=-1))
    export(regressor, FRAME, FRAME["visits"], tmp_path / "visits")
    check_served(tmp_path / "visits", regressor, FRAME)


def test_xgboost(tmp_path: Path) -> None:
    xgboost = framework("xgboost")
    model = pipeline(xgboost.XGBClassifier(n_estimators=20))
    export(model, FRAME, (CHURN == "leaves").astype(int), tmp_path / "churn")
    check_served(tmp_path / "churn", model, FRAME)
    frame = FRAME[["age", "visits", "member"]]
    alone = xgboost.XGBRegressor(n_estimators=20)
    export(alone, frame, FRAME["visits"], tmp_path / "visits")
    check_served(tmp_path / "visits", alone, frame)


def test_catboost(tmp_path: Path) -> None:
    catboost = framework("catboost")
    frame = FRAME[["age", "visits"]]
    model = catboost.CatBoostClassifier(iterations=20, verbose=0, allow_writing_files=False)
    export(model, frame, CHURN, tmp_path / "churn")
    check_served(tmp_path / "churn", model, frame)
    regressor = catboost.CatBoostRegressor(iterations=20, verbose=0, allow_writing_files=False)
    export(regressor, frame, FRAME["visits"], tmp_path / "visits")
    check_served(tmp_path / "visits", regressor, frame)
    with pytest.raises(leeway.ExportFailed, match="export the CatBoost model alone"):
        export(pipeline(catboost.CatBoostClassifier(iterations=5, verbose=0, allow_writing_files=False)), FRAME, CHURN, tmp_path / "x")
