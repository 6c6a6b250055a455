"""Handwritten digits behind BentoML: `bentoml serve bentoml_digits:Digits`, MODEL in the environment. Two worker processes."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=2)
class Digits:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.name = self.session.get_inputs()[0].name

    @bentoml.api
    def predict(self, instances: list[list[float]]) -> dict:
        outputs = self.session.run(None, {self.name: np.array(instances, dtype=np.float32)})
        return {"predictions": outputs[-1].tolist()}
