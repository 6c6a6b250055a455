"""Models as scikit-learn, LightGBM, XGBoost and CatBoost users export them, with the answers of these libraries.

`scripts/test_init.py` asks `leeway init` for a `model.toml` of each. The exporters have their defaults (with ZipMap), unless a name
says otherwise.
"""

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import onnxmltools
import pandas as pd
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as Floats
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn import (
    cluster, compose, datasets, decomposition, discriminant_analysis, ensemble, feature_extraction, gaussian_process, impute,
    linear_model, mixture, multiclass, multioutput, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree,
)

OPSETS = {"": 18, "ai.onnx.ml": 3}
EVERY = 15

warnings.filterwarnings("ignore")


@dataclass
class Export:
    name: str
    model: bytes
    # Instances, and the library's label or number for each. None if its answer is neither.
    instances: list | None = None
    answers: list | None = None


def plain(values: Any) -> list:
    """Values of NumPy as those of JSON."""
    return [value.item() if hasattr(value, "item") else value for value in np.asarray(values).ravel()]


def of(name: str, model: Any, rows: np.ndarray | None = None, predict: Any = None) -> Export:
    file = model.SerializeToString() if hasattr(model, "SerializeToString") else model
    if rows is None:
        return Export(name, file)
    return Export(name, file, rows[::EVERY].tolist(), plain(predict(rows[::EVERY])))


# ===== data =====

WINE = datasets.load_wine()
ROWS = WINE.data.astype(np.float32)
CLASSES = WINE.target
NAMES = np.array(["barolo", "grignolino", "barbera"])[CLASSES]
DIABETES = datasets.load_diabetes()
PATIENTS = DIABETES.data.astype(np.float32)
PROGRESS = DIABETES.target


def scaled(model: Any) -> Any:
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


# ===== scikit-learn =====


def classifiers() -> Iterator[Export]:
    logistic = linear_model.LogisticRegression(max_iter=300)
    for name, model, target in [
        ("logistic", logistic, NAMES),
        ("ridge_classifier", linear_model.RidgeClassifier(), NAMES),
        ("extra_trees", ensemble.ExtraTreesClassifier(20), NAMES),
        ("ada_boost", ensemble.AdaBoostClassifier(n_estimators=10), NAMES),
        ("bagging", ensemble.BaggingClassifier(n_estimators=5), CLASSES + 5),
        ("linear_discriminant", discriminant_analysis.LinearDiscriminantAnalysis(), NAMES),
        ("quadratic_discriminant", discriminant_analysis.QuadraticDiscriminantAnalysis(), CLASSES),
        ("nu_svc", scaled(svm.NuSVC(probability=True)), NAMES),
        ("sgd_log_loss", scaled(linear_model.SGDClassifier(loss="log_loss")), NAMES),
        ("sgd_hinge", scaled(linear_model.SGDClassifier()), NAMES),
        ("perceptron", scaled(linear_model.Perceptron()), NAMES),
        ("bernoulli_bayes", naive_bayes.BernoulliNB(), NAMES),
        ("decision_tree", tree.DecisionTreeClassifier(), CLASSES - 1),
        ("one_versus_one", multiclass.OneVsOneClassifier(logistic), NAMES),
        ("stacking", ensemble.StackingClassifier([("a", tree.DecisionTreeClassifier()), ("b", naive_bayes.GaussianNB())]), NAMES),
        ("perceptrons", scaled(neural_network.MLPClassifier(hidden_layer_sizes=(8,), max_iter=100)), NAMES),
        ("boolean_target", logistic, CLASSES > 0),
    ]:
        model.fit(ROWS, target)
        yield of(name, to_onnx(model, ROWS[:1], target_opset=OPSETS), ROWS, model.predict)
        if name in ("logistic", "extra_trees", "perceptrons"):
            plain_scores = to_onnx(model, ROWS[:1], options={id(model): {"zipmap": False}}, target_opset=OPSETS)
            yield of(f"{name}_without_zipmap", plain_scores, ROWS, model.predict)
    logistic.fit(WINE.data, NAMES)
    yield of("logistic_of_doubles", to_onnx(logistic, WINE.data[:1], target_opset=OPSETS), WINE.data, logistic.predict)


def regressors() -> Iterator[Export]:
    for name, model in [
        ("lasso", linear_model.Lasso()),
        ("elastic_net", linear_model.ElasticNet()),
        ("huber", linear_model.HuberRegressor()),
        ("svr", svm.SVR()),
        ("gradient_boosting", ensemble.GradientBoostingRegressor(n_estimators=20)),
        ("neighbours", neighbors.KNeighborsRegressor()),
        ("regression_tree", tree.DecisionTreeRegressor()),
        ("histogram_boosting", ensemble.HistGradientBoostingRegressor(max_iter=20)),
        ("perceptron_regressor", neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=200)),
        ("voting", ensemble.VotingRegressor([("a", linear_model.Ridge()), ("b", linear_model.Lasso())])),
        ("poisson", linear_model.PoissonRegressor()),
        ("gaussian_process", gaussian_process.GaussianProcessRegressor()),
    ]:
        model.fit(PATIENTS, PROGRESS)
        yield of(name, to_onnx(model, PATIENTS[:1], target_opset=OPSETS), PATIENTS, model.predict)
    several = multioutput.MultiOutputRegressor(linear_model.Ridge()).fit(PATIENTS, np.c_[PROGRESS, PROGRESS * 2])
    yield of("several_targets", to_onnx(several, PATIENTS[:1], target_opset=OPSETS))


