"""Handwritten digits behind FastAPI and ONNX Runtime: `uvicorn --workers 2 fastapi_digits:app`, MODEL in the environment.

The handler is `async`, which for runs of microseconds is faster than FastAPI's thread pool. One thread for each process.
"""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
app = FastAPI()


class Request(BaseModel):
    instances: list[list[float]]


@app.post("/predict")
async def predict(request: Request):
    outputs = session.run(None, {name: np.array(request.instances, dtype=np.float32)})
    return {"predictions": outputs[-1].tolist()}
