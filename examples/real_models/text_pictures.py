"""Pictures of text for the comparisons of PP-OCR, drawn by OpenCV or from scikit-image."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

DATA = Path(find_spec("skimage").origin).parent / "data"


def lines():
    """Pictures of one line of text, by their names: short, long, high, narrow."""
    yield "word", line("Leeway", 1.0, 2)
    yield "sentence", line("A model server answers within its budget.", 1.0, 2)
    yield "paragraph", line("The queue orders requests by their deadlines, and refuses what cannot be in time.", 0.9, 2)
    yield "large", line("LARGE 42", 4.0, 9)
    yield "small", line("small print, 8 pixels high", 0.35, 1)
    yield "one letter", line("R", 1.5, 3)
    yield "upside down", cv2.rotate(line("upside down", 1.2, 2), cv2.ROTATE_180)
    yield "long, upside down", cv2.rotate(line("INVOICE 2026-117, due in thirty days", 1.1, 2), cv2.ROTATE_180)
    page = cv2.imread(str(DATA / "page.png"))
    yield "printed", page[18:40, 5:380]
    yield "half a line", page[18:40, 5:150]


def line(text, scale, thickness):
    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    picture = background(width + 12, height + below + 10)
    cv2.putText(picture, text, (6, height + 5), font, scale, (40, 20, 10), thickness, cv2.LINE_AA)
    return picture


def pages():
    """Pictures with text in several places, by their names: small and large, wide and high."""
    page = cv2.imread(str(DATA / "page.png"))
    yield "printed page of 384 x 191", page
    yield "printed page of 1000 x 1400", cv2.resize(page, (1000, 1400))
    yield "handwriting of 448 x 172", cv2.imread(str(DATA / "text.png"))
    yield "photograph of 512 x 512", cv2.imread(str(DATA / "astronaut.png"))
    for width, height in [(640, 480), (1280, 736), (800, 1000), (233, 611)]:
        picture = background(width, height)
        for number, top in enumerate(range(50, height - 20, 90)):
            scale = 0.6 + 0.2 * (number % 4)
            place = (15 + 35 * number % (width // 3), top)
            cv2.putText(picture, f"Line {number}: EUR {number * 37}.50", place, cv2.FONT_HERSHEY_DUPLEX, scale, (20, 20, 90), 1, cv2.LINE_AA)
        yield f"drawn page of {width} x {height}", picture


def background(width, height):
    """A picture that is nearly white, with the noise of a camera."""
    noise = np.random.default_rng(width * 10_000 + height).normal(238, 5, (height, width, 3))
    return noise.clip(0, 255).astype(np.uint8)


def file(picture):
    return cv2.imencode(".png", picture)[1].tobytes()
