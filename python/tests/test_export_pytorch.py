"""`leeway.export` on modules of PyTorch: what is served is what PyTorch answers. `make test-torch` installs PyTorch."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import tomllib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import leeway
import leeway.testing

torch: Any = pytest.importorskip("torch", reason="make test-torch installs PyTorch")
nn: Any = torch.nn
SETTINGS = {"LEEWAY_LOADING__TRIAL": "false"}
RANDOM = np.random.default_rng(20261127)
ROWS = RANDOM.standard_normal((300, 8)).astype(np.float32)
CLASSES = (ROWS[:, 0] > 0.4).astype(int) + (ROWS[:, 1] > 0)


def mlp(outputs: int, *last: Any) -> Any:
    """A perceptron whose dropout and normalisation differ in training, and is left in the mode of training."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, outputs), *last)
    module(torch.from_numpy(ROWS))
    return module


def answers(module: Any, *inputs: Any) -> Any:
    """Returns what PyTorch answers."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        return module(*(torch.as_tensor(array) for array in inputs))


def served(folder: Path, rows: Any) -> Any:
    with leeway.testing.serve(folder.parent, settings=SETTINGS) as server, server.client() as client:
        return client.predict(folder.name, rows)


def model_toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))


def check_classes(answer: Any, probabilities: Any, classes: list[Any]) -> None:
    probabilities = np.asarray(probabilities)
    assert np.allclose([row["confidence"] for row in answer], probabilities.max(axis=1), atol=1e-4)
    assert [row["label"] for row in answer] == [classes[place] for place in probabilities.argmax(axis=1)]


def test_a_classifier_with_logits_is_served_as_it_is_and_left_as_it_was(tmp_path: Path) -> None:
    module, folder = mlp(3), tmp_path / "mlp"
    module[3].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    exported = leeway.export(module, ROWS, CLASSES, folder, dataset="made-up", tags={"run": "7"}, quiet=True)
    assert [part.training for part in module] == [True, True, True, False, True] and module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())

    assert (exported.version, exported.parity.rows, exported.parity.differing) == (1, 300, 0)
    assert "reproduces its 200 golden examples" in exported.report
    assert "A classifier of 3 classes, by the logits of output. Measured on 300 rows" in exported.report
    assert model_toml(folder)["postprocess"] == {
        "kind": "classifier", "output": "output", "scores": "logits", "labels": [0, 1, 2],
    }
    assert "# Measured on 300 rows: the scores are not all within 0 and 1." in (folder / "model.toml").read_text()
    manifest = tomllib.loads((folder / "1/version.toml").read_text())
    assert manifest["framework"] == f"PyTorch {torch.__version__}" and manifest["description"] == "Sequential"
    logits = answers(module, ROWS)
    assert manifest["metrics"]["accuracy"] == pytest.approx((logits.argmax(1).numpy() == CLASSES).mean(), abs=1e-5)
    assert "baseline.json" in manifest["files"] and b"test_export_pytorch" not in (folder / "1/model.onnx").read_bytes()
    check_classes(served(folder, ROWS), logits.softmax(1), [0, 1, 2])


def test_probabilities_are_told_from_logits_by_measuring(tmp_path: Path) -> None:
    softmax, sigmoid = mlp(3, nn.Softmax(1)), mlp(1, nn.Sigmoid())
    leeway.export(softmax, torch.from_numpy(ROWS), None, tmp_path / "models/softmax", classes=["a", "b", "c"], quiet=True)
    leeway.export(sigmoid, ROWS, CLASSES > 1, tmp_path / "models/sigmoid", labels=["no", "yes"], quiet=True)
    leeway.export(mlp(1, nn.Flatten(0)), ROWS, (CLASSES > 1) * 1.0, tmp_path / "models/logit", quiet=True)
    # The scores of the rows are within 0 and 1, and those of other rows are not.
    small = mlp(1)
    small[4].weight.data *= 0.01
    small[4].bias.data.fill_(0.5)
    leeway.export(small, ROWS, CLASSES > 1, tmp_path / "models/small", quiet=True)
    for name, scores in [("softmax", "probabilities"), ("sigmoid", "probabilities"), ("logit", "logits"), ("small", "logits")]:
        assert model_toml(tmp_path / "models" / name)["postprocess"]["scores"] == scores, name
    check_classes(served(tmp_path / "models/softmax", ROWS), answers(softmax, ROWS), ["a", "b", "c"])
    second = answers(sigmoid, ROWS)
    check_classes(served(tmp_path / "models/sigmoid", ROWS), torch.cat([1 - second, second], 1), ["no", "yes"])
    second = answers(small, ROWS).sigmoid()
    check_classes(served(tmp_path / "models/small", ROWS), torch.cat([1 - second, second], 1), [0, 1])


def test_a_column_of_marks_for_each_class_is_one_class_or_several_labels(tmp_path: Path) -> None:
    marks = pd.DataFrame({"sport": CLASSES == 0, "money": ROWS[:, 2] > 0, "art": CLASSES > 1}).astype(float)
    logits, sigmoid = mlp(3), mlp(3, nn.Sigmoid())
    leeway.export(logits, ROWS, marks, tmp_path / "models/several", quiet=True)
    leeway.export(sigmoid, ROWS, marks.to_numpy(), tmp_path / "models/sigmoid", labels=["a", "b", "c"], quiet=True)
    leeway.export(logits, torch.from_numpy(ROWS), np.eye(3)[CLASSES], tmp_path / "models/one", quiet=True)
    assert model_toml(tmp_path / "models/several")["postprocess"] == {
        "kind": "classifier", "output": "output", "scores": "logits", "labels": ["sport", "money", "art"], "multi_label": True,
    }
    assert model_toml(tmp_path / "models/sigmoid")["postprocess"]["scores"] == "probabilities"
    manifests = [tomllib.loads((tmp_path / "models" / name / "1/version.toml").read_text()) for name in ("one", "several")]
    metrics = [manifest["metrics"] for manifest in manifests]
    scores = answers(logits, ROWS)
    assert metrics[0] == {"accuracy": pytest.approx((scores.argmax(1).numpy() == CLASSES).mean(), abs=1e-5)}
    right = ((scores > 0).numpy() == (marks == 1).to_numpy()).all(axis=1)
    assert metrics[1] == {"subset_accuracy": pytest.approx(right.mean(), abs=1e-5)}
    golden = json.loads((tmp_path / "models/several/1/golden.json").read_text())["predictions"]
    assert sum(row == {} for row in golden) < 10
    with leeway.testing.serve(tmp_path / "models", settings=SETTINGS) as server, server.client() as client:
        check_classes(client.predict("one", ROWS), scores.softmax(1), [0, 1, 2])
        for name, labels in (("several", list(marks)), ("sigmoid", ["a", "b", "c"])):
            for row, expected in zip(client.predict(name, ROWS), scores.sigmoid()):
                found = {label["label"]: label["score"] for label in row["labels"]}
                likely = {name: score for name, score in zip(labels, expected.tolist()) if score >= 0.5}
                assert found == pytest.approx(likely, abs=1e-4)


def test_images_are_classified(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )
    images = RANDOM.random((40, 3, 16, 20), dtype=np.float32)
    truth = ["cat", "dog", "cow", "hen"] * 10
    exported = leeway.export(module, images, truth, tmp_path / "animals", classes=["cat", "dog", "cow", "hen"], quiet=True)
    assert exported.version == 1 and "each instance: [3, 16, 20]" in (tmp_path / "animals/model.toml").read_text()
    check_classes(served(tmp_path / "animals", images), answers(module, images).softmax(1), ["cat", "dog", "cow", "hen"])

    pooled = module[:6]
    leeway.export(pooled, images, None, tmp_path / "any/size", dynamic={2: "height", 3: "width"}, quiet=True)
    larger = RANDOM.random((2, 3, 25, 9), dtype=np.float32)
    assert np.allclose(list(served(tmp_path / "any/size", larger)), answers(pooled, larger), atol=1e-4)


def test_numbers_are_regressors(tmp_path: Path) -> None:
    one, flat, two = mlp(1), mlp(1, nn.Flatten(0)), mlp(2)
    leeway.export(one, ROWS, ROWS[:, 0], tmp_path / "models/one", quiet=True)
    leeway.export(flat, ROWS, None, tmp_path / "models/flat", quiet=True)
    truth = pd.DataFrame({"price": ROWS[:, 0], "days": ROWS[:, 1]})
    leeway.export(two, ROWS, truth, tmp_path / "models/two", quiet=True)
    with leeway.testing.serve(tmp_path / "models", settings=SETTINGS) as server, server.client() as client:
        for name, module in (("one", one), ("flat", flat)):
            found = [row["value"] for row in client.predict(name, ROWS)]
            assert np.allclose(found, answers(module, ROWS).reshape(-1), atol=1e-4)
        rows = [row["values"] for row in client.predict("two", ROWS)]
    assert np.allclose([[row["price"], row["days"]] for row in rows], answers(two, ROWS), atol=1e-4)
    metrics = tomllib.loads((tmp_path / "models/one/1/version.toml").read_text())["metrics"]
    expected = np.abs(answers(one, ROWS).numpy()[:, 0] - ROWS[:, 0]).mean()
    assert metrics["mean_absolute_error"] == pytest.approx(expected, abs=1e-4)


class Tower(nn.Module):  # type: ignore[misc]
    """Inputs of different types, one of them with a name that NumPy's functions have, and outputs in the form of `wrap`."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.item, self.user, self.wrap = nn.Embedding(10, 4), nn.Linear(8, 4), wrap

    def forward(self, user: Any, item: Any, file: Any = None) -> Any:
        user, item = self.user(user), self.item(item)
        score = (user * item).sum(1)
        return self.wrap(score if file is None else score * file, user)


