#!/usr/bin/env python3
"""Fuzzes what reads bytes of strangers, a target after the other, and ends at the first crash. fuzz/README.md says more.

    FUZZ_SECONDS=600 FUZZ_TARGETS="body image" scripts/fuzz.py

Installs cargo-fuzz into .tools if it is not there, and needs a nightly toolchain (FUZZ_TOOLCHAIN, as rustup calls it).
"""

import os
import subprocess
import sys
import time

from cargo_programs import ROOT, program

CARGO_FUZZ = "0.13.2"
FUZZ = ROOT / "fuzz"

# By target: the longest input, and the most that may be set aside at one time, in bytes and MiB. It is what the target's
# limits say and some room: a small input that takes much memory is a crash.
TARGETS = {
    "body": (8_192, 16),
    "envelope": (4_096, 4),
    "feedback": (8_192, 4),
    "manifest": (4_096, 4),
    # 64 Ki pixels of 8 bytes, 1 MiB of the decoder's own; and 16 MiB, which is what a partition of a WebP file can say that
    # it has: image-webp sets them aside, zeroed and so without touching them, before it finds that they are not there.
    "image": (8_192, 20),
    # 192,000 samples of 4 bytes in a vector that grows, and a block of FLAC: 65,535 samples of 8 channels and 4 bytes.
    "audio": (8_192, 6),
    "external_data": (8_192, 4),
    # Elements take 24 bytes for three of JSON at the most.
    "v2": (8_192, 4),
    "grpc": (8_192, 4),
    "base64": (8_192, 2),
    "csv": (8_192, 4),
}
# More folders with seeds than fuzz/seeds/<target>.
SEEDS = {"external_data": [ROOT / "tests/data/external"]}
# No input takes this long, with all that slows the code down here.
TIMEOUT_SECONDS = 10
RSS_MIB = 1_024


def toolchain():
    name = os.environ.get("FUZZ_TOOLCHAIN", "nightly")
    found = subprocess.run(["rustup", "run", name, "rustc", "--version"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise SystemExit(f"error: cargo-fuzz needs Rust's {name} toolchain: `rustup toolchain install {name}`")
    return name


def cargo_fuzz(*arguments):
    environment = {**os.environ, "RUSTUP_TOOLCHAIN": toolchain()}
    # As `cargo fuzz` runs it, but for the toolchain.
    command = [program("cargo-fuzz", CARGO_FUZZ), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def fuzz(target, seconds):
    longest, allocation_mib = TARGETS[target]
    corpus = FUZZ / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={longest}",
        f"-timeout={TIMEOUT_SECONDS}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-malloc_limit_mb={allocation_mib}",
        "-print_final_stats=1",
    ]
    dictionary = FUZZ / "dictionaries" / f"{target}.dict"
    if dictionary.exists():
        options.append(f"-dict={dictionary}")
    # What is found is written to the first of the folders.
    folders = [corpus, FUZZ / "seeds" / target, *SEEDS.get(target, [])]
    return cargo_fuzz("run", target, *folders, "--", *options)


def main():
    seconds = int(os.environ.get("FUZZ_SECONDS", "600"))
    targets = os.environ.get("FUZZ_TARGETS", "").split() or list(TARGETS)
    unknown = [target for target in targets if target not in TARGETS]
    if unknown:
        raise SystemExit(f"error: FUZZ_TARGETS: there is no {', '.join(unknown)}; there is {', '.join(TARGETS)}")
    if cargo_fuzz("build") != 0:
        raise SystemExit("error: the fuzz targets do not build")
    for target in targets:
        print(f"===== {target}: {seconds} s =====", file=sys.stderr, flush=True)
        started = time.monotonic()
        if fuzz(target, seconds) != 0:
            raise SystemExit(f"error: {target} crashed; fuzz/README.md says how to go on")
        print(f"===== {target}: clean for {time.monotonic() - started:.0f} s =====", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
