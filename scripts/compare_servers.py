#!/usr/bin/env python3
"""One model of scikit-learn in Leeway, LitServe, BentoML and MLflow: from installation to the first right answer.

    make wheel && make compare                              # installs each server into an environment of its own below .bench
    scripts/compare_servers.py --wheel FILE --only leeway litserve

For each server it measures the installation by pip, the lines that somebody writes (without blank lines and comments), the time
from the trained model to the first answer, one row by one client, memory, and how many of 500 rows have scikit-learn's label; and
it records the answers to a value of the wrong type and to a missing value. Nothing else should run on the machine meanwhile. The
table in docs/comparison.md is printed by this script; the files of each server are in benches/comparison.
"""

import argparse
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "benches/comparison"
FOLDER = ROOT / ".bench/comparison"
PORT = 8000
#: What the model needs, in every environment.
FRAMEWORK = ["scikit-learn==1.9.1", "pandas==3.1.1", "joblib==1.6.0"]
REQUESTS, WARM_UP = 300, 20
LONGEST_START_S = 120


@dataclass
class Server:
    """A server, and how it is used."""

    name: str
    packages: list
    #: The file that a user writes, which is counted.
    file: str
    serve: list
    path: str
    #: Names of what is sent and received.
    sent: str = "instances"
    received: str | None = "predictions"
    #: True if the file is run first, and makes what is served.
    is_prepared: bool = False
    environment: dict = field(default_factory=dict)
    #: The package whose version is shown.
    package: str = ""

    def body(self, rows):
        return json.dumps({self.sent: rows}).encode()

    def labels(self, answer):
        answer = answer if self.received is None else answer[self.received]
        return [row["label"] if isinstance(row, dict) else row for row in answer]


def servers(wheel):
    return [
        Server(
            "Leeway", [f"leeway-server[sklearn] @ {wheel.resolve().as_uri()}"] if wheel else [], "leeway_export.py",
            ["leeway", "serve", "--listen", f"127.0.0.1:{PORT}", "--admin-listen", "127.0.0.1:0"], "/v1/models/churn:predict",
            is_prepared=True, environment={"LEEWAY_STATE__URL": "memory"}, package="leeway-server",
        ),
        Server("LitServe", ["litserve"], "litserve_server.py", ["python", "litserve_server.py"], "/predict"),
        Server(
            "BentoML", ["bentoml"], "bentoml_server.py",
            ["bentoml", "serve", "bentoml_server:Churn", "--host", "127.0.0.1", "--port", str(PORT)], "/predict",
            received=None, environment={"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Server(
            "MLflow", ["mlflow"], "mlflow_save.py",
            ["mlflow", "models", "serve", "-m", "mlflow_model", "--env-manager", "local", "-p", str(PORT)], "/invocations",
            sent="dataframe_records", is_prepared=True,
        ),
    ]


class Run:
    """One server in its environment and its working folder."""

    def __init__(self, server):
        self.server = server
        self.folder = FOLDER / server.name.lower()
        self.bin = self.folder / "venv/bin"
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("LEEWAY_", "ORT_", "PYTHON"))},
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            **server.environment,
        }

    def install(self):
        """Makes a new environment. Returns the seconds that it took, and its size."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        begin = time.monotonic()
        venv.create(self.folder / "venv", with_pip=True)
        pip = [self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *FRAMEWORK, *self.server.packages], check=True)
        seconds = time.monotonic() - begin
        size = sum(path.lstat().st_size for path in (self.folder / "venv").rglob("*") if path.is_file())
        return seconds, size

    def version(self):
        package = self.server.package or self.server.name.lower()
        show = f"from importlib.metadata import version; print(version({package!r}))"
        return self.output("-c", show)

    def output(self, *arguments):
        command = [self.bin / "python", *arguments]
        return subprocess.run(
            command, check=True, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    def train(self):
        """Trains the model, and returns what scikit-learn predicts."""
        self.output(FILES / "train.py")
        return json.loads((self.folder / "expected.json").read_text())

    def start(self, expected):
        """Prepares and starts the server. Returns its process and the seconds until its first right answer."""
        shutil.copy(FILES / self.server.file, self.folder)
        begin = time.monotonic()
        if self.server.is_prepared:
            self.output(self.server.file)
        program = self.bin / self.server.serve[0]
        process = subprocess.Popen(
            [program, *self.server.serve[1:]], cwd=self.folder, env=self.environment, start_new_session=True,
            stdout=(self.folder / "log").open("w"), stderr=subprocess.STDOUT,
        )
        while time.monotonic() - begin < LONGEST_START_S and process.poll() is None:
            try:
                status, answer = self.ask(expected["instances"][:1])
            except OSError:
                status = None
            if status == 200 and self.server.labels(answer) == expected["labels"][:1]:
                return process, time.monotonic() - begin
            time.sleep(0.02)
        stop(process)
        raise SystemExit(f"{self.server.name} did not answer; see {self.folder / 'log'}")

    def ask(self, rows, connection=None):
        """Returns the status of the answer to these rows, and its JSON or text."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        connection.request("POST", self.server.path, self.server.body(rows), {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def measure(self, row):
        """Returns P50 and P95, in milliseconds, of requests of one row by one client."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        times = []
        for _ in range(WARM_UP + REQUESTS):
            begin = time.perf_counter()
            status, answer = self.ask([row], connection)
            times.append((time.perf_counter() - begin) * 1000)
            assert status == 200, answer
        percentiles = statistics.quantiles(times[WARM_UP:], n=20)
        return percentiles[9], percentiles[18]


def stop(process):
    """Stops a server and the processes that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
        time.sleep(1)


