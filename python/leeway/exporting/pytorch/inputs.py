"""Rows for a module of PyTorch: an array for each argument of its `forward`, with the rows in the first dimension."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any, Mapping, Sequence

from leeway.errors import ExportFailed
from leeway.exporting.table import module

#: Name of the first dimension of every input.
ROWS = "rows"


@dataclass(frozen=True)
class Inputs:
    """Arrays of NumPy, by the name of the argument."""

    arrays: dict[str, Any]
    #: True if the arguments are passed by name, as X is a dictionary.
    by_name: bool
    #: Names of the dimensions whose length may change, by input and position. Those of the rows are not among them.
    dynamic: dict[str, dict[int, str]]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, places: Sequence[int]) -> Inputs:
        """Returns some of the rows."""
        return replace(self, arrays={name: array[list(places)] for name, array in self.arrays.items()})

    def with_length(self, dimension: str, length: int) -> Inputs:
        """Returns the rows with another length of a dimension: cut off, or continued from the start."""
        numpy = module("numpy", "torch")
        changed = dict(self.arrays)
        for name, axes in self.dynamic.items():
            for axis, found in axes.items():
                if found == dimension:
                    places = numpy.arange(length) % changed[name].shape[axis]
                    changed[name] = changed[name].take(places, axis=axis)
        return replace(self, arrays=changed)

    def scaled(self, factor: float) -> Inputs:
        """Returns the rows with all floating-point numbers multiplied."""
        scale = {name: factor if array.dtype.kind == "f" else 1 for name, array in self.arrays.items()}
        arrays = {name: array * array.dtype.type(scale[name]) for name, array in self.arrays.items()}
        return replace(self, arrays=arrays)

    def lengths(self) -> dict[str, int]:
        """Returns the lengths in X of the dimensions that may change."""
        return {
            dimension: self.arrays[name].shape[axis] for name, axes in self.dynamic.items() for axis, dimension in axes.items()
        }

    def values_per_row(self) -> int:
        return sum(int(array[:1].size) for array in self.arrays.values())

    def instances(self) -> list[Any]:
        """Returns the rows as a client sends them: an array, or an object by the name of the input if there are several."""
        if len(self.arrays) == 1:
            rows: list[Any] = next(iter(self.arrays.values())).tolist()
            return rows
        return [dict(zip(self.arrays, (value.tolist() for value in row))) for row in zip(*self.arrays.values())]

    def shapes(self) -> dict[str, list[str]]:
        """Returns the shape of a row of each input, as in `["3", "height", "width"]`."""
        shapes = {}
        for name, array in self.arrays.items():
            axes = self.dynamic.get(name, {})
            shapes[name] = [axes.get(axis, str(length)) for axis, length in enumerate(array.shape) if axis > 0]
        return shapes


def inputs_of(X: Any, forward: Any, dynamic: Mapping[Any, Any]) -> Inputs:
    """Reads X: an array or tensor, a tuple of them in the order of the arguments, or a dictionary by their names."""
    by_name = isinstance(X, Mapping)
    if by_name:
        named = {str(name): array for name, array in X.items()}
        _check_names(named, forward)
    else:
        tensors = X if isinstance(X, tuple) and _are_tensors(X) else (X,)
        named = dict(zip(_names(len(tensors), forward), tensors))
    arrays = {name: _array(_shown(name, named), value) for name, value in named.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if not arrays or 0 in counts.values():
        raise ExportFailed("X has no rows; give the rows that the module was trained on, or held-out rows")
    if len(set(counts.values())) > 1:
        raise ExportFailed(f"the inputs have different numbers of rows in their first dimension: {_listed(counts)}")
    return Inputs(arrays, by_name, _dynamic(arrays, dynamic))


def _are_tensors(X: Sequence[Any]) -> bool:
    return bool(X) and all(hasattr(part, "shape") and hasattr(part, "dtype") for part in X)


def _shown(name: str, named: Mapping[str, Any]) -> str:
    return "X" if len(named) == 1 else f"X[{name!r}]"


def _parameters(forward: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(forward).parameters.values())


def _names(count: int, forward: Any) -> list[str]:
    """Returns names for inputs that are passed by their position."""
    parameters = _parameters(forward)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes_more = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    parameters = [parameter for parameter in parameters if parameter.kind in positional]
    names = [parameter.name for parameter in parameters]
    if takes_more:
        names += [f"input_{place}" for place in range(len(names), count)]
    required = sum(parameter.default is parameter.empty for parameter in parameters)
    if not required <= count <= len(names):
        raise ExportFailed(
            f"X has {count} {'input' if count == 1 else 'inputs'}, and forward takes {', '.join(names) or 'none'}; give a "
            "tuple with an array for each, or a dictionary by name"
        )
    return names[:count]


def _check_names(named: Mapping[str, Any], forward: Any) -> None:
    parameters = _parameters(forward)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = [parameter for parameter in parameters if parameter.kind not in variable]
    unknown = [name for name in named if name not in [parameter.name for parameter in known]]
    missing = [parameter.name for parameter in known if parameter.default is parameter.empty and parameter.name not in named]
    if (unknown and not takes_any) or missing:
        wrong = f"has no {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
        names = ", ".join(parameter.name for parameter in known)
        raise ExportFailed(f"X {wrong}, and forward takes {names or 'nothing by name'}")


def _array(shown: str, value: Any) -> Any:
    """Returns an array of NumPy."""
    numpy = module("numpy", "torch")
    if hasattr(value, "columns") and hasattr(value, "iloc"):
        raise ExportFailed(f"{shown} is a DataFrame; give its numbers: {shown}.to_numpy(dtype=\"float32\")")
    if hasattr(value, "detach"):
        if str(value.dtype) == "torch.bfloat16":
            raise ExportFailed(f"{shown} is bfloat16, which a request cannot have; give {shown}.float()")
        value = value.detach().cpu().numpy()
    array = numpy.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise ExportFailed(
            f"{shown} has {array.ndim} dimensions and the type {array.dtype}; give an array or tensor of numbers with a row "
            "for each instance in its first dimension"
        )
    if array.dtype.kind == "f" and not numpy.isfinite(array).all():
        raise ExportFailed(f"{shown} has NaN or infinity, which a request cannot have; fill these values before the module")
    return array


def _dynamic(arrays: Mapping[str, Any], dynamic: Mapping[Any, Any]) -> dict[str, dict[int, str]]:
    """Checks which dimensions may change, as in `{"ids": {1: "tokens"}}`, or `{1: "tokens"}` for the only input."""
    if len(arrays) == 1 and dynamic and all(isinstance(axis, int) for axis in dynamic):
        dynamic = {next(iter(arrays)): dynamic}
    found: dict[str, dict[int, str]] = {}
    for name, axes in dynamic.items():
        if name not in arrays:
            raise ExportFailed(f"dynamic: there is no input {name!r}; the inputs are {', '.join(arrays)}")
        if not isinstance(axes, Mapping):
            raise ExportFailed(f"dynamic[{name!r}]: expected names of dimensions by their position, as in {{1: \"tokens\"}}")
        found[name] = {}
        for axis, dimension in axes.items():
            _check_dimension(f"dynamic[{name!r}]", arrays[name], axis, dimension)
            found[name][axis] = dimension
    lengths: dict[str, int] = {}
    for name, axes in found.items():
        for axis, dimension in axes.items():
            length = arrays[name].shape[axis]
            if lengths.setdefault(dimension, length) != length:
                raise ExportFailed(
                    f"dynamic: {dimension!r} has the length {lengths[dimension]} in one input, and {length} in {name}; give "
                    "dimensions of different lengths different names"
                )
    return found


def _check_dimension(where: str, array: Any, axis: Any, dimension: Any) -> None:
    if not isinstance(axis, int) or not 0 < axis < array.ndim:
        raise ExportFailed(
            f"{where}: found the position {axis!r}, expected one from 1 to {array.ndim - 1}; dimension 0 is that of the rows, "
            "and always open"
        )
    if not isinstance(dimension, str) or not dimension.isidentifier() or dimension == ROWS:
        raise ExportFailed(f"{where}[{axis}]: found {dimension!r}, expected a name, as \"tokens\", other than {ROWS!r}")
    if array.shape[axis] < 2:
        raise ExportFailed(
            f"{where}[{axis}]: X has the length {array.shape[axis]} there, which the exporter takes for a constant; give rows "
            "with at least 2"
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
