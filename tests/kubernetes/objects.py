"""Checks objects against Kubernetes' schemas, strictly: `objects.py FILE`, with a JSON array of objects."""

import json
import sys

import kubernetes_validate


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        objects = json.load(file)
    version = kubernetes_validate.latest_version()
    for given in objects:
        try:
            kubernetes_validate.validate(given, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            raise SystemExit(f"{given['kind']} {given['metadata']['name']}: {place}: {error.message}") from error
    print(f"{len(objects)} objects")


if __name__ == "__main__":
    main()
