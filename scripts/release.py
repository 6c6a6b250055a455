#!/usr/bin/env python3
"""The steps of a release that are more than one command. `.github/workflows/release.yml` and `make dist` run them.

    release.py version                     the version in Cargo.toml
    release.py check [TAG]                 that a release can be made: the tag is the version, and the changelog has it
    release.py notes [VERSION]             the section of the changelog: of VERSION, or of what is not released yet
    release.py split PROGRAM FOLDER        the program without debug information, and this information apart, in FOLDER
    release.py archive PROGRAM FOLDER      leeway-VERSION-SYSTEM.tar.gz, with the program, ONNX Runtime and the models; and
                                           leeway-debug-info-VERSION-SYSTEM.tar.gz, if `split` put that beside PROGRAM
    release.py checksums FOLDER            SHA256SUMS of all files in FOLDER
"""

import argparse
import gzip
import hashlib
import io
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNRELEASED = "Unreleased"
# In the archive beside the program and the library, by their places there.
CONTENTS = ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "CHANGELOG.md", "config", "models"]
# Belongs to the checkout only.
LEFT_OUT = {"train.py", "requirements.txt", "__pycache__"}


def fail(problem):
    sys.exit(f"error: {problem}")


def version():
    """Returns the version of the package in Cargo.toml."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    return found[1] if found else fail("Cargo.toml has no version")


def sections(changelog):
    """Returns the text of each section of a changelog, by its version: `## 0.1.0 - 2026-12-01` or `## [0.1.0] - …`."""
    parts = re.split(r"^## \[?([^\]\s]+)\]?(?: .*)?$", changelog, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2])}


def notes(wanted):
    """Returns the section of a version in the changelog."""
    known = sections((ROOT / "CHANGELOG.md").read_text())
    if wanted not in known:
        fail(f"CHANGELOG.md has no section {wanted}: write its entries below \"## {wanted} - YYYY-MM-DD\"")
    return known[wanted] or fail(f"the section {wanted} of CHANGELOG.md is empty")


def check(tag):
    """Checks that a release of this checkout can be made. Without a tag, as a dry run."""
    now = version()
    locked = re.search(r'^name = "leeway"\nversion = "(.+)"$', (ROOT / "Cargo.lock").read_text(), re.MULTILINE)
    if not locked or locked[1] != now:
        fail(f"Cargo.lock does not have leeway {now}: run `cargo check`, and commit it")
    if not tag:
        notes(UNRELEASED)
        print(f"a dry run: leeway {now}, with what is not released yet")
        return
    if tag != f"v{now}":
        fail(f"the tag is {tag}, but Cargo.toml has the version {now}: tag it v{now}, or change the version")
    notes(now)
    print(f"leeway {now} can be released")


def split(program, folder):
    """Puts a program into a folder, without its symbols and debug information, and these beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / program.name
    if platform.system() == "Darwin":
        subprocess.run(["dsymutil", program, "-o", folder / f"{program.name}.dSYM"], check=True)
        shutil.copy2(program, target)
        subprocess.run(["strip", target], check=True)
        return
    debug = folder / f"{program.name}.debug"
    subprocess.run(["objcopy", "--only-keep-debug", "--compress-debug-sections", program, debug], check=True)
    # The link has the name and the checksum of the file, by which debuggers find it beside the program.
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", program, target], check=True)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {debug.name}: {debug.stat().st_size / 1e6:.1f} MB")


def system():
    """Returns the name of this system in the names of archives."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return f"{machine}-{'macos' if platform.system() == 'Darwin' else platform.system().lower()}"


def archived(program):
    """Returns the files of an archive as pairs of their place in it and their place here."""
    yield f"bin/{program.name}", program
    runtime = ROOT / ".onnxruntime"
    if not runtime.is_dir():
        fail("there is no ONNX Runtime in .onnxruntime: run `make onnxruntime`")
    # With its licences, where the program looks for it (`../lib/leeway`).
    for file in sorted(runtime.iterdir()):
        if file.name != "STAMP":
            yield f"lib/leeway/{file.name}", file
    for name in CONTENTS:
        place = ROOT / name
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in files:
            if file.is_file() and LEFT_OUT.isdisjoint(file.relative_to(ROOT).parts):
                yield str(file.relative_to(ROOT)), file


def debug_information(program):
    """Returns the files that `split` puts beside a program, as pairs of their place in an archive and their place here."""
    for beside in sorted(program.parent.glob(f"{program.name}.*")):
        files = sorted(beside.rglob("*")) if beside.is_dir() else [beside]
        yield from ((str(file.relative_to(program.parent)), file) for file in files if file.is_file())


def packed(name, files, folder):
    """Writes an archive with these files below its name. The same files always make the same archive."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.tar.gz"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for place, file in files:
            entry = tarfile.TarInfo(f"{name}/{place}")
            if file.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(file.readlink())
                archive.addfile(entry)
                continue
            data = file.read_bytes()
            entry.size, entry.mode = len(data), 0o755 if place.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(data))
    with target.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as compressed:
        compressed.write(content.getvalue())
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def archive(program, folder):
    """Writes the archive that runs where it is unpacked, and that of the debug information, if there is any."""
    release = f"{version()}-{system()}"
    packed(f"leeway-{release}", archived(program), folder)
    if debug := list(debug_information(program)):
        packed(f"leeway-debug-info-{release}", debug, folder)


def checksums(folder):
    """Writes the SHA-256 of each file in a folder, as `sha256sum --check` reads it."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != "SHA256SUMS")
    if not files:
        fail(f"{folder} has no files")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    print("".join(lines), end="")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    steps.add_parser("version")
    steps.add_parser("check").add_argument("tag", nargs="?", default="")
    steps.add_parser("notes").add_argument("version", nargs="?", default=UNRELEASED)
    for name in ("split", "archive"):
        step = steps.add_parser(name)
        step.add_argument("program", type=Path)
        step.add_argument("folder", type=Path)
    steps.add_parser("checksums").add_argument("folder", type=Path)
    asked = parser.parse_args()
    match asked.step:
        case "version":
            print(version())
        case "check":
            check(asked.tag)
        case "notes":
            print(notes(asked.version))
        case "split":
            split(asked.program, asked.folder)
        case "archive":
            archive(asked.program, asked.folder)
        case "checksums":
            checksums(asked.folder)


if __name__ == "__main__":
    main()
