"""Checks objects of KServe against the models of its SDK: `kserve_objects.py FILE`, with a JSON array of objects.

What the models do not know is lost on the way through them, so an object that comes out unchanged is made of known members.
Kubernetes' own types are those of its client for Python. Both refuse a missing member.
"""

import json
import re
import sys

import kserve
from kubernetes import client

KINDS = {
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}
PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool, "object": object}


def known(value, kind, place):
    """Returns what the SDK knows of a value."""
    if kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            raise SystemExit(f"{place}: {value!r} is no {kind}")
        return value
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        return [known(item, inner[1], f"{place}[{index}]") for index, item in enumerate(value)]
    if inner := re.fullmatch(r"dict\(str, (.*)\)", kind):
        return {key: known(item, inner[1], f"{place}.{key}") for key, item in value.items()}
    model = getattr(kserve, kind, None)
    if model is None:
        model = getattr(client, kind)
        # The client of the same version as Kubernetes has models of pydantic.
        return json.loads(model.from_dict(value).to_json())
    members = {
        name: (member, known(value[member], model.openapi_types[name], f"{place}.{member}"))
        for name, member in model.attribute_map.items()
        if member in value
    }
    # Refuses missing members.
    model(**{name: item for name, (_, item) in members.items()})
    return {member: item for member, item in members.values()}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        objects = json.load(file)
    for given in objects:
        kind = KINDS[given["apiVersion"], given["kind"]]
        name = f"{given['kind']} {given['metadata']['name']}"
        found = known(given, kind, name)
        if found != given:
            raise SystemExit(f"{name}: KServe knows only\n{json.dumps(found)}\nof\n{json.dumps(given)}")
    print(f"{len(objects)} objects")


if __name__ == "__main__":
    main()
