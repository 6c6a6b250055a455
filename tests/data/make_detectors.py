#!/usr/bin/env python3
"""Writes small detectors into tests/data/detectors, each with the outputs of another family's export, and the objects that
a reference in float64 finds in them (detectors.json).

What they answer is made up: objects of three classes with worse boxes of the same objects around them, objects of other
classes above them, boxes that reach out of the image, scores next to the threshold, and background. It does not depend on
what the image shows, and there is as much of it as there are images. Names, ranks, order and types of the outputs are those
of the exports; each model's function says which script writes it like that.

detectors.json has for each model: what its layout is; an original image's width and height, and how it is brought to 64 x
64 ("stretch": each side by itself; "fit": whole, in the middle of a frame); the objects, the surest first, with boxes in
pixels of the original image. Where a model has not suppressed anything itself, boxes of a class that overlap a better one
by more than 0.45 are left out. Scores below 0.25 are left out everywhere.

Run by hand; the products are committed:

    pip install numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
    python tests/data/make_detectors.py
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from make_models import constant, value
from onnx import TensorProto as T
from onnx import helper as h

OUT = Path(__file__).resolve().parent / "detectors"
LABELS = ["cat", "dog", "bird"]
SIDE = 64
STRIDES = [8, 16, 32]
THRESHOLD, OVERLAP, MOST = 0.25, 0.45, 100
# How many boxes models answer that have chosen themselves; real ones 100 to 300.
CHOSEN = 20

golden = {}


# ===== What is seen =====

# Class, corners in pixels of the model's input, score.
OBJECTS = [
    (0, [8, 14, 30, 44], 0.93),
    (1, [10, 16, 32, 46], 0.81),  # Where the cat is, and another class.
    (0, [36, 20, 58, 50], 0.77),
    (1, [-6, 30, 14, 62], 0.68),  # Reaches out on the left.
    (2, [44, -3, 70, 18], 0.88),  # Reaches out at the top and on the right.
    (2, [20, 50, 26, 56], 0.41),
    (1, [33, 9, 63, 60], 0.57),
    # The first leaves out the second, which then does not leave out the third.
    (0, [2, 2, 22, 12], 0.64),
    (0, [7, 2, 27, 12], 0.53),
    (0, [12, 2, 32, 12], 0.46),
]
# As good as on the threshold, on both sides of it.
BORDERLINE = [(2, [48, 44, 60, 58], 0.2506), (0, [52, 2, 62, 14], 0.2494)]


def iou(a, b):
    """The area that two boxes share / the area that they cover."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def is_clear(found):
    """Whether no answer hangs by the last digit: neither on a threshold, nor on which of two scores is higher."""
    scores = np.array([score for _, score, _ in found])
    pairs = [(a, b) for at, a in enumerate(found) for b in found[:at]]
    overlaps = np.array([iou(a[2], b[2]) for a, b in pairs if a[0] == b[0]])
    apart = np.array([abs(a[1] - b[1]) for a, b in pairs])
    return (
        np.all(np.abs(scores - THRESHOLD) > 1e-4) and np.all(np.abs(overlaps - OVERLAP) > 0.005) and np.all(apart > 1e-4)
    )


def seen(rng, classes=len(LABELS)):
    """Class, score and box of all objects and of worse boxes around them."""
    while True:
        found = []
        for label, box, score in OBJECTS:
            box = np.array(box) + rng.normal(0, 0.3, 4)
            found.append((label, score + rng.normal(0, 0.01), box))
            size = np.tile(box[2:] - box[:2], 2)
            for _ in range(rng.integers(1, 4)):
                found.append((label, found[-1][1] * rng.uniform(0.5, 0.95), box + rng.normal(0, 0.05, 4) * size))
        found += [(label, score, np.array(box) + rng.normal(0, 0.3, 4)) for label, box, score in BORDERLINE]
        found = [(label % classes, score, box) for label, score, box in found]
        if is_clear(found):
            return found


def greedy(found, overlap):
    """Of those of a class that overlap by more than that, the surest."""
    kept = []
    for candidate in sorted(found, key=lambda one: -one[1]):
        if all(better[0] != candidate[0] or iou(better[2], candidate[2]) <= overlap for better in kept):
            kept.append(candidate)
    return kept


def chosen(rng, least=0.0):
    """What a model answers that chooses itself, the surest first. It leaves boxes of a class that overlap by 0.45 to 0.7,
    which nobody else may leave out; and one box twice, with two classes."""
    while True:
        found = greedy(seen(rng), 0.7)
        found.append((2, 0.3371, found[0][2]))
        for _ in range(CHOSEN):
            corner, size = rng.uniform(0, 40, 2), rng.uniform(4, 24, 2)
            found.append((int(rng.integers(3)), rng.uniform(0.01, 0.12), np.concatenate([corner, corner + size])))
        found = sorted((one for one in found if one[1] > least), key=lambda one: -one[1])[:CHOSEN]
        if is_clear(found):
            break
    labels, scores, boxes = (np.array(part) for part in zip(*found))
    return labels, scores, boxes


