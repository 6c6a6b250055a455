#!/usr/bin/env python3
"""Writes small segmentation models into tests/data/masks, and the masks that a reference makes of their outputs (masks.json).

The models answer made-up scores that depend on the brightness of the image, so that the rows of a batch differ. An image
has one colour, so resizing it changes nothing, and its place in the model's input is the only question.

The reference takes the part of the output that shows the image, resizes it to the image's size with ONNX Runtime's Resize
(linear, half_pixel, not antialiased: torch.nn.functional.interpolate with align_corners=False), which is compared with
Pillow's for images that are larger than the output, and then takes the argmax, as torchvision's references, MMSegmentation
and transformers' post_process_semantic_segmentation do. Class numbers are resized by Pillow's NEAREST. Run lengths are checked
by pycocotools. Where the image is cropped, the reference is the formula of Resize, written out.

masks.json has for each case: the model; the image's width, height and value (0-255); model.toml's `resize` and [postprocess];
the mask's height and width; and the classes that occur, with run lengths, share and mean confidence.

Run by hand; the products are committed:

    pip install numpy==2.3.5 onnx==1.20.1 onnxruntime==1.31.1 pillow==13.0.0 pycocotools==2.0.11
    python tests/data/make_masks.py
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T
from onnx import helper as h
from PIL import Image
from pycocotools import mask as coco

OUT = Path(__file__).resolve().parent / "masks"
WIDTH, HEIGHT = 32, 24
LABELS = ["background", "cat", "dog", "sheep"]
VOID = 255


# ===== Models =====


def write(name, scores, nodes, output, metadata=None):
    """Writes a model: scores = A + B * mean(image), and then these nodes."""
    axes = h.make_tensor("axes", T.INT64, [3], [1, 2, 3])
    constants = [onnx.numpy_helper.from_array(np.asarray(array, np.float32), key) for key, array in zip("ab", scores)]
    graph = h.make_graph(
        [
            h.make_node("ReduceMean", ["images", "axes"], ["brightness"], keepdims=1),
            h.make_node("Mul", ["brightness", "b"], ["change"]),
            h.make_node("Add", ["change", "a"], ["scores"]),
            *nodes,
        ],
        name,
        [h.make_tensor_value_info("images", T.FLOAT, ["batch", 3, HEIGHT, WIDTH])],
        [h.make_tensor_value_info(*output)],
        [axes, *constants],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9, producer_name="leeway-tests")
    for key, text in (metadata or {}).items():
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, OUT / f"{name}.onnx")


def write_models(rng):
    def scores(channels):
        return [rng.normal(0, 2, (1, channels, HEIGHT // 2, WIDTH // 2)) for _ in range(2)]

    identity = [h.make_node("Identity", ["scores"], ["out"])]
    shape = ["batch", 4, HEIGHT // 2, WIDTH // 2]
    write("logits", scores(4), identity, ("out", T.FLOAT, shape))
    softmax = [h.make_node("Softmax", ["scores"], ["out"], axis=1)]
    write("probabilities", scores(4), softmax, ("out", T.FLOAT, shape))
    last = [h.make_node("Transpose", ["scores"], ["out"], perm=[0, 2, 3, 1])]
    write("channels_last", scores(4), last, ("out", T.FLOAT, ["batch", HEIGHT // 2, WIDTH // 2, 4]))
    sigmoid = [h.make_node("Sigmoid", ["scores"], ["out"])]
    write("one_probability", scores(1), sigmoid, ("out", T.FLOAT, ["batch", 1, HEIGHT // 2, WIDTH // 2]))
    argmax = [h.make_node("ArgMax", ["scores"], ["out"], axis=1, keepdims=0)]
    write("class_numbers", scores(4), argmax, ("out", T.INT64, ["batch", *shape[2:]]), {"names": json.dumps(LABELS)})


# ===== The reference =====


def resize(planes, height, width):
    """Resizes [channels, h, w] as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) does."""
    node = h.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel")
    sizes = h.make_tensor("sizes", T.INT64, [4], [1, len(planes), height, width])
    x, y = (h.make_tensor_value_info(name, T.FLOAT, [1, len(planes), None, None]) for name in "xy")
    graph = h.make_graph([node], "resize", [x], [y], [sizes])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    resized = session.run(None, {"x": planes[None].astype(np.float32)})[0][0]
    if height >= planes.shape[1] and width >= planes.shape[2]:
        pillow = [Image.fromarray(plane).resize((width, height), Image.BILINEAR) for plane in planes.astype(np.float32)]
        assert np.abs(np.stack(pillow) - resized).max() < 1e-4
    return resized


def nearest(planes, height, width):
    numbers = Image.fromarray(planes[0].astype(np.uint8)).resize((width, height), Image.NEAREST)
    return np.asarray(numbers)[None]


def cropped(planes, case, cut, scale):
    """Resize, written out, for an image of which the model sees only the middle. NaN where it sees nothing."""
    height, width = case["image"][1], case["image"][0]
    ratio = planes.shape[1] / HEIGHT

    def positions(length, cut, scale, most):
        middle = (np.arange(length) + 0.5) * scale - cut
        return np.where((middle >= 0) & (middle < most), np.clip(middle * ratio - 0.5, 0, most * ratio - 1), np.nan)

    ys, xs = positions(height, cut[1], scale[1], HEIGHT), positions(width, cut[0], scale[0], WIDTH)
    result = np.full((len(planes), height, width), np.nan)
    for y, x in np.argwhere(~np.isnan(ys)[:, None] & ~np.isnan(xs)[None]):
        top, left = int(ys[y]), int(xs[x])
        below, right = min(top + 1, planes.shape[1] - 1), min(left + 1, planes.shape[2] - 1)
        down, across = ys[y] - top, xs[x] - left
        upper = planes[:, top, left] * (1 - across) + planes[:, top, right] * across
        lower = planes[:, below, left] * (1 - across) + planes[:, below, right] * across
        result[:, y, x] = upper * (1 - down) + lower * down
    return result


def placed(case):
    """The model's input for an image, and the part that shows the image: left, top, right and bottom."""
    width, height = case["image"]
    image = np.full((3, HEIGHT, WIDTH), case["value"] / 255, np.float32)
    if case["resize"] != "fit":
        return image, [0, 0, WIDTH, HEIGHT]
    scale = min(WIDTH / width, HEIGHT / height)
    part = [round(width * scale), round(height * scale)]
    left, top = (WIDTH - part[0]) // 2, (HEIGHT - part[1]) // 2
    framed = np.zeros_like(image)
    framed[:, top : top + part[1], left : left + part[0]] = image[:, : part[1], : part[0]]
    return framed, [left, top, left + part[0], top + part[1]]


