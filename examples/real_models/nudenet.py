#!/usr/bin/env python3
"""nudenet's detector, served by Leeway and compared with `NudeDetector.detect`.

    pip install nudenet==3.4.2 opencv-python-headless onnxruntime scikit-image
    LEEWAY=target/release/leeway python examples/real_models/nudenet.py

scikit-image is only needed for the photograph of an astronaut that it contains, which is compared in several sizes. The
package returns whole pixels, and moves boxes that begin outside the image; boxes are compared up to that.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = sys.path.pop(0)

import cv2  # noqa: E402
from nudenet import NudeDetector  # noqa: E402

sys.path.insert(0, HERE)
from server import Comparison, Server, encoded  # noqa: E402

PACKAGE = Path(find_spec("skimage").origin).parent
# Of scores.
TOLERANCE = 1e-4
# Of boxes: the package cuts off the fractions of the position and of the width.
PIXELS = 2.0


def pictures():
    """The astronaut's photograph: as it is, in other sizes, and parts of it in other shapes."""
    photograph = cv2.imread(str(PACKAGE / "data" / "astronaut.png"))
    yield "512 x 512", photograph
    for width, height in [(320, 320), (250, 250), (900, 900), (400, 640), (1280, 800), (333, 241)]:
        yield f"{width} x {height}", cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA)
    for left, top, width, height in [(100, 0, 300, 200), (60, 0, 301, 512), (150, 10, 170, 180)]:
        part = photograph[top : top + height, left : left + width]
        yield f"a part of {width} x {height}", cv2.copyMakeBorder(part, 0, 0, 0, 0, cv2.BORDER_CONSTANT)


def corners(left, top, width, height):
    """Left, top, right, bottom; without the sides that the package has moved."""
    return [left, top, left + width if left > 0 else None, top + height if top > 0 else None]


def main():
    comparison = Comparison(TOLERANCE)
    library = NudeDetector()
    with Server("nudenet", onnx=Path(find_spec("nudenet").origin).parent / "320n.onnx") as server:
        for name, picture in pictures():
            file = cv2.imencode(".png", picture)[1].tobytes()
            theirs = sorted(library.detect(file), key=lambda found: -found["score"])
            [answer] = server.predict([encoded(file)])
            ours = sorted(answer["detections"], key=lambda found: -found["score"])
            classes = [found["class"] for found in theirs]
            comparison.equal(f"{name}: classes", [found["label"] for found in ours], classes)
            if len(ours) != len(theirs):
                continue
            for our, their in zip(ours, theirs):
                comparison.difference(f"{name}: score of {their['class']}", abs(our["score"] - their["score"]))
                pairs = zip(our["box"], corners(*their["box"]))
                most = max(abs(our - their) for our, their in pairs if their is not None)
                comparison.note(f"{name}: box of {their['class']}", f"differs by {most:.2f} pixels", most <= PIXELS)
    comparison.finish()


if __name__ == "__main__":
    main()