def cells(anchors=1):
    """Column, row and stride of each cell of the grids, in the order in which YOLO has them."""
    return np.array([
        (column, row, stride)
        for stride in STRIDES
        for _ in range(anchors)
        for row in range(SIDE // stride)
        for column in range(SIDE // stride)
    ])


def everywhere(rng, grid, classes=len(LABELS)):
    """A box, whether there is an object, and probabilities of classes, for each cell: that of each object next to it, and
    background. A score is an object's probability x a class's, as the families have it that have both."""
    columns, rows, strides = grid.T
    centres = (np.stack([columns, rows], 1) + 0.5) * strides[:, None]
    halves = strides[:, None] * np.exp(rng.normal(0, 0.4, (len(grid), 2))) / 2
    middles = centres + rng.normal(0, 0.2, (len(grid), 2)) * strides[:, None]
    boxes = np.concatenate([middles - halves, middles + halves], 1)
    objects = rng.uniform(0.001, 0.2, len(grid))
    probabilities = rng.uniform(0.001, 0.3, (len(grid), classes))
    taken = set()

    def free(box):
        stride = rng.choice(STRIDES, p=[0.6, 0.3, 0.1])
        far = np.abs(centres - (box[:2] + box[2:]) / 2).sum(1) + 1000.0 * (strides != stride)
        far[list(taken)] = np.inf
        taken.add(int(np.argmin(far)))
        return int(np.argmin(far))

    for label, score, box in seen(rng, classes):
        at = free(box)
        objects[at] = score ** rng.uniform(0.3, 0.7)
        probabilities[at] = score / objects[at] * rng.uniform(0, 0.6, classes)
        probabilities[at, label] = score / objects[at]
        boxes[at] = box
    # Background that would surely be of the last class, if it were an object; an object of no class.
    for object_score, class_score in [(0.02, 0.95), (0.9, 0.1)] * 3:
        at = free(rng.uniform(8, 56, 4))
        objects[at], probabilities[at] = object_score, class_score * rng.uniform(0.1, 1, classes)
        probabilities[at, -1] = class_score
    return boxes, objects, probabilities


def centred(boxes):
    """Corners as middle and size."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


# ===== Models that answer it =====


def model_of(name, nodes, inputs, outputs, initializers, metadata=None):
    graph = h.make_graph(nodes, name, inputs, outputs, initializers)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9, producer_name="leeway-tests")
    if metadata:
        h.set_model_props(model, {key: str(part) for key, part in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    path = OUT / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    assert path.stat().st_size < 20_000, (name, path.stat().st_size)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def images(batch="batch", name="images"):
    return value(name, T.FLOAT, [batch, 3, SIDE, SIDE])


def per_image(image, answers, dtypes):
    """Each answer once for each image, of shape [n, ...]: 0 x the mean of the image is added to it."""
    nodes = [
        h.make_node("Cast", [image], ["image_floats"], to=T.FLOAT),
        h.make_node("ReduceMean", ["image_floats", "all_axes"], ["means"]),
        h.make_node("Mul", ["means", "zero"], ["zeros"]),
    ]
    initializers = [constant("all_axes", np.array([1, 2, 3])), constant("zero", np.float32(0))]
    for (name, array), dtype in zip(answers.items(), dtypes):
        ranks = np.array([-1] + [1] * array.ndim)
        initializers += [constant(f"{name}_ranks", ranks), constant(f"{name}_values", array[None].astype(np.float32))]
        nodes += [
            h.make_node("Reshape", ["zeros", f"{name}_ranks"], [f"{name}_zeros"]),
            h.make_node("Add", [f"{name}_zeros", f"{name}_values"], [f"{name}_floats"]),
            h.make_node("Cast", [f"{name}_floats"], [name], to=dtype),
        ]
    return nodes, initializers


def unsized(zeros, name, output, length, axis):
    """Nodes that give one side of an output a length that nobody knows before they have run, as it is where boxes are
    selected. It stays what it is: as many places as there are, all of them selected."""
    initializers = [constant(f"{output}_places", np.ones(length, np.float32)), constant(f"{output}_first", np.array([0]))]
    nodes = [
        h.make_node("ReduceMax", [zeros], [f"{output}_zero"], keepdims=0),
        h.make_node("Add", [f"{output}_places", f"{output}_zero"], [f"{output}_ones"]),
        h.make_node("NonZero", [f"{output}_ones"], [f"{output}_selection"]),
        h.make_node("Squeeze", [f"{output}_selection", f"{output}_first"], [f"{output}_selected"]),
        h.make_node("Gather", [name, f"{output}_selected"], [output], axis=axis),
    ]
    return nodes, initializers


def plain(name, answers, batch="batch", dims=None, dtypes=None, image=None, metadata=None):
    """A model whose outputs are one row for each image; `dims` are what outputs declare, without that of the rows."""
    dtypes = dtypes or [T.FLOAT] * len(answers)
    image = image or images(batch)
    shapes = dims or [list(array.shape) for array in answers.values()]
    sides = {output: at for output, shape in zip(answers, shapes) for at, dim in enumerate(shape) if isinstance(dim, str)}
    sized = {f"{output}_sized" if output in sides else output: array for output, array in answers.items()}
    nodes, initializers = per_image(image.name, sized, dtypes)
    for output, side in sides.items():
        more = unsized("zeros", f"{output}_sized", output, answers[output].shape[side], side + 1)
        nodes, initializers = nodes + more[0], initializers + more[1]
    outputs = [value(output, dtype, [batch, *shape]) for output, dtype, shape in zip(answers, dtypes, shapes)]
    return model_of(name, nodes, [image], outputs, initializers, metadata)


# ===== The reference =====


def placement(original, resize):
    """The pixels of the input per pixel of the original, and where its upper left corner is in the input."""
    original = np.array(original, np.float64)
    if resize == "stretch":
        return SIDE / original, np.zeros(2)
    inner = np.floor(original * np.min(SIDE / original) + 0.5)
    return inner / original, np.floor((SIDE - inner) / 2)


def expect(name, session, decode, settings, original, resize, suppressed, more=None, in_original=False):
    """Runs a model, and writes down which objects there are. `decode` makes classes, scores and corners, in pixels of the
    input unless `in_original`, of a dict with the outputs for one image."""
    inputs = {one.name: one for one in session.get_inputs()}
    image = next(one for one in inputs.values() if len(one.shape) > 2)
    dims = [part if isinstance(part, int) else 1 if at == 0 else SIDE for at, part in enumerate(image.shape)]
    dtype = np.uint8 if image.type == "tensor(uint8)" else np.float32
    noise = (np.random.default_rng(7).uniform(0, 1, dims) * 255).astype(dtype)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, {image.name: noise, **(more or {})})))
    labels, scores, boxes = (np.asarray(part, np.float64) for part in decode(outputs))
    assert len(labels) == len(scores) == len(boxes)
    found = [(int(a), b, c) for a, b, c in zip(labels, scores, boxes) if b >= THRESHOLD]
    assert is_clear(found), name
    found = sorted(found, key=lambda one: -one[1]) if suppressed else greedy(found, OVERLAP)
    scale, offset = (np.ones(2), np.zeros(2)) if in_original else placement(original, resize)
    detections = []
    for label, score, box in found[:MOST]:
        corners = np.clip((box.reshape(2, 2) - offset) / scale, 0, original).reshape(4)
        detections.append({"label": LABELS[label], "score": round(score, 6), "box": [round(x, 4) for x in corners.tolist()]})
    golden[name] = {"settings": settings, "image": original, "resize": resize, "detections": detections}


def corners_of(centres):
    middle, half = centres[:, :2], centres[:, 2:4] / 2
    return np.concatenate([middle - half, middle + half], 1)


def best(scores):
    """The class of each box, and its score."""
    return scores.argmax(1), scores.max(1)


def decode_objectness(output, grid=None):
    """[boxes, 5 + classes]: middle and size, whether there is an object, probabilities of classes."""
    rows = output.astype(np.float64)
    if grid is not None:
        columns_and_rows, strides = grid[:, :2], grid[:, 2:]
        rows[:, :2] = (rows[:, :2] + columns_and_rows) * strides
        rows[:, 2:4] = np.exp(rows[:, 2:4]) * strides
    return *best(rows[:, 4:5] * rows[:, 5:]), corners_of(rows)


def decode_columns(output, unit=1.0, centre=False):
    """[boxes, 6]: box, score, class."""
    rows = output.astype(np.float64)
    boxes = corners_of(rows) if centre else rows[:, :4]
    return rows[:, 5], rows[:, 4], boxes * unit


# ===== The families =====


def yolov5():
    """ultralytics/yolov5, export.py --dynamic: the head concatenates three grids of three anchors each."""
    boxes, objects, classes = everywhere(np.random.default_rng(5), cells(anchors=3))
    rows = np.concatenate([centred(boxes), objects[:, None], classes], 1)
    metadata = {"stride": 32, "names": dict(enumerate(LABELS))}
    session = plain("yolov5", {"output0": rows}, dims=[["anchors", 8]], metadata=metadata)
    settings = (
        "output0 [n, boxes, 5 + classes]: middle and size in pixels of the input, objectness, classes; the score is their"
        " product; not suppressed; the file has the labels"
    )
    decode = lambda outputs: decode_objectness(outputs["output0"][0])
    expect("yolov5", session, decode, settings, [128, 96], "fit", suppressed=False)


def yolov7():
    """WongKinYiu/yolov7, export.py --grid --dynamic-batch."""
    boxes, objects, classes = everywhere(np.random.default_rng(70), cells(anchors=3))
    session = plain("yolov7", {"output": np.concatenate([centred(boxes), objects[:, None], classes], 1)})
    settings = (
        "output [n, boxes, 5 + classes]: middle and size in pixels of the input, objectness, classes; the score is their"
        " product; not suppressed"
    )
    decode = lambda outputs: decode_objectness(outputs["output"][0])
    expect("yolov7", session, decode, settings, [75, 101], "fit", suppressed=False)


def yolov7_one_class():
    """The same of one class. Its probability is not trained then (utils/loss.py: `if self.nc > 1`), and is not read
    (utils/general.py, non_max_suppression; models/experimental.py, ONNX_ORT)."""
    boxes, objects, classes = everywhere(np.random.default_rng(71), cells(anchors=3), classes=1)
    scores = objects * classes[:, 0]
    session = plain("yolov7_one_class", {"output": np.c_[centred(boxes), scores, np.full(len(boxes), 0.5)]})
    settings = (
        "output [n, boxes, 6]: middle and size in pixels of the input, objectness, one class; the score is the objectness,"
        " because YOLOv7 does not train the probability of an only class, which is 0.5 everywhere; not suppressed; labels:"
        " cat"
    )
    decode = lambda outputs: (np.zeros(len(boxes)), outputs["output"][0][:, 4], corners_of(outputs["output"][0]))
    expect("yolov7_one_class", session, decode, settings, [128, 96], "fit", suppressed=False)


def yolov7_end2end():
    """The same script with --grid --end2end --max-wh 640 (class ONNX_ORT): the boxes of all images below each other."""
    labels, scores, boxes = chosen(np.random.default_rng(72), least=0.25)
    rows = np.c_[np.zeros(len(boxes)), boxes, labels, scores]
    nodes, initializers = per_image("images", {"rows": rows}, [T.FLOAT])
    nodes += [
        h.make_node("Shape", ["images"], ["count"], start=0, end=1),
        h.make_node("Squeeze", ["count"], ["counted"]),
        h.make_node("Range", ["first", "counted", "step"], ["numbers"]),
        h.make_node("Cast", ["numbers"], ["floats"], to=T.FLOAT),
        h.make_node("Reshape", ["floats", "column"], ["images_column"]),
        h.make_node("Mul", ["images_column", "first_column"], ["images_first"]),
        h.make_node("Add", ["rows", "images_first"], ["with_images"]),
        h.make_node("Reshape", ["with_images", "flat"], ["output"]),
    ]
    initializers += [
        constant("first", np.array(0)),
        constant("step", np.array(1)),
        constant("column", np.array([-1, 1, 1])),
        constant("first_column", np.eye(1, 7, dtype=np.float32)[None]),
        constant("flat", np.array([-1, 7])),
    ]
    # The script calls this dimension that as well, though it is not that of the images.
    outputs = [value("output", T.FLOAT, ["batch", 7])]
    session = model_of("yolov7_end2end", nodes, [images()], outputs, initializers)
    settings = (
        "output [boxes of all images, 7]: number of the image, corners in pixels of the input, class, score; suppressed"
        " already; not one row for each image"
    )
    decode = lambda outputs: (outputs["output"][:, 5], outputs["output"][:, 6], outputs["output"][:, 1:5])
    expect("yolov7_end2end", session, decode, settings, [128, 96], "fit", suppressed=True)


def yolov7_efficient_nms():
    """The same script with --grid --end2end (class ONNX_TRT), but for the node, TRT::EfficientNMS_TRT, which ONNX Runtime
    does not have. What is behind the boxes that count is not said to be anything."""
    labels, scores, boxes = chosen(np.random.default_rng(73), least=0.25)
    counted, left = len(boxes), CHOSEN - len(boxes)
    answers = {
        "num_dets": np.array([counted]),
        "det_boxes": np.concatenate([boxes, np.tile([1.0, 2.0, 30.0, 40.0], (left, 1))]),
        "det_scores": np.concatenate([scores, np.full(left, 0.9)]),
        "det_classes": np.concatenate([labels, np.full(left, 2)]),
    }
    dtypes = [T.INT32, T.FLOAT, T.FLOAT, T.INT32]
    session = plain("yolov7_efficient_nms", answers, dtypes=dtypes)
    settings = (
        "num_dets [n, 1], det_boxes [n, boxes, 4], det_scores and det_classes [n, boxes]: corners in pixels of the input;"
        " classes from 0 on; suppressed already; only the first num_dets boxes count, and the others look as if they did"
    )

    def decode(outputs):
        count = outputs["num_dets"][0, 0]
        return tuple(outputs[name][0, :count] for name in ["det_classes", "det_scores", "det_boxes"])

    expect("yolov7_efficient_nms", session, decode, settings, [128, 96], "fit", suppressed=True)


def yolox():
    """Megvii-BaseDetection/YOLOX, tools/export_onnx.py --dynamic: as it comes out of the head; and, with
    --decode_in_inference and without --dynamic, decoded."""
    grid = cells()
    boxes, objects, classes = everywhere(np.random.default_rng(80), grid)
    middles, strides = centred(boxes), grid[:, 2:]
    raw = np.concatenate([middles[:, :2] / strides - grid[:, :2], np.log(middles[:, 2:] / strides)], 1)
    session = plain("yolox", {"output": np.concatenate([raw, objects[:, None], classes], 1)})
    settings = (
        "output [n, boxes, 5 + classes]: (x + column) * stride and (y + row) * stride are the middle, exp(w) * stride and"
        " exp(h) * stride the size, in pixels of the input, for grids of strides 8, 16 and 32; objectness, classes; the score"
        " is their product; not suppressed"
    )
    decode = lambda outputs: decode_objectness(outputs["output"][0], grid)
    expect("yolox", session, decode, settings, [128, 96], "fit", suppressed=False)

    boxes, objects, classes = everywhere(np.random.default_rng(81), grid)
    rows = np.concatenate([centred(boxes), objects[:, None], classes], 1)
    session = plain("yolox_decoded", {"output": rows}, batch=1)
    settings = (
        "output [1, boxes, 5 + classes]: middle and size in pixels of the input, objectness, classes; the score is their"
        " product; not suppressed"
    )
    decode = lambda outputs: decode_objectness(outputs["output"][0])
    expect("yolox_decoded", session, decode, settings, [60, 33], "fit", suppressed=False)


def ultralytics(head="Detect", end2end=False, **args):
    """What its engine/exporter.py writes into a file, but for the license and the address of the documentation."""
    return {
        "description": "Ultralytics model",
        "author": "Ultralytics",
        "date": "2026-01-01T00:00:00+00:00",
        "version": "8.4.190",
        "stride": 32,
        "task": "detect",
        "head": head,
        "batch": 1,
        "imgsz": [SIDE, SIDE],
        "names": dict(enumerate(LABELS)),
        "args": {"batch": 1, **args},
        "channels": 3,
        "end2end": end2end,
    }


def yolov8():
    """ultralytics/ultralytics, engine/exporter.py: with dynamic=True, and (yolo11) as it is by default, of one image."""
    boxes, objects, classes = everywhere(np.random.default_rng(8), cells())
    answers = {"output0": np.concatenate([centred(boxes), objects[:, None] * classes], 1).T}
    metadata = ultralytics(dynamic=True, simplify=True, opset=None, nms=False)
    session = plain("yolov8", answers, dims=[[7, "anchors"]], metadata=metadata)
    settings = (
        "output0 [n, 4 + classes, boxes]: middle and size in pixels of the input, scores of classes; not suppressed; the file"
        " has the labels"
    )

    def decode(outputs):
        rows = outputs["output0"][0].T
        return *best(rows[:, 4:]), corners_of(rows)

    expect("yolov8", session, decode, settings, [128, 96], "fit", suppressed=False)

    boxes, objects, classes = everywhere(np.random.default_rng(11), cells())
    session = plain("yolo11", {"output0": np.concatenate([centred(boxes), objects[:, None] * classes], 1).T}, batch=1)
    settings = "output0 [1, 4 + classes, boxes]: middle and size in pixels of the input, scores of classes; not suppressed"
    expect("yolo11", session, decode, settings, [101, 75], "fit", suppressed=False)


def yolov8_nms():
    """The same exporter with nms=True (class NMSModel): corners, and zeros behind the boxes that there are."""
    labels, scores, boxes = chosen(np.random.default_rng(88), least=0.25)
    rows = np.zeros((CHOSEN, 6))
    rows[: len(boxes)] = np.c_[boxes, scores, labels]
    session = plain("yolov8_nms", {"output0": rows})
    settings = (
        "output0 [n, boxes, 6]: corners in pixels of the input, score, class from 0 on; suppressed already; rows of zeros"
        " behind the boxes that there are"
    )
    decode = lambda outputs: decode_columns(outputs["output0"][0])
    expect("yolov8_nms", session, decode, settings, [128, 96], "fit", suppressed=True)


def yolov10():
    """THU-MIG/yolov10, ultralytics/nn/modules/head.py, class v10Detect; of Ultralytics whatever is end2end, as YOLO26."""
    labels, scores, boxes = chosen(np.random.default_rng(10))
    session = plain("yolov10", {"output0": np.c_[boxes, scores, labels]})
    settings = "output0 [n, boxes, 6]: corners in pixels of the input, score, class from 0 on; nothing is to be suppressed"
    decode = lambda outputs: decode_columns(outputs["output0"][0])
    expect("yolov10", session, decode, settings, [128, 96], "fit", suppressed=True)


def rt_detr():
    """lyuwenyu/RT-DETR, tools/export_onnx.py: labels, boxes and scores, and a second input, [width, height] of the original
    image, which parts of the image are multiplied with. Without it, where it was made a constant, they are in pixels of the
    model's input."""
    labels, scores, boxes = chosen(np.random.default_rng(20))
    kinds = {"labels": T.INT64, "boxes": T.FLOAT, "scores": T.FLOAT}
    decode = lambda outputs: tuple(outputs[name][0] for name in ["labels", "scores", "boxes"])

    answers = {"labels": labels, "boxes": boxes, "scores": scores}
    session = plain("rt_detr", answers, batch="N", dtypes=list(kinds.values()))
    settings = (
        "labels [n, boxes], boxes [n, boxes, 4], scores [n, boxes]: corners in pixels of the input, classes from 0 on; nothing"
        " is to be suppressed"
    )
    expect("rt_detr", session, decode, settings, [128, 96], "stretch", suppressed=True)

    answers = {"labels": labels, "parts": boxes / SIDE, "scores": scores}
    nodes, initializers = per_image("images", answers, kinds.values())
    nodes += [
        h.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=T.FLOAT),
        h.make_node("Concat", ["sizes", "sizes"], ["sizes_twice"], axis=1),
        h.make_node("Unsqueeze", ["sizes_twice", "second"], ["sizes_of_boxes"]),
        h.make_node("Mul", ["parts", "sizes_of_boxes"], ["boxes"]),
    ]
    initializers.append(constant("second", np.array([1])))
    inputs = [images("N"), value("orig_target_sizes", T.INT64, ["N", 2])]
    shapes = {"labels": ["N", CHOSEN], "boxes": ["N", CHOSEN, 4], "scores": ["N", CHOSEN]}
    outputs = [value(name, kinds[name], shape) for name, shape in shapes.items()]
    session = model_of("rt_detr_two_inputs", nodes, inputs, outputs, initializers)
    settings = (
        "inputs images and orig_target_sizes [n, 2], int64, [width, height] of the original image; labels [n, boxes], boxes"
        " [n, boxes, 4], scores [n, boxes]: corners in pixels of an image of that size, classes from 0 on; nothing is to be"
        " suppressed"
    )
    original = [128, 96]
    more = {"orig_target_sizes": np.array([original])}
    expect("rt_detr_two_inputs", session, decode, settings, original, "stretch", True, more, in_original=True)
    # The size of the input instead: boxes in its pixels, which the placement maps back, to the same places.
    same = golden["rt_detr_two_inputs"]["detections"]
    expect("check", session, decode, settings, original, "stretch", True, {"orig_target_sizes": np.array([[SIDE, SIDE]])})
    difference = [np.subtract(a["box"], b["box"]) for a, b in zip(same, golden.pop("check")["detections"], strict=True)]
    assert np.abs(difference).max() < 1e-3


def rt_detr_ultralytics():
    """ultralytics/ultralytics, nn/modules/head.py, class RTDETRDecoder: since May 2026 (pull request 24403), and before."""
    labels, scores, boxes = chosen(np.random.default_rng(21))
    rows = np.c_[centred(boxes) / SIDE, scores, labels]
    metadata = ultralytics(head="RTDETRDecoder", dynamic=False, simplify=True, opset=None)
    session = plain("rt_detr_ultralytics", {"output0": rows}, batch=1, metadata=metadata)
    settings = (
        "output0 [1, boxes, 6]: middle and size in parts of the input's width and height, score, class from 0 on; nothing is"
        " to be suppressed; the file has the labels"
    )
    decode = lambda outputs: decode_columns(outputs["output0"][0], unit=SIDE, centre=True)
    expect("rt_detr_ultralytics", session, decode, settings, [128, 96], "stretch", suppressed=True)

    labels, scores, boxes = chosen(np.random.default_rng(22))
    classes = scores[:, None] * np.random.default_rng(23).uniform(0, 0.6, (CHOSEN, 3))
    classes[np.arange(CHOSEN), labels] = scores
    # Queries come in no order.
    rows = np.random.default_rng(24).permutation(np.c_[centred(boxes) / SIDE, classes])
    session = plain("rt_detr_ultralytics_2024", {"output0": rows})
    settings = (
        "output0 [n, boxes, 4 + classes]: middle and size in parts of the input's width and height, scores of classes; nothing"
        " is to be suppressed"
    )
    decode = lambda outputs: (*best(outputs["output0"][0][:, 4:]), corners_of(outputs["output0"][0]) * SIDE)
    expect("rt_detr_ultralytics_2024", session, decode, settings, [128, 96], "stretch", suppressed=True)


def rt_detr_paddle():
    """PaddlePaddle/PaddleDetection, ppdet/modeling/post_process.py, class DETRPostProcess, through paddle2onnx: the boxes of
    all images below each other, in pixels of the original, whose size is im_shape / scale_factor, height first."""
    labels, scores, boxes = chosen(np.random.default_rng(25))
    answers = {"labels_and_scores": np.c_[labels, scores], "parts": boxes / SIDE, "count": np.array(CHOSEN)}
    nodes, initializers = per_image("image", answers, [T.FLOAT, T.FLOAT, T.INT32])
    nodes[-1].output[0] = "tile_3.tmp_0"
    nodes += [
        h.make_node("Div", ["im_shape", "scale_factor"], ["divided"]),
        h.make_node("Add", ["divided", "half"], ["raised"]),
        h.make_node("Floor", ["raised"], ["original"]),
        h.make_node("Gather", ["original", "across_down"], ["sizes"], axis=1),
        h.make_node("Unsqueeze", ["sizes", "second"], ["sizes_of_boxes"]),
        h.make_node("Mul", ["parts", "sizes_of_boxes"], ["boxes"]),
        h.make_node("Concat", ["labels_and_scores", "boxes"], ["rows"], axis=2),
        h.make_node("Reshape", ["rows", "flat"], ["reshape2_95.tmp_0"]),
    ]
    initializers += [
        constant("half", np.float32(0.5)),
        constant("across_down", np.array([1, 0, 1, 0])),
        constant("second", np.array([1])),
        constant("flat", np.array([-1, 6])),
    ]
    inputs = [value("im_shape", T.FLOAT, ["n", 2]), images("n", "image"), value("scale_factor", T.FLOAT, ["n", 2])]
    outputs = [value("reshape2_95.tmp_0", T.FLOAT, ["boxes", 6]), value("tile_3.tmp_0", T.INT32, ["n"])]
    session = model_of("rt_detr_paddle", nodes, inputs, outputs, initializers)
    settings = (
        "inputs image, im_shape [n, 2], [height, width] of the input, and scale_factor [n, 2], the pixels of the input per"
        " pixel of the original, down and across; reshape2_95.tmp_0 [boxes of all images, 6]: class from 0 on, score, corners"
        " in pixels of the original; tile_3.tmp_0 [n], how many are of each image; nothing is to be suppressed; not one row"
        " for each image"
    )
    original = [128, 96]
    scale = np.array([[SIDE / original[1], SIDE / original[0]]], np.float32)
    more = {"im_shape": np.full((1, 2), SIDE, np.float32), "scale_factor": scale}

    def decode(outputs):
        rows = outputs["reshape2_95.tmp_0"]
        assert len(rows) == outputs["tile_3.tmp_0"][0]
        return rows[:, 0], rows[:, 1], rows[:, 2:]

    expect("rt_detr_paddle", session, decode, settings, original, "stretch", True, more, in_original=True)


def ssd():
    """onnx/models, validated/vision/object_detection_segmentation/ssd: of one image."""
    labels, scores, boxes = chosen(np.random.default_rng(30), least=0.05)
    answers = {"bboxes": boxes / SIDE, "labels": labels + 1, "scores": scores}
    dims = [["nbox", 4], ["nbox"], ["nbox"]]
    session = plain("ssd", answers, batch=1, dims=dims, dtypes=[T.FLOAT, T.INT64, T.FLOAT])
    settings = (
        "bboxes [1, boxes, 4], labels and scores [1, boxes]: corners in parts of the input's width and height, classes from 1"
        " on, 0 is the background; suppressed already"
    )
    decode = lambda outputs: (outputs["labels"][0] - 1, outputs["scores"][0], outputs["bboxes"][0] * SIDE)
    expect("ssd", session, decode, settings, [128, 96], "stretch", suppressed=True)


def ssd_tensorflow():
    """tensorflow/models, research/object_detection/exporter.py and exporter_lib_v2.py, through tf2onnx; their input is uint8
    and of any size, height before width before channels, as that of ssd_tensorflow_any_size."""
    for name, seed in [("ssd_tensorflow", 31), ("ssd_tensorflow_any_size", 32)]:
        labels, scores, boxes = chosen(np.random.default_rng(seed), least=0.05)
        boxes, there = np.clip(boxes, 0, SIDE), len(boxes) - 3
        # Boxes that are not there are zeros, and 1 is added to all classes.
        answers = {
            "detection_boxes": np.zeros((CHOSEN, 4)),
            "detection_classes": np.ones(CHOSEN),
            "detection_scores": np.zeros(CHOSEN),
            "num_detections": np.array(there),
        }
        answers["detection_boxes"][:there] = boxes[:there, [1, 0, 3, 2]] / SIDE
        answers["detection_classes"][:there] += labels[:there]
        answers["detection_scores"][:there] = scores[:there]
        any_size = name == "ssd_tensorflow_any_size"
        image = value("inputs", T.UINT8, ["n", "height", "width", 3]) if any_size else images("n")
        dims = [["boxes", 4], ["boxes"], ["boxes"], []] if any_size else None
        session = plain(name, answers, batch="n", dims=dims, image=image)
        settings = (
            "detection_boxes [n, boxes, 4], detection_classes and detection_scores [n, boxes], num_detections [n], all floats:"
            " top, left, bottom, right in parts of the input's height and width; classes from 1 on, 0 is the background;"
            " suppressed already; zeros of class 1 behind the first num_detections"
        )
        if any_size:
            settings += "; the input is uint8 [n, height, width, 3] and says no size"

        def decode(outputs):
            count = int(outputs["num_detections"][0])
            down_first = outputs["detection_boxes"][0, :count] * SIDE
            boxes = down_first[:, [1, 0, 3, 2]]
            return outputs["detection_classes"][0, :count] - 1, outputs["detection_scores"][0, :count], boxes

        expect(name, session, decode, settings, [128, 96], "stretch", suppressed=True)


def torchvision():
    """pytorch/vision, torchvision/models/detection, exported with names for what forward returns for one image: nothing has
    a dimension for images. An input has none either if the model was exported with a list of one image, as is that of
    onnx/models, validated/vision/object_detection_segmentation/faster-rcnn."""
    settings = (
        "boxes [boxes, 4], labels and scores [boxes], of one image: corners in pixels of the input, classes from 1 on, 0 is the"
        " background; suppressed already"
    )
    decode = lambda outputs: (outputs["labels"] - 1, outputs["scores"], outputs["boxes"])
    for name, seed, dims in [
        ("torchvision", 40, [1, 3, SIDE, SIDE]),
        ("torchvision_nothing", 41, [1, 3, SIDE, SIDE]),
        ("torchvision_list", 42, [3, SIDE, SIDE]),
    ]:
        labels, scores, boxes = chosen(np.random.default_rng(seed), least=0.05)
        boxes, there = np.clip(boxes, 0, SIDE), 0 if name == "torchvision_nothing" else len(boxes)
        answers = {
            "boxes": (boxes[:there], T.FLOAT, ["boxes", 4]),
            "labels": (labels[:there] + 1, T.INT64, ["boxes"]),
            "scores": (scores[:there], T.FLOAT, ["boxes"]),
        }
        nodes = [
            h.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            h.make_node("Mul", ["mean", "zero"], ["mean_zeros"]),
        ]
        initializers = [constant("zero", np.float32(0))]
        for output, (array, dtype, _) in answers.items():
            initializers.append(constant(f"{output}_values", array.astype(np.float32)))
            nodes += [
                h.make_node("Add", [f"{output}_values", "mean_zeros"], [f"{output}_floats"]),
                h.make_node("Cast", [f"{output}_floats"], [f"{output}_sized"], to=dtype),
            ]
            more = unsized("mean_zeros", f"{output}_sized", output, there, 0)
            nodes, initializers = nodes + more[0], initializers + more[1]
        outputs = [value(output, dtype, shape) for output, (_, dtype, shape) in answers.items()]
        session = model_of(name, nodes, [value("images", T.FLOAT, dims)], outputs, initializers)
        more = {
            "torchvision_nothing": "; there are none",
            "torchvision_list": "; the input [3, height, width] has no dimension for images either",
        }
        expect(name, session, decode, settings + more.get(name, ""), [128, 96], "stretch", suppressed=True)


def main():
    OUT.mkdir(exist_ok=True)
    for family in [
        yolov5, yolov7, yolov7_one_class, yolov7_end2end, yolov7_efficient_nms, yolox, yolov8, yolov8_nms, yolov10, rt_detr,
        rt_detr_ultralytics, rt_detr_paddle, ssd, ssd_tensorflow, torchvision,
    ]:
        family()
    lines = (f"{json.dumps(name)}:{json.dumps(part, separators=(',', ':'))}" for name, part in golden.items())
    (OUT / "detectors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {len(golden)} detectors to {OUT}")


if __name__ == "__main__":
    main()
