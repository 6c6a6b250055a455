#!/usr/bin/env python3
"""Installs the wheel into a fresh virtual environment with nothing but pip, serves a model, and checks its first answer.

    scripts/test_wheel.py [WHEEL]           # by default the one in target/wheels, which `make wheel` builds

ONNX Runtime comes from the package index, as for every user. Prints how long each step took, and fails if anything of
this checkout was used. With --limit SECONDS it also fails if all steps together took longer.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Steps:
    """Times steps, and prints each."""

    def __init__(self):
        self.begin = self.last = time.monotonic()

    def done(self, what):
        now = time.monotonic()
        print(f"{now - self.last:6.1f} s  {what}", flush=True)
        self.last = now

    def total(self):
        return self.last - self.begin


def serve(program, folder, environment, log):
    """Starts the server, and returns its process and the address that it logs."""
    command = [program, "serve", "digits.onnx", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        log.append(line)
        if found := re.search(r"ready: POST (http://[^ /]+)", line):
            return server, found[1]
    raise SystemExit("leeway did not start:\n" + "".join(log))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", nargs="*", type=Path, help="the wheel [default: the one in target/wheels]")
    parser.add_argument("--limit", type=float, help="longest time of all steps together, in seconds")
    arguments = parser.parse_args()
    wheels = arguments.wheel or list((ROOT / "target/wheels").glob("leeway_server-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"found {len(wheels)} wheels, expected one: run `make wheel` first, or name it")
    # Nothing of a developer's environment.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") if name in os.environ}
    environment |= {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
    with tempfile.TemporaryDirectory(prefix="leeway-wheel-") as made:
        folder = Path(made)
        steps = Steps()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        steps.done("python -m venv venv")
        pip = [folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        subprocess.run([*pip, wheels[0].resolve()], check=True, env=environment)
        steps.done(f"pip install {wheels[0].name}")

        # A file as a user has it, with nothing beside it.
        program = folder / "venv/bin/leeway"
        shutil.copy(ROOT / "models/digits/2/model.onnx", folder / "digits.onnx")
        log = []
        server, url = serve(program, folder, environment, log)
        try:
            held_out = json.loads((ROOT / "tests/data/digits_held_out.json").read_text())
            body = json.dumps({"instances": held_out["instances"][:20]}).encode()
            request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json"})
            answer = json.load(urllib.request.urlopen(request))
            labels = [prediction["label"] for prediction in answer["predictions"]]
            if labels != held_out["versions"]["2"]["labels"][:20]:
                raise SystemExit(f"wrong answer: {labels}")
            steps.done(f"leeway serve digits.onnx, and the right answer to 20 rows: {labels}")
            maps = Path(f"/proc/{server.pid}/maps")
            if maps.exists():
                loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libonnxruntime" in line}
                if not loaded or not all(path.startswith(str(folder.resolve())) for path in loaded):
                    raise SystemExit(f"these libraries are not those of the environment: {loaded}")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        imported = "import leeway, sys; assert leeway.__file__.startswith(sys.prefix); assert leeway.program().is_file(); "
        imported += "print('numpy' in sys.modules)"
        heavy = subprocess.run([folder / "venv/bin/python", "-c", imported], check=True, cwd=folder, capture_output=True, text=True)
        if heavy.stdout.strip() != "False":
            raise SystemExit("`import leeway` imports NumPy")
        print(f"{steps.total():6.1f} s  altogether")
        if arguments.limit is not None and steps.total() > arguments.limit:
            raise SystemExit(f"that is more than {arguments.limit:.0f} s")


if __name__ == "__main__":
    main()
