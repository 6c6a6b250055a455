#!/usr/bin/env python3
"""PP-OCR's classifier of the direction of text, served by Leeway and compared with the one of the package rapidocr.

    pip install rapidocr==3.10.0 opencv-python-headless onnxruntime scikit-image
    LEEWAY=target/release/leeway python examples/real_models/pp_ocr_cls.py

scikit-image is only needed for one of its pictures.
"""

from importlib.util import find_spec
from pathlib import Path

from rapidocr import RapidOCR

from server import Comparison, Server, encoded
from text_pictures import file, lines

MODEL = Path(find_spec("rapidocr").origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
TOLERANCE = 1e-4


def main():
    comparison = Comparison(TOLERANCE)
    library = RapidOCR()._load_cls_model()
    names, pictures = zip(*lines())
    with Server("pp_ocr_cls", onnx=MODEL) as server:
        # All lines have one size for the model, so they can be sent together.
        answers = server.predict([encoded(file(picture)) for picture in pictures])
        for name, picture, answer in zip(names, pictures, answers):
            [(label, score)] = library([picture]).cls_res
            comparison.equal(f"{name}: label", answer["label"], label)
            comparison.difference(f"{name}: score", abs(answer["confidence"] - score))
    comparison.finish()


if __name__ == "__main__":
    main()