@dataclasses.dataclass
class Output:
    score: Any
    vector: Any
    attentions: Any = None


def test_several_inputs_and_outputs_have_names(tmp_path: Path) -> None:
    item = RANDOM.integers(0, 10, 300)
    weight = RANDOM.random(300, dtype=np.float32)
    rows = [{"user": row.tolist(), "item": int(place)} for row, place in zip(ROWS, item)]
    wraps = {
        "mapping": lambda score, user: OrderedDict(score=score, vector=user, past=None),
        "record": lambda score, user: Output(score, user),
        "single": lambda score, user: [score],
    }
    for name, wrap in wraps.items():
        leeway.export(Tower(wrap), (torch.from_numpy(ROWS), item), None, tmp_path / "models" / name, quiet=True)
    plain = Tower(lambda score, user: (score, user))
    X = {"user": ROWS, "file": weight, "item": item}
    leeway.export(plain, X, None, tmp_path / "models/weighted", quiet=True)
    score, user = answers(plain, ROWS, item)
    with leeway.testing.serve(tmp_path / "models", settings=SETTINGS) as server, server.client() as client:
        for name in ("mapping", "record"):
            answer = client.predict(name, rows)
            assert np.allclose([row["score"] for row in answer], score, atol=1e-4)
            assert np.allclose([row["vector"] for row in answer], user, atol=1e-4)
        assert np.allclose([row["value"] for row in client.predict("single", rows)], score, atol=1e-4)
        weighted = [{**row, "file": float(number)} for row, number in zip(rows, weight)]
        found = [row["output_0"] for row in client.predict("weighted", weighted)]
    assert np.allclose(found, score.numpy() * weight, atol=1e-4)


