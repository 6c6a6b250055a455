#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, fuzz/seeds/<target>/*: small inputs that reach far, for the fuzzer to begin with.

Run by hand with the environment of models/requirements.txt and Pillow; the products are committed:

    .venv/bin/python fuzz/make_seeds.py

The target `external_data` begins with tests/data/external, too. Written with Pillow 12.
"""

import base64
import io
import json
import shutil
import struct
import zlib
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "seeds"


def write(target, name, content):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


# ----- images: a file each of what the formats can be -----


def picture(mode, size=(9, 7)):
    image = Image.new("RGB", size)
    image.putdata([(x * 28, y * 36, (x * y) % 256) for y in range(size[1]) for x in range(size[0])])
    return image.convert(mode)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def turned(image, orientation):
    exif = image.getexif()
    exif[0x0112] = orientation
    return exif.tobytes()


def images():
    rgb = picture("RGB")
    yield "rgb.png", encoded(rgb, "PNG")
    for mode in ["RGBA", "L", "LA", "P", "1", "I;16"]:
        image = picture("L").convert("I;16") if mode == "I;16" else picture(mode)
        yield f"{mode.lower().replace(';', '')}.png", encoded(image, "PNG")
    plain = encoded(rgb, "PNG")
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(4_000)))
    text = chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(4_000)))
    yield "chunks.png", plain[:33] + profile + text + chunk(b"tEXt", b"a\0b") + plain[33:]
    yield "turned.png", encoded(rgb, "PNG", exif=turned(rgb, 6))
    # Adam7, 2 by 2 pixels, which Pillow does not write.
    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 1)
    rows = b"\0\1\2\3" + b"\0\4\5\6" + b"\0\7\10\11\12\13\14"
    yield "interlaced.png", plain[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    frames = [picture("RGB"), picture("RGB").transpose(Image.Transpose.ROTATE_180)]
    yield "animated.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "rgb.jpg", encoded(rgb, "JPEG", quality=50)
    yield "gray.jpg", encoded(picture("L"), "JPEG")
    yield "cmyk.jpg", encoded(picture("CMYK"), "JPEG")
    yield "progressive.jpg", encoded(picture("RGB", (17, 18)), "JPEG", progressive=True, subsampling=2)
    yield "restarts.jpg", encoded(picture("RGB", (33, 18)), "JPEG", restart_marker_blocks=1)
    yield "turned.jpg", encoded(rgb, "JPEG", exif=turned(rgb, 8), comment=b"a comment")
    yield "lossy.webp", encoded(rgb, "WEBP", quality=40)
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "alpha.webp", encoded(picture("RGBA"), "WEBP")
    yield "turned.webp", encoded(rgb, "WEBP", exif=turned(rgb, 3), icc_profile=bytes(200))
    yield "animated.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "other.gif", encoded(picture("P"), "GIF")


# ----- JSON -----


def instances(*rows):
    return json.dumps({"instances": list(rows)})


def bodies():
    yield "numbers", instances([5.1, 3.5, 1.4, 0.2], [1, -0.0, 1e-40, 3.4028235e38])
    yield "wrong_length", instances([1, 2, 3])
    yield "nested", instances([[1, 2], [9223372036854775807, -3]], [[3.0, 1e3], [-0, 0]])
    yield "texts", instances("a text", "ä𝄞\\u0000\n\"")
    yield "escapes", r'{"instances": ["\u00e4\ud834\udd1e\n\/", "\ud834", "\u0000"]}'
    yield "named", instances(
        {"half": [0.5, 1], "double": 1.7976931348623157e308, "whole": [1, 2, 3], "byte": [255], "text": [["a", "b"]], "flag": True}
    )
    yield "by_column", json.dumps({"instances": {"age": [1, 2], "large": [3, 4]}})
    yield "row", instances({"age": 35, "amount": 12.5, "country": "NL", "plan": 2, "member": True})
    yield "row_missing", instances({"age": None, "amount": 1e9, "country": "??", "plan": "pro", "member": "true"})
    yield "own_inputs", instances({"age": 9007199254740993, "large": 18446744073709551615, "name": "x", "score": 1.5, "member": 1, "other": {}})
    image = base64.b64encode(encoded(picture("RGB", (3, 2)), "PNG")).decode()
    yield "image", instances({"b64": image})
    yield "image_url", instances({"b64": "data:image/png;base64," + image.replace("+", "-").replace("/", "_") + "\n"})
    yield "deep", '{"instances": ' + "[" * 200 + "]" * 200 + "}"
    yield "twice", '{"instances": [[1, 2, 3, 4]], "instances": []}'


def envelopes():
    yield "plain", instances([1, 2])
    yield "empty", "{}"
    yield "twice", '{"instances": [1], "\\u0069nstances": [2]}'
    yield "unknown", '{"parameters": {"top": 3}, "instances": [1]}'
    yield "array", "[[1, 2]]"
    yield "not_finite", '{"instances": [[NaN, -Infinity]]}'
    yield "byte_order_mark", b"\xef\xbb\xbf" + instances([1]).encode()
    yield "utf16", instances([1]).encode("utf-16")
    yield "large_number", '{"instances": [1e999, -1e-999]}'
    yield "spaces", ' \n{ "instances"\t:\r\n[ ] } \n'
    yield "not_utf8", b'{"instances": ["\xff\xc0\x80"]}'


def feedback():
    # An id as a server signs them, with a key that nobody has.
    id = "EQGaZK7sn3SPi0oqAAAAAAAAAAEAAAAB" + "A" * 40
    items = [
        {"prediction_id": id, "label": "setosa"},
        {"prediction_id": id, "label": 7, "metrics": {"revenue": 12.5, "bought": True}},
        {"prediction_id": id, "label": 7.0},
        {"prediction_id": id, "label": True},
        {"prediction_id": id, "label": 18446744073709551615},
        {"prediction_id": id, "value": -1.5e300},
        {"prediction_id": id},
    ]
    yield "items", json.dumps({"feedback": items})
    yield "both", json.dumps({"feedback": [{"prediction_id": id, "label": "7", "value": 1, "metrics": {}}]})
    yield "long", json.dumps({"feedback": [{"prediction_id": "x" * 1_100, "label": "y" * 1_100}]})
    yield "array", json.dumps({"feedback": [{"prediction_id": id, "label": [3]}]})
    yield "many_metrics", json.dumps({"feedback": [{"prediction_id": id, "metrics": {f"m{i}": i for i in range(33)}}]})
    yield "twice", '{"feedback": [{"prediction_id": "a", "label": 1, "label": 2}]}'
    yield "null", '{"feedback": [{"prediction_id": "a", "label": null, "value": null}]}'
    yield "empty", '{"feedback": []}'


# ----- manifests -----


def manifests():
    for path in ["models/digits/1", "models/penguins/2", "tests/data/text/sentences/1"]:
        yield path.replace("/", "_"), (ROOT / path / "version.toml").read_text()
    digest = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"
    everything = f"""format = 1