def planes_of(case):
    """The model's output in the size of the image, [channels, height, width]."""
    image, [left, top, right, bottom] = placed(case)
    session = onnxruntime.InferenceSession(OUT / f"{case['model']}.onnx")
    output = session.run(None, {"images": image[None]})[0][0]
    if case["model"] == "channels_last":
        output = output.transpose(2, 0, 1)
    planes = output if output.ndim == 3 else output[None]
    width, height = case["image"]
    if case["resize"] == "crop":
        # The shorter side becomes 32, and 32 x 24 are cut out of the middle.
        scaled = [WIDTH * width // min(width, height), WIDTH * height // min(width, height)]
        cut = [(scaled[0] - WIDTH) / 2, (scaled[1] - HEIGHT) / 2]
        assert all(length == int(length) for length in cut)
        return cropped(planes, case, cut, [scaled[0] / width, scaled[1] / height])
    stride = HEIGHT // planes.shape[1]
    assert all(edge % stride == 0 for edge in (left, top, right, bottom))
    part = planes[:, top // stride : bottom // stride, left // stride : right // stride]
    return (nearest if case["model"] == "class_numbers" else resize)(part, height, width)


def counts_of(mask):
    """COCO's uncompressed run lengths, down the columns, checked by pycocotools."""
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    size = list(mask.shape)
    packed = coco.frPyObjects({"size": size, "counts": counts}, *size)
    assert np.array_equal(coco.decode(packed), mask)
    assert packed["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts


def expected(case):
    planes = planes_of(case)
    seen = ~np.isnan(planes[0])
    confidence = None
    if case["model"] == "class_numbers":
        classes = planes[0].astype(int)
    else:
        if case["model"] == "one_probability":
            threshold = case.get("threshold", 0.5)
            assert np.abs(planes - threshold)[:, seen].min() > 1e-4, "too close to the threshold"
            probabilities = np.concatenate([1 - planes, planes])
            classes = (planes[0] >= threshold).astype(int)
        else:
            best = np.sort(planes, axis=0)
            assert (best[-1] - best[-2])[seen].min() > 1e-4, "too close to each other"
            parts = np.exp(planes - best[-1])
            is_probability = case["model"] == "probabilities"
            probabilities = planes if is_probability else parts / parts.sum(axis=0)
            classes = np.where(seen, np.nan_to_num(planes).argmax(axis=0), VOID)
        confidence = np.take_along_axis(probabilities, np.minimum(classes, len(probabilities) - 1)[None], axis=0)[0]
    found = []
    for number in sorted(set(classes.flatten().tolist()) - {VOID}):
        of_class = classes == number
        found.append(
            {
                "class": number,
                "label": case["labels"][number],
                "share": round(float(of_class.mean()), 6),
                **({} if confidence is None else {"confidence": round(float(confidence[of_class].mean()), 6)}),
                "counts": counts_of(of_class),
            }
        )
    return {**case, "size": list(classes.shape), "classes": found}


def case(model, image, resize, postprocess, value=150, labels=LABELS, **more):
    return {"model": model, "image": image, "value": value, "resize": resize, "postprocess": postprocess, "labels": labels, **more}


def main():
    OUT.mkdir(exist_ok=True)
    write_models(np.random.default_rng(20))
    named = f"labels = {json.dumps(LABELS)}"
    logits = f'scores = "logits"\n{named}'
    binary = 'scores = "probabilities"\nlabels = ["rest", "road"]'
    cases = {
        "stretched": case("logits", [50, 41], "stretch", logits),
        "dark": case("logits", [50, 41], "stretch", logits, value=20),
        "as large as the input": case("logits", [WIDTH, HEIGHT], "stretch", logits),
        "smaller than the output": case("logits", [7, 9], "stretch", logits),
        "framed above and below": case("logits", [80, 30], "fit", logits),
        "framed left and right": case("logits", [32, 48], "fit", logits),
        "cropped": case("logits", [40, 32], "crop", logits),
        "cropped and enlarged": case("logits", [25, 20], "crop", logits),
        "probabilities": case("probabilities", [61, 33], "stretch", f'scores = "probabilities"\n{named}'),
        "channels last": case("channels_last", [50, 41], "stretch", f'layout = "channels-last"\n{logits}'),
        "one probability": case("one_probability", [50, 41], "stretch", binary, labels=["rest", "road"]),
        "low threshold": case(
            "one_probability", [50, 41], "stretch", f"threshold = 0.2\n{binary}", labels=["rest", "road"], threshold=0.2
        ),
        "class numbers": case("class_numbers", [64, 48], "stretch", ""),
        "framed class numbers": case("class_numbers", [80, 30], "fit", ""),
    }
    golden = {name: expected(case) for name, case in cases.items()}
    # A line for each case, so that a change of one shows as such.
    lines = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in golden.items()]
    (OUT / "masks.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