def without_target() -> Iterator[Export]:
    for name, model in [
        ("k_means", cluster.KMeans(3, n_init=2)),
        ("gaussian_mixture", mixture.GaussianMixture(3)),
        ("principal_components", decomposition.PCA(3)),
        ("singular_values", decomposition.TruncatedSVD(3)),
        ("scaler", preprocessing.StandardScaler()),
        ("isolation_forest", ensemble.IsolationForest(n_estimators=20)),
        ("one_class_svm", svm.OneClassSVM()),
        ("local_outliers", neighbors.LocalOutlierFactor(novelty=True)),
        ("bins", preprocessing.KBinsDiscretizer(3, encode="ordinal")),
    ]:
        model.fit(ROWS)
        yield of(name, to_onnx(model, ROWS[:1], target_opset={"": 17, "ai.onnx.ml": 3}))


def tables_and_texts() -> Iterator[Export]:
    frame = pd.DataFrame({
        "age": ROWS[:, 0], "tenure": (CLASSES * 3).astype(np.int64), "plan": np.where(CLASSES == 1, "pro", "basic"), "income": ROWS[:, 12],
    })
    numbers = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
    columns = compose.ColumnTransformer([
        ("numbers", numbers, ["age", "income"]),
        ("counts", "passthrough", ["tenure"]),
        ("texts", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["plan"]),
    ])
    whole = pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(frame, np.where(CLASSES > 0, "stays", "leaves"))
    one = [None, 1]
    types = [("age", FloatTensorType(one)), ("tenure", Int64TensorType(one)), ("plan", StringTensorType(one)), ("income", FloatTensorType(one))]
    model = to_onnx(whole, initial_types=types, target_opset=OPSETS).SerializeToString()
    some = frame.iloc[::EVERY]
    yield Export("data_frame", model, some.to_dict("records"), plain(whole.predict(some)))

    texts, moods = ["good film", "bad film", "great", "awful bad"], ["pos", "neg", "pos", "neg"]
    for name, vectors, model in [
        ("counted_words", feature_extraction.text.CountVectorizer(), linear_model.LogisticRegression()),
        ("weighted_words", feature_extraction.text.TfidfVectorizer(), naive_bayes.MultinomialNB()),
    ]:
        model = pipeline.make_pipeline(vectors, model).fit(texts, moods)
        file = to_onnx(model, initial_types=[("text", StringTensorType(one))], target_opset=OPSETS).SerializeToString()
        yield Export(name, file, [{"text": text} for text in texts], plain(model.predict(texts)))


# ===== gradient boosting =====


def boosted() -> Iterator[Export]:
    two = np.where(CLASSES > 0, "yes", "no")
    wide, narrow = [("input", Floats([None, 13]))], [("input", Floats([None, 10]))]
    forest = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
    for name, more, target in [("lightgbm", {}, NAMES), ("lightgbm_binary", {}, two), ("lightgbm_forest", forest, NAMES)]:
        model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, **more).fit(ROWS, target)
        yield of(name, onnxmltools.convert_lightgbm(model, initial_types=wide, target_opset=15), ROWS, model.predict)
    model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(PATIENTS, PROGRESS)
    yield of("lightgbm_regressor", onnxmltools.convert_lightgbm(model, initial_types=narrow, target_opset=15), PATIENTS, model.predict)
    model = lightgbm.LGBMRanker(n_estimators=5, verbose=-1).fit(ROWS, CLASSES, group=[89, 89])
    yield of("lightgbm_ranker", onnxmltools.convert_lightgbm(model.booster_, initial_types=wide, target_opset=15))

    for name, model, rows, target, types in [
        ("xgboost", xgboost.XGBClassifier(n_estimators=8), ROWS, CLASSES, wide),
        ("xgboost_binary", xgboost.XGBClassifier(n_estimators=8), ROWS, (CLASSES > 0).astype(int), wide),
        ("xgboost_forest", xgboost.XGBRFClassifier(n_estimators=8), ROWS, CLASSES, wide),
        ("xgboost_regressor", xgboost.XGBRegressor(n_estimators=8), PATIENTS, PROGRESS, narrow),
    ]:
        model.fit(rows, target)
        yield of(name, onnxmltools.convert_xgboost(model, initial_types=types, target_opset=15), rows, model.predict)

    quiet = {"iterations": 8, "verbose": 0, "allow_writing_files": False}
    for name, model, rows, target in [
        ("catboost", catboost.CatBoostClassifier(**quiet), ROWS, NAMES),
        ("catboost_binary", catboost.CatBoostClassifier(**quiet), ROWS, two),
        ("catboost_numbers", catboost.CatBoostClassifier(**quiet), ROWS, CLASSES + 3),
        ("catboost_regressor", catboost.CatBoostRegressor(**quiet), PATIENTS, PROGRESS),
    ]:
        model.fit(rows, target)
        yield of(name, catboost_file(model), rows, model.predict)


def catboost_file(model: Any) -> bytes:
    """CatBoost writes only files."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model.save_model(str(file), format="onnx")
        return file.read_bytes()


def exports() -> Iterator[Export]:
    for kind in (classifiers, regressors, without_target, tables_and_texts, boosted):
        yield from kind()
