"""A model of 500 trees behind FastAPI and LightGBM: `uvicorn --workers 2 fastapi_trees:app`, MODEL in the environment.

One thread for each process: for a row, more threads cost more than they save.
"""

import os

import lightgbm
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

booster = lightgbm.Booster(model_file=os.environ["MODEL"])
app = FastAPI()


class Request(BaseModel):
    instances: list[list[float]]


@app.post("/predict")
async def predict(request: Request):
    scores = booster.predict(np.array(request.instances, dtype=np.float32), num_threads=1)
    return {"predictions": scores.tolist()}
