"""A module of PyTorch: whether it can be exported, and what it answers."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from leeway.errors import ExportFailed
from leeway.exporting.pytorch.inputs import Inputs
from leeway.exporting.table import module


def checked(given: Any) -> Any:
    """Returns the module itself, without wrappers of training, if it is one that can be exported."""
    torch = module("torch", "torch")
    if isinstance(given, type):
        raise ExportFailed(f"{given.__name__} is a class; give a trained module of it")
    if not isinstance(given, torch.nn.Module):
        raise ExportFailed(f"{type(given).__name__} is not a torch.nn.Module; give the module that was trained")
    if isinstance(given, torch.jit.ScriptModule):
        raise ExportFailed(
            "the module is scripted (torch.jit), and the exporter takes modules in Python only; give the module that it was "
            "made of"
        )
    if hasattr(given, "_orig_mod"):
        # What torch.compile returns.
        return checked(given._orig_mod)
    if isinstance(given, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return checked(given.module)
    _check_weights(torch, given)
    return given


def _check_weights(torch: Any, checked: Any) -> None:
    for name, tensor in [*checked.named_parameters(), *checked.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ExportFailed(
                f"{name} is on the device {tensor.device}, and the comparison runs on the CPU; give module.cpu(), or a copy: "
                "copy.deepcopy(module).cpu()"
            )
    for name, parameter in checked.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32 or parameter.is_complex():
            raise ExportFailed(
                f"{name} is {_plain(parameter.dtype)}, and a version has weights of float32; give module.float(), or a copy: "
                "copy.deepcopy(module).float()"
            )


def _plain(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def evaluation(checked: Any) -> Iterator[None]:
    """Puts the module and its parts into the mode of evaluation, without gradients, while the block runs."""
    torch = module("torch", "torch")
    before = [(part, part.training) for part in checked.modules()]
    try:
        checked.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def named(output: Any) -> dict[str, Any]:
    """Returns the tensors that a module answers, by name: those of a mapping, of a dataclass or of a tuple, or the only one."""
    torch = module("torch", "torch")
    if isinstance(output, torch.Tensor):
        return {"output": output}
    if isinstance(output, Mapping):
        found = {str(name): value for name, value in output.items()}
    elif dataclasses.is_dataclass(output):
        found = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    elif hasattr(output, "_asdict"):
        found = dict(output._asdict())
    elif isinstance(output, (tuple, list)):
        found = {"output": output[0]} if len(output) == 1 else {f"output_{place}": value for place, value in enumerate(output)}
    else:
        raise ExportFailed(
            f"the module answers {type(output).__name__}; let forward return a tensor, or a dictionary or tuple of them"
        )
    # Models of transformers leave out what was not asked for.
    found = {name: value for name, value in found.items() if value is not None}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise ExportFailed(
                f"the output {name} is {type(value).__name__}, not a tensor; wrap the module in one whose forward returns only "
                "tensors (a model of transformers: set use_cache, output_hidden_states and output_attentions to False)"
            )
    if not found:
        raise ExportFailed("the module answers no tensor")
    return found


class Reference:
    """The module that exported answers are compared with."""

    def __init__(self, checked: Any) -> None:
        self.module = checked

    def run(self, inputs: Inputs) -> dict[str, Any]:
        """Returns the outputs as arrays, by name. Raises what the module raises."""
        found = named(self.call(inputs.by_name, list(inputs.arrays), self.tensors(inputs)))
        return {name: _array(name, tensor) for name, tensor in found.items()}

    def tensors(self, inputs: Inputs) -> tuple[Any, ...]:
        torch, numpy = module("torch", "torch"), module("numpy", "torch")
        return tuple(torch.from_numpy(numpy.array(array)) for array in inputs.arrays.values())

    def call(self, by_name: bool, names: list[str], tensors: tuple[Any, ...]) -> Any:
        return self.module(**dict(zip(names, tensors))) if by_name else self.module(*tensors)

    def flat(self, inputs: Inputs) -> Any:
        """Returns a module that takes the tensors in the order of their names, and answers a tuple."""
        torch = module("torch", "torch")
        by_name, names, call = inputs.by_name, list(inputs.arrays), self.call
        base: Any = torch.nn.Module

        class Flat(base):  # type: ignore[misc]
            def __init__(self, inner: Any) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *tensors: Any) -> tuple[Any, ...]:
                return tuple(named(call(by_name, names, tensors)).values())

        return Flat(self.module)


def _array(name: str, tensor: Any) -> Any:
    if _plain(tensor.dtype) in ("bfloat16", "float16") or tensor.is_complex():
        raise ExportFailed(f"the output {name} is {_plain(tensor.dtype)}; return it as float32")
    return tensor.detach().cpu().numpy()


def check_types(reference: Reference, inputs: Inputs) -> None:
    """Checks that numbers of X have the type of the weights, if the module has some."""
    if not any(parameter.is_floating_point() for parameter in reference.module.parameters()):
        return
    for name, array in inputs.arrays.items():
        if array.dtype.kind == "f" and array.dtype.itemsize != 4:
            shown = "X" if len(inputs.arrays) == 1 else f"X[{name!r}]"
            raise ExportFailed(
                f"{shown} is {array.dtype}, and the module computes with float32; give {shown}.astype(\"float32\") (an array) "
                f"or {shown}.float() (a tensor)"
            )
