"""Writes `model.toml` for an exported model."""

from __future__ import annotations

import json
from typing import Any, Mapping, Sequence

from leeway.exporting.conversion import Converted
from leeway.exporting.reference import Reference
from leeway.exporting.table import MISSING_TEXT, Column, Kind, Table


def model_toml(
    table: Table, converted: Converted, reference: Reference, labels: Sequence[Any] | None, description: str | None
) -> str:
    """Returns the text of the file."""
    return _file(description, _preprocess(table, converted), _postprocess(converted, reference, labels))


def module_toml(
    shapes: Mapping[str, Sequence[str]], keys: Mapping[str, Any], comments: Sequence[str], description: str | None
) -> str:
    """Returns the text of the file for a module of PyTorch: the shapes of its inputs' rows, and the keys of `[postprocess]`."""
    inputs = {name: f"[{', '.join(shape)}]" if shape else "a number" for name, shape in shapes.items()}
    rows = " ".join(inputs.values()) if len(inputs) == 1 else "{ " + ", ".join(map(": ".join, inputs.items())) + " }"
    preprocess = ["[preprocess]", f'kind = "tensor"              # each instance: {rows}']
    values = {key: "true" if value is True else _value(value) for key, value in keys.items()}
    return _file(description, preprocess, ["[postprocess]", *comments, *(f"{key} = {values[key]}" for key in keys)])


def _file(description: str | None, preprocess: list[str], postprocess: list[str]) -> str:
    lines = ["# Written by leeway.export; docs/stages.md and docs/configuration.md have all keys. Change what you like: a"]
    lines += ["# later export to this folder keeps this file."]
    if description:
        lines.append(f"description = {_text(description)}")
    lines += ["", *preprocess, "", "[budget]", "total_ms = 200               # what a client waits at the most", ""]
    return "\n".join([*lines, *postprocess]) + "\n"


def _preprocess(table: Table, converted: Converted) -> list[str]:
    if not table.has_names:
        return ["[preprocess]", 'kind = "tensor"              # each instance is an array of numbers']
    lines = ["[preprocess]", 'kind = "tabular"             # each instance is an object by column name']
    used = converted.used(table)
    if len(used) < len(table.columns):
        unused = ", ".join(column.name for column in table.columns if column.name not in used)
        lines.append(f'extra_columns = "ignore"     # the model does not use: {" ".join(unused.split())}')
    for column in table.columns:
        if column.name in used:
            lines += ["", *_column(column, converted)]
    return lines


def _column(column: Column, converted: Converted) -> list[str]:
    lines = ["[[preprocess.columns]]", f"name = {_text(column.name)}"]
    if converted.inputs is not None and converted.inputs[column.name] != column.name:
        lines.append(f"input = {_text(converted.inputs[column.name])}")
    if column.kind is Kind.CATEGORY:
        lines.append(f"vocabulary = [{', '.join(_value(value) for value in column.vocabulary)}]")
        lines.append('unknown = "other"')
        missing = '"unknown"'
    else:
        lines.append(f'kind = "{column.kind.value}"')
        missing = _text(MISSING_TEXT) if column.kind is Kind.TEXT else '"nan"'
    if column.may_be_missing:
        lines.append(f"missing = {missing}" + ("      # the exported model knows it" if column.kind is Kind.TEXT else ""))
    return lines


def _postprocess(converted: Converted, reference: Reference, labels: Sequence[Any] | None) -> list[str]:
    lines = ["[postprocess]"]
    if reference.is_classifier:
        lines += ['kind = "classifier"', f"output = {_text(converted.output)}", 'scores = "probabilities"']
        if labels is not None:
            lines.append(f"labels = [{', '.join(_value(label) for label in labels)}]")
        return lines
    lines.append('kind = "regressor"')
    if reference.targets:
        lines.append(f"targets = [{', '.join(_text(name) for name in reference.targets)}]")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return _text(value) if isinstance(value, str) else str(int(value))


def _text(text: str) -> str:
    """Returns a basic string of TOML, which has the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