def memory(process):
    """Returns the memory of a server and of the processes that it has started, in bytes; None where /proc is missing."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == process.pid:
                sizes = (folder / "smaps_rollup").read_text().split("\nPss:")[1]
                total += int(sizes.split()[0]) * 1024
        except (OSError, IndexError):
            continue
    return total or None


def problem(status, answer):
    """Returns an answer to a wrong request, as a cell of the table."""
    if isinstance(answer, dict):
        answer = answer.get("detail") or answer.get("message") or answer.get("error") or json.dumps(answer)
    text = " ".join(str(answer).split()).replace("|", "/")
    return f"{status}: `{text[:110]}`"


def compare(server, is_installed):
    """Returns a column of the table."""
    run = Run(server)
    print(f"{server.name} ...", file=sys.stderr)
    installed, size = (None, None) if is_installed else run.install()
    expected = run.train()
    lines = [line for line in (FILES / server.file).read_text().splitlines() if line.strip() and not line.startswith("#")]
    process, first = run.start(expected)
    try:
        instances = expected["instances"]
        labels = []
        for begin in range(0, len(instances), 50):
            status, answer = run.ask(instances[begin : begin + 50])
            labels += server.labels(answer) if status == 200 else [None] * 50
        right = sum(label == other for label, other in zip(labels, expected["labels"]))
        whole = next(row for row in instances if None not in row.values())
        p50, p95 = run.measure(whole)
        wrong = problem(*run.ask([{**whole, "age": "old"}]))
        status, answer = run.ask([{name: value for name, value in whole.items() if name != "age"}])
        left_out = f"{status}: {server.labels(answer)[0]}" if status == 200 else problem(status, answer)
        used = memory(process)
    finally:
        stop(process)
    return {
        "version": run.version(),
        "installation with pip": f"{installed:.0f} s, {size / 1e6:.0f} MB" if installed else "as before",
        "lines to write": len(lines),
        "from the trained model to the first right answer": f"{first:.1f} s",
        f"rows with scikit-learn's label, of {len(instances)}": right,
        "one row, one client: P50 / P95": f"{p50:.2f} / {p95:.2f} ms",
        "memory": f"{used / 1e6:.0f} MB" if used else "",
        "a text in a column of numbers": wrong,
        "a row without the key of a column that the model imputes": left_out,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="the wheel of Leeway [default: the one in target/wheels]")
    parser.add_argument("--only", nargs="+", metavar="SERVER", help="only these servers")
    parser.add_argument("--installed", action="store_true", help="use the environments of an earlier run")
    arguments = parser.parse_args()
    wheel = arguments.wheel or next(iter((ROOT / "target/wheels").glob("leeway_server-*.whl")), None)
    chosen = [server for server in servers(wheel) if server.name.lower() in (arguments.only or [server.name.lower()])]
    if not chosen:
        raise SystemExit(f"--only: there is no server {' '.join(arguments.only)}")
    if wheel is None and not arguments.installed and any(server.name == "Leeway" for server in chosen):
        raise SystemExit("there is no wheel of Leeway: run `make wheel` first, or name it with --wheel")
    columns = {server.name: compare(server, arguments.installed) for server in chosen}
    print(f"{date.today()}, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}\n")
    print(f"| | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(str(column[row]) for column in columns.values())} |")


if __name__ == "__main__":
    main()