class Tagger(nn.Module):  # type: ignore[misc]
    """A transformer over tokens. Those with a mask of 0 do not count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(30, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.last = nn.Linear(16, 3)

    def forward(self, ids: Any, mask: Any) -> dict[str, Any]:
        hidden = self.layer(self.embedding(ids), src_key_padding_mask=mask == 0) * mask[:, :, None]
        pooled = hidden.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"logits": self.last(pooled), "pooled": pooled}


def test_the_number_of_tokens_is_open(tmp_path: Path) -> None:
    module = Tagger()
    ids, mask = RANDOM.integers(0, 30, (60, 7)), np.ones((60, 7), dtype=np.int64)
    mask[::2, 4:] = 0
    dynamic = {"ids": {1: "tokens"}, "mask": {1: "tokens"}}
    exported = leeway.export(module, {"ids": ids, "mask": mask}, CLASSES[:60], tmp_path / "tagger", dynamic=dynamic, quiet=True)
    assert "The length of tokens is open; compared with 1, 4, 7, 8, 14." in exported.report
    assert "{ ids: [tokens], mask: [tokens] }" in (tmp_path / "tagger/model.toml").read_text()
    assert torch.backends.mha.get_fastpath_enabled()
    with leeway.testing.serve(tmp_path, settings=SETTINGS) as server, server.client() as client:
        for length in (1, 7, 23):
            ids, mask = RANDOM.integers(0, 30, (5, length)), np.ones((5, length), dtype=np.int64)
            rows = [{"ids": row.tolist(), "mask": marks.tolist()} for row, marks in zip(ids, mask)]
            logits = answers(module, ids, mask)["logits"]
            check_classes(client.predict("tagger", rows), logits.softmax(1), [0, 1, 2])


def test_a_model_of_transformers_has_named_outputs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="make test-torch installs it")
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2,
        max_position_embeddings=32,
    )
    module = transformers.BertForSequenceClassification(config)
    ids = RANDOM.integers(0, 40, (30, 6))
    X = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    dynamic = {name: {1: "tokens"} for name in X}
    leeway.export(module, X, None, tmp_path / "bert", labels=["bad", "good"], dynamic=dynamic, quiet=True)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * 6} for row in ids]
    logits = answers(module, ids, X["attention_mask"]).logits
    check_classes(served(tmp_path / "bert", rows), logits.softmax(1), ["bad", "good"])


def test_of_many_rows_some_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leeway.exporting.pytorch._PARITY_ROWS", 100)
    module = mlp(3)
    exported = leeway.export(module, ROWS, CLASSES, tmp_path / "m", golden_rows=20, baseline_rows=50, quiet=True)
    assert exported.parity.rows == 100 and "Its baseline has 50 rows" in exported.report
    golden = json.loads((tmp_path / "m/1/golden.json").read_text())
    assert np.array_equal(np.float32(golden["instances"]), ROWS[::15])
    metrics = tomllib.loads((tmp_path / "m/1/version.toml").read_text())["metrics"]
    right = answers(module, ROWS).argmax(1).numpy() == CLASSES
    assert metrics == {"accuracy": pytest.approx(right[::3].mean(), abs=1e-5)}


def test_large_weights_are_in_a_file_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leeway.exporting.pytorch.tracing._MAX_BYTES_WITHIN", 100)
    module = mlp(3)
    leeway.export(module, ROWS, CLASSES, tmp_path / "large", quiet=True)
    assert (tmp_path / "large/1/model.onnx.data").stat().st_size > 500
    check_classes(served(tmp_path / "large", ROWS), answers(module, ROWS).softmax(1), [0, 1, 2])


def test_examples_of_large_rows_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leeway.exporting.pytorch._GOLDEN_VALUES", 110)
    exported = leeway.export(mlp(3), ROWS, None, tmp_path / "m", quiet=True)
    assert "reproduces its 10 golden examples" in exported.report
    assert "Answered as they are: output. If they are scores of classes, give y, classes or labels." in exported.report
    golden = json.loads((tmp_path / "m/1/golden.json").read_text())
    assert np.allclose(golden["predictions"], answers(mlp(3), golden["instances"]), atol=1e-6)


class Lambda(nn.Module):  # type: ignore[misc]
    """A module of one function, with a layer before it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.layer, self.function = nn.Linear(8, 3), function

    def forward(self, x: Any) -> Any:
        return self.function(self.layer(x))


