"""Every element type and every rank, from tritonclient to Leeway and back, in JSON, raw bytes and gRPC: nothing changes.

`python round_trip.py REPOSITORY HTTP_ADDRESS [GRPC_ADDRESS]`. ONNX Runtime in Python runs the same models on the same inputs.
"""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import triton_to_np_dtype

from models import RANKS, TYPES

# One shape for each rank, and one without elements.
SHAPES = [[(), (3,), (2, 3), (2, 1, 3), (1, 2, 2, 2)], [(), (0,), (2, 0), (0, 1, 3), (1, 0, 2, 0)]]
SPECIAL_FLOATS = [0.0, -0.0, 1.5, -2.25, 3.0, 0.5]


def values(name, rng, is_finite):
    """Values of a type, with its limits, of which there are more than any shape here has elements."""
    if name == "BYTES":
        return np.array([b"", b"a", "ü€".encode(), b"\n", b'"', b"long" * 50, b" "] * 4, dtype=object)
    if name == "BOOL":
        return rng.integers(0, 2, 24).astype(bool)
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "BF16" else triton_to_np_dtype(name))
    if dtype.kind == "f" or name == "BF16":
        limits = ml_dtypes.finfo(dtype)
        special = [*SPECIAL_FLOATS, limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0.1]
        special += [] if is_finite else [np.nan, np.inf, -np.inf]
        return np.resize(np.array(special, dtype=dtype), 24)
    limits = np.iinfo(dtype)
    some = rng.integers(limits.min, limits.max, 20, dtype=dtype, endpoint=True)
    return np.concatenate([np.array([limits.min, limits.max, 0, 1], dtype=dtype), some])


def fill(shape, pool):
    count = int(np.prod(shape, dtype=int))
    return np.array(pool[:count], dtype=pool.dtype).reshape(shape)


def is_same(found, sent):
    if found.shape != sent.shape:
        return False
    if sent.dtype == object:
        # tritonclient reads texts as str from JSON, and as bytes from raw bytes.
        as_bytes = lambda text: text.encode() if isinstance(text, str) else bytes(text)
        return [as_bytes(a) for a in found.ravel()] == [as_bytes(a) for a in sent.ravel()]
    return found.dtype == sent.dtype and found.tobytes() == sent.tobytes()


def ask(module, client, model, name, tensors, form):
    inputs = []
    for key, tensor in tensors.items():
        item = module.InferInput(key, list(tensor.shape), name)
        if form == "grpc":
            item.set_data_from_numpy(tensor)
        else:
            item.set_data_from_numpy(tensor, binary_data=form == "binary")
        inputs.append(item)
    outputs = [key.replace("x", "y") for key in tensors]
    if form == "grpc":
        wanted = [module.InferRequestedOutput(key) for key in outputs]
    else:
        wanted = [module.InferRequestedOutput(key, binary_data=form == "binary") for key in outputs]
    result = client.infer(model, inputs, outputs=wanted)
    return {key: result.as_numpy(key.replace("x", "y")) for key in tensors}


def in_onnxruntime(repository, model, tensors):
    session = onnxruntime.InferenceSession(repository / model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    as_text = lambda tensor: np.array([bytes(a).decode() for a in tensor.ravel()], dtype=object).reshape(tensor.shape)
    feeds = {key: as_text(tensor) if tensor.dtype == object else tensor for key, tensor in tensors.items()}
    answers = session.run([key.replace("x", "y") for key in tensors], feeds)
    as_bytes = lambda answer: np.array([a.encode() for a in answer.ravel()], dtype=object).reshape(answer.shape)
    answers = [as_bytes(answer) if answer.dtype == object else np.asarray(answer) for answer in answers]
    return dict(zip(tensors, answers))


def main(repository, http_address, grpc_address=None):
    clients = [(tritonclient.http, tritonclient.http.InferenceServerClient(http_address), ["json", "binary"])]
    if grpc_address:
        clients.append((tritonclient.grpc, tritonclient.grpc.InferenceServerClient(grpc_address), ["grpc"]))
    rng = np.random.default_rng(20261126)
    compared, wrong = 0, []
    for name in TYPES:
        for module, client, forms in clients:
            for form in forms:
                # tritonclient sends and reads halves only as raw bytes.
                if form == "json" and name in ("FP16", "BF16"):
                    continue
                pool = values(name, rng, is_finite=form == "json")
                cases = [("whole", {f"x{rank}": fill(shapes[rank], pool) for rank in RANKS}) for shapes in SHAPES]
                cases += [("rows", {"x0": fill((rows, 2, 3), pool)}) for rows in (1, 4)]
                for kind, tensors in cases:
                    model = f"{kind}_{name}"
                    found = ask(module, client, model, name, tensors, form)
                    # ONNX Runtime in Python does not exchange bfloat16.
                    expected = tensors if name == "BF16" else in_onnxruntime(repository, model, tensors)
                    for key, tensor in tensors.items():
                        compared += 1
                        if not (is_same(found[key], tensor) and is_same(found[key], expected[key])):
                            wrong.append(f"{model} {key} {form}: sent {tensor!r}, got {found[key]!r}")
    for line in wrong:
        print(line)
    print(f"{compared} tensors compared, {len(wrong)} differ")
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
