#!/usr/bin/env python3
"""Writes what other libraries make of small images, for the tests of `kind = "image"`: tests/data/images/tensors.json; and
a model that takes images of any size, any_size.onnx: the mean of the channels of every pixel.

OpenCV resizes, and numpy does what the packages nudenet and rapidocr do around it: their functions are copied here with
smaller sizes, so that the numbers stay few. Pillow makes what torchvision would. Run by hand; the product is committed:

    pip install numpy onnx==1.20.1 opencv-python-headless==5.0.0.93 pillow==13.0.0
    python tests/data/make_image_tensors.py
"""

import base64
import io
import json
import math
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

OUT = Path(__file__).resolve().parent / "images"


def picture(width, height):
    """A picture with gradients, sharp edges and noise, in the order red, green, blue."""
    random = np.random.default_rng(width * 1000 + height)
    down, across = np.mgrid[0:height, 0:width]
    picture = np.stack([across * 255 / width, down * 255 / height, (across + down) * 40 % 256], axis=-1)
    picture[height // 4 : height // 2, width // 5 : width // 2] = [250, 10, 90]
    return np.clip(picture + random.integers(-20, 21, picture.shape), 0, 255).astype(np.uint8)


def nudenet(image, size):
    """nudenet 3.4.2, `_read_image`, without its exchange of colours: padded to a square, then resized."""
    longest = max(image.shape[:2])
    padded = cv2.copyMakeBorder(
        image, 0, longest - image.shape[0], 0, longest - image.shape[1], cv2.BORDER_CONSTANT
    )
    return cv2.dnn.blobFromImage(padded, 1.0, (size, size), (0, 0, 0), swapRB=False, crop=False)[0].astype(np.uint8)


def text_line(image, shape, widest_ratio):
    """rapidocr 3.10.0, `TextRecognizer.resize_norm_img`; `TextClassifier` has the same with a fixed width."""
    channels, height, width = shape
    width = int(height * widest_ratio)
    ratio = image.shape[1] / float(image.shape[0])
    resized_width = width if math.ceil(height * ratio) > width else int(math.ceil(height * ratio))
    resized = cv2.resize(image, (resized_width, height)).astype("float32").transpose((2, 0, 1)) / 255
    resized -= 0.5
    resized /= 0.5
    padded = np.zeros((channels, height, width), dtype=np.float32)
    padded[:, :, 0:resized_width] = resized
    return padded


def recognised(image, shape):
    height, width = shape[1:]
    return text_line(image, shape, max(width / height, image.shape[1] * 1.0 / image.shape[0]))


def text_sides(image, limit, limit_type, multiple):
    """rapidocr 3.10.0, `DetPreProcess.resize`, with a multiple other than 32."""
    height, width = image.shape[:2]
    ratio = 1.0
    if limit_type == "max" and max(height, width) > limit:
        ratio = float(limit) / max(height, width)
    if limit_type == "min" and min(height, width) < limit:
        ratio = float(limit) / min(height, width)
    height, width = int(height * ratio), int(width * ratio)
    height, width = int(round(height / multiple) * multiple), int(round(width / multiple) * multiple)
    return cv2.resize(image, (width, height)).transpose((2, 0, 1))


def planes(image):
    return np.asarray(image).transpose((2, 0, 1))


def model_of_any_size():
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, "height", "width"])
    planes = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "height", "width"])
    channels = helper.make_tensor("channels", TensorProto.INT64, [1], [1])
    mean = helper.make_node("ReduceMean", ["x", "channels"], ["y"], keepdims=0)
    graph = helper.make_graph([mean], "mean of channels", [images], [planes], [channels])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def main():
    onnx.save(model_of_any_size(), OUT / "any_size.onnx")
    images, cases = {}, []

    def case(width, height, made_by, settings, made):
        name = f"{width} x {height}"
        file = io.BytesIO()
        Image.fromarray(picture(width, height)).save(file, "PNG", optimize=True)
        images[name] = base64.b64encode(file.getvalue()).decode()
        if made.dtype == np.uint8:
            settings = {"scale": 1, **settings}
            values = made.flatten().tolist()
        else:
            values = [round(float(value), 6) for value in made.flatten()]
        cases.append(
            {"image": name, "made_by": made_by, "settings": settings, "shape": list(made.shape), "values": values}
        )

    for width, height, sizes in [
        (23, 17, [(8, 10), (29, 31), (25, 9), (17, 40)]),
        (24, 16, [(8, 12), (16, 12), (16, 24)]),
        (9, 31, [(12, 12)]),
        (1, 1, [(2, 3)]),
        (37, 5, [(6, 48)]),
    ]:
        for size in sizes:
            for name, interpolation in [("linear", cv2.INTER_LINEAR), ("nearest", cv2.INTER_NEAREST)]:
                made = cv2.resize(picture(width, height), size[::-1], interpolation=interpolation)
                case(width, height, f"cv2.resize, {name}", {"size": size, "filter": f"opencv-{name}"}, planes(made))

    for width, height in [(23, 17), (9, 31), (24, 24), (7, 5)]:
        settings = {"size": [14, 14], "resize": "pad", "anchor": "top-left", "filter": "opencv-linear"}
        case(width, height, "nudenet", settings, nudenet(picture(width, height), 14))

    line = {"resize": "fit", "anchor": "top-left", "fill_scaled": 0, "filter": "opencv-linear", "mean": 0.5, "deviation": 0.5}
    for width, height in [(23, 17), (61, 7), (9, 31), (37, 5)]:
        image = picture(width, height)
        size = {"height": 6, "min_width": 20, "max_width": 20}
        case(width, height, "rapidocr, cls", {"size": size, **line}, text_line(image, [3, 6, 20], 20 / 6))
        size = {"height": 6, "min_width": 20, "max_width": 300}
        case(width, height, "rapidocr, rec", {"size": size, **line}, recognised(image, [3, 6, 20]))

    for width, height in [(23, 17), (9, 31), (24, 24), (37, 5)]:
        image = picture(width, height)
        settings = {"size": {"min_side": 12, "max_side": 200, "multiple": 8}, "filter": "opencv-linear"}
        case(width, height, "rapidocr, det, min", settings, text_sides(image, 12, "min", 8))
        if min(width, height) > 5:
            settings = {"size": {"max_side": 20, "multiple": 4}, "filter": "opencv-linear"}
            case(width, height, "rapidocr, det, max", settings, text_sides(image, 20, "max", 4))

    image = Image.fromarray(picture(23, 17))
    bilinear = Image.Resampling.BILINEAR
    made = image.resize((16, 16), bilinear).crop((3, 3, 13, 13))
    settings = {"size": [10, 10], "resize": "crop", "stretch_to": [16, 16]}
    case(23, 17, "torchvision, Resize([16, 16]) and CenterCrop(10)", settings, planes(made))
    made = image.resize((int(12 * 23 / 17), 12), bilinear).crop((0, 0, 10, 8))
    settings = {"size": [8, 10], "resize": "crop", "shortest": 12, "anchor": "top-left"}
    case(23, 17, "Pillow, cropped from the corner", settings, planes(made))
    frame = Image.new("RGB", (14, 14), (114, 114, 114))
    frame.paste(image.resize((14, round(17 * 14 / 23)), bilinear), (0, 0))
    settings = {"size": [14, 14], "resize": "fit", "anchor": "top-left", "fill": 114}
    case(23, 17, "Pillow, in the corner of a frame", settings, planes(frame))
    square = Image.new("RGB", (23, 23), (7, 7, 7))
    square.paste(image, (0, 3))
    settings = {"size": [12, 12], "resize": "pad", "fill": 7}
    case(23, 17, "Pillow, padded to a square and resized", settings, planes(square.resize((12, 12), bilinear)))

    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (OUT / "tensors.json").write_text(f'{{"images":{json.dumps(images, indent=0)},\n"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
