"""From a module of PyTorch to an ONNX file, by the exporter of PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any, Iterator

from leeway.errors import ExportFailed
from leeway.exporting.pytorch.inputs import ROWS, Inputs
from leeway.exporting.pytorch.reference import Reference
from leeway.exporting.table import module

#: Opset of the file: that which PyTorch's exporter writes without a conversion.
_OPSET = 18
#: Bytes of weights above which they are kept in a file beside the model, because a file of ONNX has at most 2 GiB.
_MAX_BYTES_WITHIN = 1_900_000_000
#: What the exporter says of a dimension that the module does not leave open.
_FIXED = re.compile(r"inferred a static shape of (\d+) for dimension inputs\[(\d+)\]\.shape\[(\d+)\]")


def trace(reference: Reference, inputs: Inputs, outputs: list[str], path: Path) -> None:
    """Writes the ONNX file of a module that is in the mode of evaluation, traced with these rows."""
    torch, onnx = module("torch", "torch"), module("onnx", "torch")
    module("onnxscript", "torch")
    names = list(inputs.arrays)
    open_dimensions = tuple({0: ROWS, **inputs.dynamic.get(name, {})} for name in names)
    weights = [*reference.module.parameters(), *reference.module.buffers()]
    is_large = sum(tensor.numel() * tensor.element_size() for tensor in weights) > _MAX_BYTES_WITHIN
    flat = reference.flat(inputs).eval()
    try:
        with _quiet(torch):
            program = torch.onnx.export(
                flat,
                reference.tensors(inputs),
                input_names=names,
                output_names=outputs,
                dynamic_shapes=(open_dimensions,),
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
            program.save(str(path), external_data=is_large)
    except Exception as error:
        # The exporter raises errors of every kind.
        raise _refusal(error, inputs) from error
    written = onnx.load(str(path), load_external_data=False)
    _strip(written)
    _check_dimensions(written.graph, inputs)
    onnx.save(written, str(path))


@contextlib.contextmanager
def _quiet(torch: Any) -> Iterator[None]:
    """Keeps what the exporter prints from the terminal, and the attention of its fast path out of the trace."""
    disabled = logging.root.manager.disable
    mha = torch.backends.mha
    is_fast = mha.get_fastpath_enabled()
    logging.disable(logging.ERROR)
    # An operator of its own, which ONNX does not have.
    mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        mha.set_fastpath_enabled(is_fast)
        logging.disable(disabled)


def _refusal(error: BaseException, inputs: Inputs) -> ExportFailed:
    """Returns an error with the cause that the exporter found."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ExportFailed):
            return cause
        fixed = _FIXED.search(str(cause))
        if fixed is not None:
            length, place, axis = map(int, fixed.groups())
            return _fixed(list(inputs.arrays)[place], axis, length, inputs)
    reason = " ".join(str(causes[-1]).split())[:400]
    if "data-dependent" in reason:
        reason += " (a branch or a shape depends on values of the input; use torch.where, masks or torch.cond)"
    return ExportFailed(f"PyTorch's exporter cannot export this module: {type(causes[-1]).__name__}: {reason}")


def _fixed(name: str, axis: int, length: int, inputs: Inputs) -> ExportFailed:
    dimension = ROWS if axis == 0 else inputs.dynamic[name][axis]
    advice = (
        "compute on the whole batch instead of a loop over rows, and write x.shape[0] or -1 for the number of rows, neither "
        "len(x) nor a number"
        if axis == 0
        else "name this dimension also of the other inputs that have it; or leave it out of dynamic, if it is always the same"
    )
    return ExportFailed(
        f"the module works with {length} {dimension} only (dimension {axis} of {name}): its code loops over them, or has "
        f"their number as a constant; {advice}"
    )


def _strip(written: Any) -> None:
    """Removes the lines of source code that each node came from: they have paths of this machine, and nothing reads them."""
    _clear(written, *written.functions)
    for function in written.functions:
        _clear(*function.node)
    _strip_graph(written.graph)


def _strip_graph(graph: Any) -> None:
    _clear(graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            for branch in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _strip_graph(branch)


def _clear(*parts: Any) -> None:
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""


def _check_dimensions(graph: Any, inputs: Inputs) -> None:
    """Checks that the dimensions of the file are open where they have to be."""
    for entry in graph.input:
        shape = entry.type.tensor_type.shape.dim
        for axis in [0, *inputs.dynamic.get(entry.name, {})]:
            if shape[axis].HasField("dim_value"):
                raise _fixed(entry.name, axis, shape[axis].dim_value, inputs)
