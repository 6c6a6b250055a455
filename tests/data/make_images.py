#!/usr/bin/env python3
"""Writes the photographs that the tests of `kind = "image"` read, and what Pillow makes of them.

The photographs are those that scikit-learn bundles (tests/data/images/README.md says whose they are). Run by hand; the
products are committed:

    pip install pillow==13.0.0 scikit-learn==1.7.2
    python tests/data/make_images.py
"""

import io
import json
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageOps

OUT = Path(__file__).resolve().parent / "images"
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def stretched(image, height, width, filter):
    return image.resize((width, height), FILTERS[filter])


def cropped(image, height, width, filter, shortest):
    """torchvision's Resize(shortest) and CenterCrop, on a Pillow image."""
    w, h = image.size
    size = (shortest, int(shortest * h / w)) if w <= h else (int(shortest * w / h), shortest)
    image = image.resize(size, FILTERS[filter])
    left, top = int(round((image.width - width) / 2.0)), int(round((image.height - height) / 2.0))
    return image.crop((left, top, left + width, top + height))


def padded(image, height, width, filter, fill):
    """ImageOps.contain, set in the middle."""
    scale = min(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), FILTERS[filter])
    frame = Image.new(image.mode, (width, height), (fill,) * len(image.getbands()))
    frame.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return frame


def main():
    OUT.mkdir(exist_ok=True)
    photos = files("sklearn.datasets.images")
    china = (photos / "china.jpg").read_bytes()
    flower = Image.open(io.BytesIO((photos / "flower.jpg").read_bytes()))
    (OUT / "china.jpg").write_bytes(china)
    # Smaller ones, in the other formats and in the other ways that photographs come.
    small = flower.resize((320, 214), Image.Resampling.LANCZOS)
    small.save(OUT / "flower.png")
    small.save(OUT / "flower.webp", lossless=True)
    small.convert("L").save(OUT / "flower_gray.jpg", quality=95)
    turned = small.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(OUT / "flower_turned.jpg", quality=95, subsampling=0, exif=exif)

    cases = []

    def case(file, size, settings, made):
        name = f"expected_{len(cases)}.png"
        made.save(OUT / name)
        cases.append({"file": file, "settings": {"size": size, **settings}, "expected": name})

    for file in ["china.jpg", "flower.png", "flower.webp", "flower_turned.jpg"]:
        image = ImageOps.exif_transpose(Image.open(OUT / file)).convert("RGB")
        case(file, [96, 128], {}, stretched(image, 96, 128, "bilinear"))
        case(file, [96, 96], {"resize": "crop", "shortest": 110, "filter": "bicubic"}, cropped(image, 96, 96, "bicubic", 110))
    image = Image.open(OUT / "china.jpg")
    case("china.jpg", [100, 100], {"resize": "fit", "fill": 114, "filter": "lanczos"}, padded(image, 100, 100, "lanczos", 114))
    case("flower_gray.jpg", [64, 64], {"colour": "gray"}, stretched(Image.open(OUT / "flower_gray.jpg"), 64, 64, "bilinear"))
    case("flower.png", [64, 64], {"colour": "gray"}, stretched(Image.open(OUT / "flower.png").convert("L"), 64, 64, "bilinear"))
    large = stretched(Image.open(OUT / "flower.png").convert("L"), 240, 360, "bicubic")
    case("flower.png", [240, 360], {"colour": "gray", "filter": "bicubic"}, large)
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
