"""Serves one model with Leeway, and compares its answers with those of the library that ships the model.

The comparisons beside this file use it. They need the server program, in the environment variable `LEEWAY`:

    make build && export LEEWAY=target/release/leeway

Anything else that the program needs from the environment, such as `ORT_DYLIB_PATH`, is passed on. Some scripts have the name of
the package that they import, so they take their own folder off `sys.path` until they have imported it.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Seconds until a version has to be tried and a server ready, with large models on a busy machine.
READY = 600


class Server:
    """A server of one model, in a folder of its own. The settings of the model are in `<name>.toml`, beside this file.

        with Server("nudenet", onnx=path) as server:
            [detections] = server.predict([encoded(data)])
    """

    def __init__(self, name, onnx, files=()):
        self.name, self.onnx, self.files = name, Path(onnx), [Path(file) for file in files]
        program = os.environ.get("LEEWAY") or sys.exit("set LEEWAY to the server program, as in target/release/leeway")
        self.program = shutil.which(program) or sys.exit(f"LEEWAY={program}: there is no such program")
        self.program = str(Path(self.program).resolve())

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="leeway-")
        root = Path(self.folder.name)
        model = root / "models" / self.name
        model.mkdir(parents=True)
        shutil.copy(HERE / f"{self.name}.toml", model / "model.toml")
        add = [self.program, "add", str(model), "--onnx", str(self.onnx.resolve())]
        for file in self.files:
            add += ["--file", str(file.resolve())]
        trial = {"LEEWAY_LOADING__TRIAL_TIMEOUT_MS": str(READY * 1000)}
        added = subprocess.run(add, cwd=root, env={**os.environ, **trial}, capture_output=True, text=True)
        if added.returncode != 0:
            sys.exit(f"{added.stdout}{added.stderr}")
        port, admin = free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "LEEWAY_REPOSITORY__PATH": str(root / "models"),
            "LEEWAY_HTTP__LISTEN": f"127.0.0.1:{port}",
            "LEEWAY_ADMIN__LISTEN": f"127.0.0.1:{admin}",
            "LEEWAY_STATE__URL": "memory",
            **trial,
        }
        self.log = open(root / "log", "w+")
        self.process = subprocess.Popen(
            [self.program, "serve"], cwd=root, env={**os.environ, **settings}, stdout=self.log, stderr=subprocess.STDOUT
        )
        self.wait_until_ready()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def wait_until_ready(self):
        end = time.monotonic() + READY
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/readyz")
                return
            except OSError:
                time.sleep(0.1)
        self.process.kill()
        self.log.seek(0)
        sys.exit(f"the server is not ready:\n{self.log.read()}")

    def predict(self, instances):
        """Returns the predictions for instances as JSON."""
        return self.ask({"instances": instances})["predictions"]

    def ask(self, document):
        """Returns the whole answer to a request with this JSON document."""
        request = urllib.request.Request(
            f"{self.url}/v1/models/{self.name}:predict",
            json.dumps(document).encode(),
            {"content-type": "application/json"},
        )
        try:
            return json.load(urllib.request.urlopen(request))
        except urllib.error.HTTPError as error:
            sys.exit(f"{error.code}: {error.read().decode()}")


class Comparison:
    """Differences between Leeway's numbers and those of a library, each printed as it is found."""

    def __init__(self, tolerance):
        self.tolerance, self.largest, self.faults = tolerance, 0.0, 0

    def difference(self, case, difference):
        """Notes the largest absolute difference of the numbers of a case."""
        self.largest = max(self.largest, float(difference))
        is_close = float(difference) <= self.tolerance
        self.note(case, f"differs by {difference:.2g}", is_close)

    def equal(self, case, ours, theirs):
        """Notes a result that has to be the same."""
        self.note(case, repr(ours) if ours == theirs else f"{ours!r} is not {theirs!r}", ours == theirs)

    def note(self, case, text, is_right):
        self.faults += not is_right
        print(f"{'ok   ' if is_right else 'WRONG'} {case}: {text}", flush=True)

    def finish(self):
        """Ends the program: with status 1 if a case was wrong."""
        print(f"largest difference {self.largest:.2g}, at most {self.tolerance:g} is accepted; {self.faults} wrong")
        sys.exit(1 if self.faults else 0)


def encoded(data):
    """Returns an instance that is a file, such as an image: `{"b64": "…"}`."""
    return {"b64": base64.b64encode(data).decode()}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