description = \"\"\"
several
lines\"\"\"
framework = 'scikit-learn 1.8'
trained_at = "2026-11-24"
dataset = "d\\u00e4ta"
added_at = "2026-11-24T09:30:00.5+02:00"

[metrics]
accuracy = 0.97
"top 5" = 1e-3
count = 0x10

[tags]
team = "a"

[files]
"model.onnx" = "{digest}"
"vocab/tokenizer.json" = "{digest.upper()}"
"""
    yield "everything", everything
    yield "inline", f'format = 1\nfiles = {{ "model.onnx" = "{digest}", "a/b/c" = "{digest}" }}\n'
    yield "dotted", f'format = 1\nmetrics.a = inf\ntags.b.c = "x"\nfiles."../model.onnx" = "{digest}"\n'
    yield "arrays", "format = [1, [2, 3]]\n[[files]]\na = 1979-05-27T07:32:00Z\n"


def external_data():
    # A number of models without such data; tests/data/external has those with.
    for path in [
        "models/two_inputs.onnx",
        "models/dense_deep.onnx",
        "models/plus_5_external.onnx",
        "rows/top_k.onnx",
        "zipmap/logistic_texts.onnx",
        "classes/logistic_zipmap_and_tensor.onnx",
    ]:
        yield path.replace("/", "_"), (ROOT / "tests/data" / path).read_bytes()


# ----- sound: recordings of the tests, and headers that they do not have -----


def sounds():
    for name in ["mono8.wav", "extensible24.wav", "stereo_float.wav", "mono8.flac", "mono24.flac"]:
        yield name, (ROOT / "tests/data/audio" / name).read_bytes()
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 16_000, 64_000, 4, 16)
    data = struct.pack("<8h", *range(-4, 4))
    unknown = 0xFFFFFFFF
    yield "streamed.wav", b"RIFF" + struct.pack("<I", unknown) + b"WAVE" + header + b"data" + struct.pack("<I", unknown) + data
    yield "chunks.wav", b"RIFF\x99\0\0\0WAVELIST\x03\0\0\0abc\0" + header + b"data\x10\0\0\0" + data
    yield "floats.pcm", struct.pack("<6f", 0.0, -1.0, 0.5, 1e-9, 2.0, -0.25)


# ----- tensors by name -----


def inference(body, raw=None):
    """The length of the JSON text, or 65535 if the whole body is JSON, and the body."""
    text = json.dumps(body).encode()
    return struct.pack("<H", 0xFFFF if raw is None else len(text)) + text + (raw or b"")


def tensor(name, shape, datatype, **rest):
    return {"name": name, "shape": shape, "datatype": datatype, **rest}


def v2():
    nested = tensor("x", [2, 2], "FP32", data=[[1, 2.5], [-3e-2, 4]])
    yield "json", inference({"id": "7", "inputs": [nested], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]})
    names = {"d": "FP64", "h": "FP16", "b": "BF16", "u": "UINT8", "f": "BOOL"}
    data = {"f": [True], "u": [255]}
    flat = [tensor(name, [1, 1] if name == "d" else [1], kind, data=data.get(name, [0.5])) for name, kind in names.items()]
    yield "types", inference({"inputs": flat, "parameters": {"timeout": 5, "priority": 1, "content": "model"}})
    sizes = [("x", [1, 2], "FP32", 8), ("i", [2, 1], "INT64", 16), ("t", [1, 1], "BYTES", 6), ("k", [], "INT32", 4)]
    binary = [tensor(name, shape, kind, parameters={"binary_data_size": size}) for name, shape, kind, size in sizes]
    raw = struct.pack("<2f2qI2si", 1.0, 2.0, 3, 4, 2, b"ab", -1)
    yield "binary", inference({"inputs": binary, "parameters": {"binary_data_output": True}}, raw)
    files = tensor("image", [2], "BYTES", parameters={"binary_data_size": 10})
    yield "files", inference({"inputs": [files]}, struct.pack("<I3sI", 3, b"GIF", 0)[:11].ljust(10, b"\0"))
    yield "files.json", inference({"inputs": [tensor("image", [1, 1], "BYTES", data=["R0lG"])]})


def field(number, wire_type, content):
    head = varint(number << 3 | wire_type)
    return head + (varint(len(content)) + content if wire_type == 2 else content)


def varint(value):
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])


def grpc():
    def named(name, datatype, shape, contents=b""):
        text = field(1, 2, name) + field(2, 2, datatype) + field(3, 2, b"".join(map(varint, shape)))
        return field(5, 2, text + (field(5, 2, contents) if contents else b""))

    model = field(1, 2, b"m") + field(3, 2, b"id")
    timeout = field(4, 2, field(1, 2, b"timeout") + field(2, 2, field(2, 0, varint(5))))
    yield "raw", model + named(b"x", b"FP32", [1, 2]) + field(6, 2, field(1, 2, b"y")) + field(7, 2, struct.pack("<2f", 1, 2))
    yield "floats", model + timeout + named(b"x", b"FP32", [1, 2], field(6, 2, struct.pack("<2f", 1, 2)))
    yield "integers", model + named(b"i", b"INT64", [1, 1], field(3, 2, varint(300)))
    yield "texts", model + named(b"t", b"BYTES", [1, 2], field(8, 2, b"a") + field(8, 2, "ü".encode()))
    yield "booleans", model + named(b"f", b"BOOL", [2], field(1, 2, b"\0\1"))


def base64_texts():
    for name, text in {
        "standard": "+/+/ABA=", "url": "-_-_ABA", "lines": "+/+/\r\nABA=\r\n", "data": "data:image/png;base64,+/+/\nABA=",
    }.items():
        yield name, text


def csv():
    yield "header", "a,b\n1.5,x\n,\"y, \"\"z\"\"\"\n"
    yield "rows", "1,2,3\r\n4,5,6\r\n"
    yield "mark", "\ufeffb,a\n\"line\n\",2"
    yield "ragged", "1,2\n3\n"


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    of_target = {
        "body": bodies(),
        "envelope": envelopes(),
        "feedback": feedback(),
        "manifest": manifests(),
        "image": images(),
        "audio": sounds(),
        "external_data": external_data(),
        "v2": v2(),
        "grpc": grpc(),
        "base64": base64_texts(),
        "csv": csv(),
    }
    for target, seeds in of_target.items():
        for name, content in seeds:
            write(target, name, content)


if __name__ == "__main__":
    main()
