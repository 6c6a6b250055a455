#!/usr/bin/env python3
"""PP-OCR's reader of lines of text, served by Leeway and compared with the one of the package rapidocr.

    pip install rapidocr==3.10.0 opencv-python-headless onnxruntime scikit-image
    LEEWAY=target/release/leeway python examples/real_models/pp_ocr_rec.py

scikit-image is only needed for one of its pictures. The probabilities of all characters at all positions are compared, and
the texts that the package makes of them.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rapidocr import RapidOCR
from rapidocr.ch_ppocr_rec.typings import TextRecInput

from server import Comparison, Server, encoded
from text_pictures import file, lines

MODEL = Path(find_spec("rapidocr").origin).parent / "models" / "PP-OCRv6_rec_small.onnx"
TOLERANCE = 1e-4


def main():
    comparison = Comparison(TOLERANCE)
    library = RapidOCR()._load_rec_model()
    with Server("pp_ocr_rec", onnx=MODEL) as server:
        for name, picture in lines():
            height, width = picture.shape[:2]
            ratio = max(320 / 48, width * 1.0 / height)
            theirs = library.session(library.resize_norm_img(picture, ratio)[None])
            [answer] = server.predict([encoded(file(picture))])
            ours = np.array(answer, np.float32)[None]
            comparison.equal(f"{name}: size", ours.shape, theirs.shape)
            if ours.shape == theirs.shape:
                comparison.difference(f"{name}: probabilities", np.abs(ours - theirs).max())
                [(text, score)], _ = library.postprocess_op(ours, False)
                read = library(TextRecInput(img=picture))
                comparison.equal(f"{name}: text", text, read.txts[0])
                comparison.difference(f"{name}: score of the text", abs(score - read.scores[0]))
    comparison.finish()


if __name__ == "__main__":
    main()
