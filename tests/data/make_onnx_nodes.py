#!/usr/bin/env python3
"""Copies some of the node tests of the `onnx` package into tests/data/onnx_nodes: the model of each, and in onnx_nodes.json its
inputs and the outputs of ONNX's reference implementation, as JSON (NaN and infinity as texts).

They are one or two of each kind of signature and element type; scripts/test_onnx_suites.py asks all cases. ONNX Runtime is asked
here only to prove that it runs each of them, equal to the reference.

Run by hand with the environment of models/requirements.txt; the products are committed:

    .venv/bin/python tests/data/make_onnx_nodes.py

Written with numpy 2.3.5, onnx 1.20.1, onnxruntime 1.31.1.
"""

import json
import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

from onnx_cases import cases, in_onnxruntime, to_json  # noqa: E402

OUT = Path(__file__).resolve().parent / "onnx_nodes"
MAX_BYTES = 4096
NODES = {
    "inputs or outputs without dimensions": [
        "cumsum_1d", "range_float_type_positive_delta", "onehot_with_axis", "einsum_scalar", "det_2d", "size_example", "matmul_1d_1d",
        "dynamicquantizelinear", "string_concat_zero_dimensional", "pow_bcast_scalar",
    ],
    "inputs with other first dimensions than the outputs": [
        "gather_2d_indices", "scatter_elements_without_axis", "tile_precomputed", "concat_2d_axis_0", "einsum_sum",
        "reduce_sum_default_axes_keepdims_example", "split_1d_uneven_split_opset18", "qlinearmatmul_2D_uint8_float32",
    ],
    "time first, and states": ["lstm_defaults", "reversesequence_time", "scan9_sum", "loop11"],
    "as many elements as the values say": [
        "nonzero_example", "unique_sorted_with_axis", "unique_not_sorted_without_axis", "compress_default_axis",
        "nonmaxsuppression_suppress_by_IOU", "reshape_negative_dim", "resize_upsample_sizes_nearest",
    ],
    "no elements": [
        "constantofshape_int_shape_zero", "reduce_sum_empty_set", "split_zero_size_splits_opset18", "castlike_FLOAT_to_FLOAT16",
        "reshape_allowzero_reordered", "string_split_empty_tensor", "regex_full_match_empty",
    ],
    "not finite": ["isnan", "isinf", "reduce_max_empty_set", "reduce_min_empty_set"],
    "strings": [
        "string_concat_utf8", "string_split_basic", "ai_onnx_ml_label_encoder_string_int", "equal_string",
        "tfidfvectorizer_tf_onlybigrams_levelempty",
    ],
    "other element types": [
        "not_2d", "where_example", "bitshift_left_uint8", "mod_mixed_sign_int64", "max_float16", "max_float64",
        "cast_FLOAT_to_BFLOAT16", "cast_BFLOAT16_to_FLOAT", "eyelike_with_dtype", "matmulinteger",
    ],
    "several outputs": ["top_k", "maxpool_with_argmax_2d_precomputed_pads"],
    "operators that do not run on zeros": ["div_uint8", "resize_downsample_scales_nearest"],
}


NOTICE = """The models in this folder, and the inputs and outputs in onnx_nodes.json, come from the node tests of ONNX, as they are in
the Python package onnx 1.20.1. Copyright (c) ONNX Project Contributors, SPDX-License-Identifier: Apache-2.0. The text of the
licence is in LICENSE-APACHE, in the root of this checkout.
"""


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    known = {case.name.removeprefix("test_"): case for case in cases("node")}
    golden = {}
    for kind, names in NODES.items():
        for name in names:
            case = known[name]
            in_onnxruntime(case)
            assert not case.problem and case.equals_reference and case.is_of_tensors, (name, case.problem)
            (data,) = case.sets
            golden[name] = {
                "kind": kind,
                "instance": {key: to_json(value) for key, value in data.inputs.items()},
                "outputs": {key: to_json(value) for key, value in data.reference.items()},
            }
            assert case.model.stat().st_size + len(json.dumps(golden[name])) <= MAX_BYTES, name
            shutil.copyfile(case.model, OUT / f"{name}.onnx")
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in golden.items())
    (OUT / "onnx_nodes.json").write_text(f"{{\n{lines}\n}}\n")
    (OUT / "NOTICE").write_text(NOTICE)
    print(f"wrote {len(golden)} models to {OUT}")


if __name__ == "__main__":
    main()
