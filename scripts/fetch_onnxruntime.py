#!/usr/bin/env python3
"""Brings the pinned ONNX Runtime library into .onnxruntime/, where `leeway` looks for it.

The library comes out of the wheel that the ONNX Runtime project publishes for this platform, fetched
with pip; Python is not needed afterwards. The wheel's SHA-256 is pinned below. Run it as often as you
like: when the right library is already there, nothing is fetched.

    scripts/fetch_onnxruntime.py                   # CPU, Linux x86-64 and arm64, macOS arm64
    scripts/fetch_onnxruntime.py --variant cuda    # CPU and CUDA, Linux x86-64; CUDA 13 and cuDNN 9 come from NVIDIA
"""

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "1.31.1"
# (variant, system, machine) -> (pip's platform tag, SHA-256 of the wheel, the library inside it, the loader's name for it)
WHEELS = {
    ("cuda", "Linux", "x86_64"): (
        "manylinux_2_28_x86_64",
        "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
        f"libonnxruntime.so.{VERSION}",
        "libonnxruntime.so",
    ),
    ("cpu", "Linux", "x86_64"): (
        "manylinux_2_28_x86_64",
        "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        f"libonnxruntime.so.{VERSION}",
        "libonnxruntime.so",
    ),
    ("cpu", "Linux", "aarch64"): (
        "manylinux_2_28_aarch64",
        "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        f"libonnxruntime.so.{VERSION}",
        "libonnxruntime.so",
    ),
    ("cpu", "Darwin", "arm64"): (
        "macosx_14_0_arm64",
        "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        f"libonnxruntime.{VERSION}.dylib",
        "libonnxruntime.dylib",
    ),
}
PACKAGES = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu"}
# The wheel carries the same library for every Python; one is named so that one digest is enough.
PYTHON = "3.12"

FOLDER = Path(__file__).resolve().parent.parent / ".onnxruntime"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def is_installed(wheel_sha256, library, link):
    """The stamp names the wheel and the library's own digest, so a damaged file is fetched again."""
    try:
        stamp = (FOLDER / "STAMP").read_text().split()
        return stamp == [wheel_sha256, sha256(FOLDER / library)] and (FOLDER / link).exists()
    except OSError:
        return False


def download(package, tag, wheel_sha256, into):
    print(f"fetching {package} {VERSION} for {tag} with pip ...", flush=True)
    requirements = into / "requirements.txt"
    requirements.write_text(f"{package}=={VERSION} --hash=sha256:{wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    command += [f"--abi=cp{PYTHON.replace('.', '')}", f"--platform={tag}", f"--dest={into}", f"--requirement={requirements}"]
    if subprocess.run(command).returncode != 0:
        sys.exit(
            f"error: pip could not fetch {package}=={VERSION} for {tag} (its message is above).\n"
            "       Without a network, put the library somewhere yourself and set ORT_DYLIB_PATH to the file."
        )
    (wheel,) = into.glob("*.whl")
    if sha256(wheel) != wheel_sha256:
        sys.exit(f"error: {wheel.name} does not have the pinned SHA-256 {wheel_sha256}")
    return wheel


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=sorted(PACKAGES), default="cpu", help="what it runs on [default: cpu]")
    variant = parser.parse_args().variant
    here = (variant, platform.system(), platform.machine())
    if here not in WHEELS:
        known = ", ".join(" ".join(there) for there in WHEELS)
        sys.exit(
            f"error: no pinned ONNX Runtime for {' '.join(here)} (there is one for {known}).\n"
            f"       Install ONNX Runtime {VERSION} yourself and set ORT_DYLIB_PATH to its library file."
        )
    tag, wheel_sha256, library, link = WHEELS[here]
    if is_installed(wheel_sha256, library, link):
        return

    with tempfile.TemporaryDirectory() as temporary:
        wheel = download(PACKAGES[variant], tag, wheel_sha256, Path(temporary))
        fresh = FOLDER.with_name(".onnxruntime.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            wanted = {f"onnxruntime/capi/{library}": library}
            wanted |= {name: Path(name).name for name in archive.namelist() if name.startswith("onnxruntime/capi/libonnxruntime_providers_")}
            wanted |= {"onnxruntime/LICENSE": "LICENSE", "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
            for member, name in wanted.items():
                with archive.open(member) as source, open(fresh / name, "wb") as target:
                    shutil.copyfileobj(source, target)
        (fresh / link).symlink_to(library)
        (fresh / "STAMP").write_text(f"{wheel_sha256} {sha256(fresh / library)}\n")
        shutil.rmtree(FOLDER, ignore_errors=True)
        fresh.rename(FOLDER)
    print(f"ONNX Runtime {VERSION} is in {FOLDER}")


if __name__ == "__main__":
    main()
