#!/usr/bin/env python3
"""Writes the table of values into the README of the Helm chart, from the comments of values.yaml; with --check, compares only.

Every value has a comment of its own above it, or belongs to one that has. The names are those of values.schema.json, too.
"""

import json
import re
import sys
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parent.parent / "deploy/helm/leeway"
BEGIN, END = "<!-- values: made by scripts/chart_reference.py -->\n", "<!-- end of values -->\n"


def read_comments(text):
    """Returns the comments above keys by the keys' paths."""
    comments, path, comment = {}, [], []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif key := re.match(r" *([A-Za-z_]+):", line):
            path[indent // 2 :] = [key[1]]
            if comment:
                comments[".".join(path)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return comments


def leaves(value, path=()):
    """Returns the paths of all values that are no section."""
    if not isinstance(value, dict) or not value:
        return [path]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]


def compare_with_schema(value, schema, path=""):
    """Refuses a value without a schema, and the other way round. Objects that are Kubernetes' own have no properties there."""
    if "properties" not in schema or not isinstance(value, dict):
        return
    if schema.get("additionalProperties") is not False:
        sys.exit(f"values.schema.json: {path or 'the whole'} lacks additionalProperties: false")
    # `global` is Helm's; claims of resources are Kubernetes'.
    differ = set(value) ^ set(schema["properties"]) - {"global", "claims"}
    if differ:
        sys.exit(f"values.yaml and values.schema.json differ: {path}{sorted(differ)}")
    for key, inner in value.items():
        compare_with_schema(inner, schema["properties"][key], f"{path}{key}.")


def table(values, comments):
    rows = ["| value | default | meaning |\n", "|---|---|---|\n"]
    for path, meaning in comments.items():
        default = values
        for key in path.split("."):
            default = default[key]
        # What is documented one by one needs no default as a whole.
        is_section = isinstance(default, dict) and any(other.startswith(f"{path}.") for other in comments)
        shown = "" if is_section else f"`{json.dumps(default)}`"
        rows.append(f"| `{path}` | {shown} | {meaning.replace('|', chr(92) + '|')} |\n")
    return "".join(rows)


def main():
    text = (CHART / "values.yaml").read_text()
    values, comments = yaml.safe_load(text), read_comments(text)
    # The file's own comment stands apart from the first key.
    for leaf in leaves(values):
        if not any(".".join(leaf[:length]) in comments for length in range(1, len(leaf) + 1)):
            sys.exit(f"values.yaml: {'.'.join(leaf)} has no comment")
    compare_with_schema(values, json.loads((CHART / "values.schema.json").read_text()))
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    new = before + BEGIN + "\n" + table(values, comments) + "\n" + END + after
    if "--check" not in sys.argv:
        readme.write_text(new)
    elif new != readme.read_text():
        sys.exit("deploy/helm/leeway/README.md is not that of values.yaml: make chart-reference")


if __name__ == "__main__":
    main()