def loop(x: Any) -> Any:
    return torch.stack([x[place] * 2 for place in range(len(x))])


def while_exported(exported: Any) -> Any:
    """Returns a function that is another one in the export."""
    return lambda x: exported(x) if torch.compiler.is_compiling() else x


TOKENS = {"ids": RANDOM.integers(1, 30, (20, 7)), "mask": np.ones((20, 7), dtype=np.int64)}
DOUBLE = ROWS.astype(np.float64)
FAILURES: list[tuple[Any, Any, dict[str, Any], str]] = [
    (mlp(3).double(), ROWS, {}, r"0.weight is float64, .* give module.float\(\)"),
    (mlp(3).to(torch.bfloat16), ROWS, {}, r"0.weight is bfloat16"),
    (nn.Linear(8, 3, device="meta"), ROWS, {}, r"weight is on the device meta, .* module.cpu\(\)"),
    (torch.jit.trace(nn.Linear(8, 3), torch.from_numpy(ROWS)), ROWS, {}, "the module is scripted"),
    (nn.Linear, ROWS, {}, "Linear is a class"),
    (mlp(3).state_dict()["0.weight"], ROWS, {}, "is not a torch.nn.Module"),
    (mlp(3), DOUBLE, {}, r"X is float64, .* X.astype\(\"float32\"\)"),
    (mlp(3), DOUBLE.astype(np.int64), {}, r"cannot predict 5 rows of X \(input is int64\)"),
    (mlp(3), pd.DataFrame(ROWS), {}, "X is a DataFrame"),
    (mlp(3), ROWS[:0], {}, "X has no rows"),
    (mlp(3), np.where(ROWS > 2, np.nan, ROWS), {}, "X has NaN"),
    (mlp(3), (ROWS, ROWS), {}, "X has 2 inputs, and forward takes input"),
    (mlp(3), {"x": ROWS}, {}, "X has no input, and forward takes input"),
    (mlp(3), ROWS[:, :5], {}, "cannot predict 5 rows of X .* shapes cannot be multiplied"),
    (mlp(3), ROWS, {"y": CLASSES[:9]}, "X has 300 rows, and y has 9"),
    (mlp(1), ROWS, {"y": np.where(ROWS[:, 0] > 2, np.nan, 1)}, "y has NaN or infinity"),
    (mlp(3), ROWS, {"y": ROWS[:, :2]}, "no output has a number for each of the 2 columns of y"),
    (mlp(3), ROWS, {"y": ROWS[:, 0]}, r"no output has one number in a row: output float32\[rows, 3\]"),
    (mlp(3), ROWS, {"y": np.where(CLASSES > 1, "yes", "no")}, "y has texts or other objects; name the classes"),
    (mlp(3), ROWS, {"y": CLASSES + 1}, r"y has 1, 2, 3, .* expected the positions 0 to 2"),
    (mlp(3), ROWS, {"y": CLASSES.astype(str), "classes": ["0", "1", "x"]}, "y has 2, and the classes are"),
    (mlp(3), ROWS, {"classes": ["a", "b"]}, r"one score for each of the 2 classes in a row: output float32\[rows, 3\]"),
    (mlp(3), ROWS, {"classes": ["a", "b", "c"], "labels": ["a"]}, "labels: found 1, expected 3"),
    (mlp(3, nn.Sigmoid()), ROWS, {"y": CLASSES}, "do not add up to 1, as by a sigmoid"),
    (mlp(3), ROWS, {"dynamic": {"ids": {1: "tokens"}}}, "there is no input 'ids'; the inputs are input"),
    (mlp(3), ROWS, {"dynamic": {0: "rows"}}, "expected one from 1 to 1; dimension 0 is that of the rows"),
    (mlp(3), ROWS, {"dynamic": {1: "columns"}}, "the module works with 8 columns only"),
    (Tagger(), TOKENS, {"dynamic": {"ids": {1: "tokens"}}}, r"works with 7 tokens only \(dimension 1 of ids\).* other inputs"),
    (Tagger(), TOKENS, {"dynamic": {"ids": {1: "n"}, "mask": {1: "m"}}}, "takes no other length of 'n' than 7"),
    (Tagger(), {**TOKENS, "mask": ROWS[:5]}, {}, "the inputs have different numbers of rows"),
    (Lambda(loop), ROWS, {}, r"the module works with 3 rows only \(dimension 0 of x\)"),
    (Lambda(lambda x: x - x.mean(0)), ROWS, {}, "the rows depend on each other"),
    (Lambda(lambda x: x[:, 0].mean()), ROWS, {}, r"the output output has the shape \[\] for 5 rows"),
    (Lambda(lambda x: x.squeeze()), ROWS, {}, r"has the shape \[3\] for 1 row; .* squeeze\(-1\)"),
    (Lambda(lambda x: nn.functional.dropout(x)), ROWS, {}, "something in it is random"),
    (Lambda(lambda x: torch.log(x - 100)), ROWS, {}, "the output output has NaN or infinity for 300 of 300 rows"),
    (Lambda(lambda x: {"x": x}), ROWS, {}, "x is an input and an output"),
    (Lambda(lambda x: {"x": [x]}), ROWS, {}, "the output x is list, not a tensor"),
    (Lambda(lambda x: "x"), ROWS, {}, "the module answers str"),
    (Lambda(lambda x: x if x.isfinite().all() else -x), ROWS, {}, "a branch or a shape depends on values of the input"),
    (Lambda(while_exported(lambda x: x + 0.01)), ROWS, {}, r"answers \d+ of 300 rows differently .* tolerance=0.01"),
    (Lambda(while_exported(lambda x: x + (x.shape[0] - 3) * 0.01)), ROWS, {}, "with 1 row, .* right only for the lengths"),
    (Lambda(while_exported(lambda x: x[:, :2])), ROWS, {}, r"the output output has the shape \[256, 2\] in ONNX Runtime"),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_what_cannot_be_exported_is_an_error_that_says_what_to_change(tmp_path: Path, number: int) -> None:
    module, rows, given, message = FAILURES[number]
    options = dict(given)
    with pytest.raises(leeway.ExportFailed, match=message):
        leeway.export(module, rows, options.pop("y", None), tmp_path / "m", quiet=True, **options)
    assert not (tmp_path / "m").exists()
    assert isinstance(module, type) or getattr(module, "training", True)


def test_answers_that_differ_can_be_accepted(tmp_path: Path) -> None:
    module = Lambda(while_exported(lambda x: x + 0.01))
    exported = leeway.export(module, ROWS[:1], None, tmp_path / "m", tolerance=0.02, quiet=True)
    assert exported.version == 1 and exported.parity.largest == pytest.approx(0.01, rel=1e-3)


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(leeway.ExportFailed, match=r"onnxscript.*pip install \"leeway-server\[torch\]\""):
        leeway.export(mlp(3), ROWS, CLASSES, tmp_path / "m", quiet=True)


def test_wrappers_of_training_are_taken_off(tmp_path: Path) -> None:
    module = mlp(3)
    exported = leeway.export(nn.DataParallel(torch.compile(module)), ROWS, CLASSES, tmp_path / "m", quiet=True)
    assert exported.version == 1
    with pytest.raises(leeway.ExportFailed, match="classes and dynamic are for modules of PyTorch"):
        leeway.export(object(), ROWS, None, tmp_path / "x", classes=["a"], quiet=True)
