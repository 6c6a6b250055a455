#!/usr/bin/env python3
"""Writes the small models that chains are tested with into tests/data/chains, and what Pillow, numpy and ONNX Runtime
make of some images and texts step by step (chains.json).

- blobs.onnx finds coloured parts of an image: the image is divided into 4 x 4 cells, and the score of a cell is the
  difference between its strongest and its weakest channel. The outputs are those of Ultralytics' YOLOv8.
- colours.onnx tells red, green and blue apart by the mean of each channel.
- topics.onnx is a linear classifier on the vectors of tests/data/text/sentences.

The expected vectors of the texts are those of sentence-transformers in tests/data/text/held_out.json.

Run by hand; the products are committed:

    pip install numpy==2.3.5 onnx==1.20.1 onnxruntime==1.31.1 pillow==13.0.0
    python tests/data/make_chain_models.py
"""

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from PIL import Image

HERE = Path(__file__).resolve().parent
OUT = HERE / "chains"
SIDE, CELLS, CROP, WIDTH, TOPICS = 64, 4, 16, 32, 4
THRESHOLD = 0.25


def write(name, nodes, inputs, outputs, constants):
    tensors = [numpy_helper.from_array(array, constant) for constant, array in constants.items()]
    graph = h.make_graph(nodes, name, inputs, outputs, tensors)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, OUT / f"{name}.onnx")


def value(name, shape):
    return h.make_tensor_value_info(name, T.FLOAT, shape)


def write_models(vectors):
    cell = SIDE / CELLS
    middles = [(cell * (column + 0.5), cell * (row + 0.5)) for row in range(CELLS) for column in range(CELLS)]
    boxes = np.array([[x, y, cell, cell] for x, y in middles], np.float32).T[None]
    write(
        "blobs",
        [
            h.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
            h.make_node("ReduceMax", ["cells", "channels"], ["most"], keepdims=1),
            h.make_node("ReduceMin", ["cells", "channels"], ["least"], keepdims=1),
            h.make_node("Sub", ["most", "least"], ["colour"]),
            h.make_node("Reshape", ["colour", "row"], ["scores"]),
            h.make_node("Mul", ["scores", "zero"], ["nothing"]),
            h.make_node("Add", ["nothing", "boxes"], ["all_boxes"]),
            h.make_node("Concat", ["all_boxes", "scores"], ["output0"], axis=1),
        ],
        [value("images", ["batch", 3, SIDE, SIDE])],
        [value("output0", ["batch", 5, CELLS * CELLS])],
        {
            "channels": np.array([1]),
            "row": np.array([-1, 1, CELLS * CELLS]),
            "zero": np.zeros(1, np.float32),
            "boxes": boxes,
        },
    )
    write(
        "colours",
        [
            h.make_node("GlobalAveragePool", ["images"], ["means"]),
            h.make_node("Flatten", ["means"], ["flat"]),
            h.make_node("Gemm", ["flat", "weights"], ["logits"]),
        ],
        [value("images", ["batch", 3, CROP, CROP])],
        [value("logits", ["batch", 3])],
        {"weights": np.array([[6, -3, -3], [-3, 6, -3], [-3, -3, 6]], np.float32)},
    )
    weights = np.random.default_rng(7).normal(0, 4, (WIDTH, TOPICS)).astype(np.float32)
    write(
        "topics",
        [h.make_node("Gemm", ["vector", "weights", "bias"], ["logits"])],
        [value("vector", ["batch", WIDTH])],
        [value("logits", ["batch", TOPICS])],
        {
            "weights": weights,
            # The mean text has no topic, so that all topics occur.
            "bias": -vectors.mean(0) @ weights,
        },
    )


def run(name, inputs):
    session = onnxruntime.InferenceSession(OUT / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def picture(width, height, blobs):
    """A grey image with coloured rectangles."""
    pixels = np.full((height, width, 3), 120, np.uint8)
    pixels += (np.arange(width) // 16).astype(np.uint8)[None, :, None]
    for (left, top, right, bottom), colour in blobs:
        pixels[top:bottom, left:right] = colour
    return Image.fromarray(pixels)


def tensor(image, side):
    resized = image.resize((side, side), Image.BILINEAR)
    return (np.asarray(resized, np.float32) / 255).transpose(2, 0, 1)[None]


def detected(image, margin):
    """What the detector finds, the surest first, with the colour of each crop."""
    output = run("blobs", tensor(image, SIDE))[0]
    found = []
    for x, y, width, height, score in output.T:
        if score < THRESHOLD:
            continue
        scale = np.array([image.width, image.height] * 2) / SIDE
        box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]) * scale
        sides = np.tile(box[2:] - box[:2], 2) * margin * np.array([-1, -1, 1, 1])
        left, top, right, bottom = box + sides
        part = (
            max(math.floor(left), 0),
            max(math.floor(top), 0),
            min(math.ceil(right), image.width),
            min(math.ceil(bottom), image.height),
        )
        colours = softmax(run("colours", tensor(image.crop(part), CROP)))[0]
        label = ["red", "green", "blue"][int(colours.argmax())]
        crop = {"label": label, "confidence": float(colours.max())}
        found.append({"box": box.tolist(), "score": float(score), "crop": crop})
    return sorted(found, key=lambda one: -one["score"])


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def main():
    OUT.mkdir(exist_ok=True)
    held_out = json.loads((HERE / "text/held_out.json").read_text())
    vectors = np.array(held_out["embeddings"], np.float32)
    write_models(vectors)
    pictures = [
        # Each rectangle lies in a cell of its own, and fills a part of it, so that no two scores are equal.
        picture(128, 96, [((4, 3, 29, 22), [250, 10, 20]), ((70, 50, 94, 68), [20, 230, 30]), ((98, 74, 119, 95), [10, 20, 220])]),
        picture(60, 84, [((31, 43, 44, 62), [30, 40, 240])]),
        picture(40, 40, []),
    ]
    margins = {str(margin): [detected(image, margin) for image in pictures] for margin in [0.0, 0.25]}
    topics = softmax(run("topics", vectors))
    # No answer hangs by the last digits.
    best = np.sort(topics, -1)
    sure = [index for index in range(len(topics)) if best[index, -1] - best[index, -2] > 0.01][:20]
    texts = [
        {"text": held_out["instances"][index], "topic": int(topics[index].argmax()), "scores": topics[index].tolist()}
        for index in sure
    ]
    golden = {"images": [encoded(image) for image in pictures], "detections": margins, "texts": texts}
    (OUT / "chains.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
