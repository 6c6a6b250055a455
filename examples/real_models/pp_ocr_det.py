#!/usr/bin/env python3
"""PP-OCR's detector of text, served by Leeway and compared with the one of the package rapidocr.

    pip install rapidocr==3.10.0 opencv-python-headless onnxruntime scikit-image
    LEEWAY=target/release/leeway python examples/real_models/pp_ocr_det.py

scikit-image is only needed for three of its pictures. The probabilities of all pixels are compared, and the boxes that
the package makes of them.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rapidocr import RapidOCR

from server import Comparison, Server, encoded
from text_pictures import file, pages

MODEL = Path(find_spec("rapidocr").origin).parent / "models" / "PP-OCRv6_det_small.onnx"
TOLERANCE = 1e-4


def main():
    comparison = Comparison(TOLERANCE)
    library = RapidOCR()._load_det_model()
    with Server("pp_ocr_det", onnx=MODEL) as server:
        for name, picture in pages():
            prepared = library.get_preprocess()(picture)
            theirs = library.session(prepared)
            [answer] = server.predict([encoded(file(picture))])
            ours = np.array(answer, np.float32)[None]
            comparison.equal(f"{name}: size", ours.shape, theirs.shape)
            if ours.shape == theirs.shape:
                comparison.difference(f"{name}: probabilities", np.abs(ours - theirs).max())
                of_ours, _ = library.postprocess_op(ours, picture.shape[:2])
                of_theirs, _ = library.postprocess_op(theirs, picture.shape[:2])
                are_equal = np.array_equal(np.array(of_ours), np.array(of_theirs))
                comparison.note(f"{name}: boxes", f"{len(of_theirs)}, {'equal' if are_equal else 'not equal'}", are_equal)
    comparison.finish()


if __name__ == "__main__":
    main()
