#!/usr/bin/env python3
"""Writes the bill of materials of a release (SBOM), in CycloneDX's format: every crate in the program as Cargo.lock pins it, with
its licence, digest and dependencies, and ONNX Runtime.

    scripts/sbom.py FILE

Crates that only build or test the program are not in it. Crates that only some of the systems need are. The same checkout always
makes the same file.
"""

import argparse
import json
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

from fetch_onnxruntime import VERSION as ONNXRUNTIME

ROOT = Path(__file__).resolve().parent.parent
# The systems that a release has archives and wheels for.
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"]


def metadata(target):
    """Returns what Cargo knows about the packages that this target needs."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if ran.returncode != 0:
        sys.exit(f"error: `{' '.join(command)}` failed")
    return json.loads(ran.stdout)


def in_the_program(known):
    """Returns the ids of the root package and of all that it needs at run time, each with the ids that it needs itself."""
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    found, waiting = {}, [known["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package not in found:
            edges = nodes[package]["deps"]
            found[package] = {edge["pkg"] for edge in edges if any(kind["kind"] is None for kind in edge["dep_kinds"])}
            waiting.extend(found[package])
    return found


def component(package, digests):
    """Returns a crate as a component."""
    name, version = package["name"], package["version"]
    described = {"type": "library", "bom-ref": reference(package), "name": name, "version": version}
    described["purl"] = described["bom-ref"]
    if package["license"]:
        # Old manifests separate licences by a slash.
        described["licenses"] = [{"expression": " OR ".join(package["license"].split("/")).replace("  ", " ")}]
    if digest := digests.get((name, version)):
        described["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return described


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def bill():
    """Returns the bill of materials."""
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    digests = {(crate["name"], crate["version"]): crate.get("checksum") for crate in locked}
    packages, needs = {}, {}
    for target in TARGETS:
        known = metadata(target)
        packages |= {package["id"]: package for package in known["packages"]}
        for package, needed in in_the_program(known).items():
            needs.setdefault(package, set()).update(needed)
    program = component(packages[known["resolve"]["root"]], digests) | {"type": "application"}
    runtime = {
        "type": "library",
        "bom-ref": f"pkg:pypi/onnxruntime@{ONNXRUNTIME}",
        "name": "onnxruntime",
        "version": ONNXRUNTIME,
        "purl": f"pkg:pypi/onnxruntime@{ONNXRUNTIME}",
        "licenses": [{"expression": "MIT"}],
    }
    crates = [component(packages[package], digests) for package in needs]
    crates = sorted((crate for crate in crates if crate["bom-ref"] != program["bom-ref"]), key=lambda crate: crate["bom-ref"])
    edges = {reference(packages[package]): {reference(packages[other]) for other in needed} for package, needed in needs.items()}
    edges[program["bom-ref"]].add(runtime["bom-ref"])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, program["purl"]).urn,
        "version": 1,
        "metadata": {"component": program},
        "components": [*crates, runtime],
        "dependencies": [{"ref": name, "dependsOn": sorted(needed)} for name, needed in sorted(edges.items())],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    made = bill()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{file}: {len(made['components'])} components")


if __name__ == "__main__":
    main()
