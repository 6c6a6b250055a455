#!/usr/bin/env python3
"""Every case of ONNX's node, simple and pytorch suites (the `onnx` package) asked over HTTP.

`make test-onnx-suites` runs it. Each case is run in ONNX Runtime in Python first. Those that it runs are put into a repository with
`leeway add`, as whole tensors (`rows = "none"`), some hundred models in one server, and are asked with their inputs as JSON. The
answer is compared with the outputs of the reference implementation, with the tolerance of ONNX's own runner, and bit for bit with
what ONNX Runtime in Python answers. Where ONNX Runtime itself is not equal to the reference, its own answer is the expected one.

Prints a table of counts, and the reasons of what was not asked. Exit code 1 if an answer differs, or if a case is refused although
it has neither optionals nor complex numbers.

    LEEWAY=target/debug/leeway scripts/test_onnx_suites.py --suite node --only 'test_(nonzero|unique)'
"""

import argparse
import collections
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from onnx_cases import SUITES, Case, NotAsExpected, cases, differs, from_json, in_onnxruntime, is_identical, to_json

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("LEEWAY", ROOT / "target/release/leeway")).resolve()
LIBRARY = Path(os.environ.get("ORT_DYLIB_PATH", ROOT / ".onnxruntime/libonnxruntime.so")).resolve()
GROUP = 200
MODEL_TOML = """[preprocess]
kind = "tensor"
features = "none"
non_finite = "text"
[model]
rows = "none"
providers = ["cpu"]
workers = 1
intra_op_threads = 1
[budget]
total_ms = 60000
[postprocess]
kind = "tensor"
non_finite = "text"
"""
@dataclass
class Result:
    case: Case
    # One of: not run, refused, failed, differs, equal, equal to ONNX Runtime.
    outcome: str
    why: str = ""
    is_identical: bool = False


# ===== a repository =====


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LEEWAY", "RUST", "_RJEM"))}
    return {**kept, "ORT_DYLIB_PATH": str(LIBRARY), "LEEWAY_STATE__URL": "memory", **more}


def add(repository, case):
    """Adds a case as a model; returns the reason of a refusal, or None."""
    folder = repository / case.model_name
    folder.mkdir()
    (folder / "model.toml").write_text(MODEL_TOML)
    done = subprocess.run(
        [PROGRAM, "add", folder, "--onnx", case.model], cwd=repository.parent, env=environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
    )
    if done.returncode == 0:
        return None
    shutil.rmtree(folder)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return next((line for line in said if line.startswith("error")), said[-1] if said else "nothing said")


# ===== a server =====


class Server:
    def __init__(self, repository):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            self.port, admin = one.getsockname()[1], two.getsockname()[1]
        self.log = repository.with_name("log")
        settings = environment(
            LEEWAY_HTTP__LISTEN=f"127.0.0.1:{self.port}", LEEWAY_ADMIN__LISTEN=f"127.0.0.1:{admin}",
            LEEWAY_REPOSITORY__PATH=str(repository), LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS="0",
            # The largest request is 11 MB of JSON.
            LEEWAY_HTTP__BODY_LIMIT_BYTES=str(64 << 20),
            # `leeway add` has tried them.
            LEEWAY_LOADING__TRIAL="false",
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([PROGRAM, "serve"], cwd=repository.parent, env=settings, stdout=log, stderr=log)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        end = time.monotonic() + 300
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                sys.exit(f"error: the server does not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def is_ready(self):
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        try:
            self.connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def stop(self):
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


# ===== a case =====


def ask(server, case):
    """Asks for each data set of a case, and compares the answers."""
    identical = True
    for data in case.sets:
        try:
            instance = {name: to_json(value) for name, value in data.inputs.items()}
        except TypeError as error:
            return Result(case, "refused", str(error))
        body = json.dumps({"instances": [instance]}, allow_nan=False).encode()
        if not_served(case):
            return Result(case, "refused", not_served(case))
        status, text = server.ask("POST", f"/v1/models/{case.model_name}:predict", body)
        if status != 200:
            return Result(case, "failed", f"{status}: {json.loads(text).get('detail', text)}")
        (prediction,) = json.loads(text)["predictions"]
        found = {next(iter(case.outputs)): prediction} if len(case.outputs) == 1 else prediction
        for name in case.outputs:
            try:
                value = from_json(found[name], data.answer[name])
            except (KeyError, NotAsExpected) as error:
                return Result(case, "differs", f"the output {name!r} {error}")
            identical &= is_identical(value, data.answer[name])
            expected = data.reference.get(name, data.answer[name]) if case.equals_reference else data.answer[name]
            how = differs(value, expected, case.rtol, case.atol)
            if how is not None:
                return Result(case, "differs", f"the output {name!r} {how}")
    return Result(case, "equal" if case.equals_reference else "equal to ONNX Runtime", is_identical=identical)


def ask_group(group, folder):
    """Adds some cases to a repository of their own, serves them, and asks them."""
    repository = folder / "models"
    repository.mkdir()
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        refusals = list(pool.map(lambda case: add(repository, case), group))
    results = [Result(case, "refused", why) for case, why in zip(group, refusals) if why is not None]
    added = [case for case, why in zip(group, refusals) if why is None]
    if added:
        server = Server(repository)
        try:
            results += [ask(server, case) for case in added]
        finally:
            server.stop()
    shutil.rmtree(repository)
    return results


# ===== counts =====


def not_served(case):
    """What Leeway does not serve of a case, or None."""
    kinds = [*case.inputs.values(), *case.outputs.values()]
    if any(value == [] for data in case.sets for value in data.inputs.values() if isinstance(value, list)):
        return "empty sequences as inputs"
    if any(kind.startswith(("optional", "seq(optional")) for kind in kinds):
        return "optionals"
    return "complex numbers" if any("complex" in kind for kind in kinds) else None


def is_wrong(one):
    return one.outcome in ("failed", "differs") or one.outcome == "refused" and not not_served(one.case)


def without_names(why):
    why = re.sub(r'"[^"]*"|\'[^\']*\'|/\S+|-?\d[\d.]*|\[[^\]]*\]', "…", why)
    return " ".join(why.split()[:25])


def of(results, outcome):
    return [one for one in results if one.outcome == outcome]


def print_table(results):
    columns = {
        "cases": lambda one: True,
        "run by ORT": lambda one: one.outcome != "not run",
        "refused": lambda one: one.outcome == "refused",
        "asked": lambda one: one.outcome not in ("not run", "refused"),
        "= reference": lambda one: one.outcome == "equal",
        "= ORT only": lambda one: one.outcome == "equal to ONNX Runtime",
        "differ": lambda one: one.outcome == "differs",
        "failed": lambda one: one.outcome == "failed",
        "bit for bit = ORT": lambda one: one.is_identical,
    }
    print(f"\n{'suite':<20}" + "".join(f"{name:>{max(11, len(name) + 2)}}" for name in columns))
    for suite in [*SUITES, "all"]:
        of_suite = [one for one in results if suite in ("all", one.case.suite)]
        counts = [(name, sum(map(has, of_suite))) for name, has in columns.items()]
        print(f"{suite:<20}" + "".join(f"{count:>{max(11, len(name) + 2)}}" for name, count in counts))


def print_reasons(title, results, reason):
    if results:
        print(f"\n{title}")
    for why, count in collections.Counter(map(reason, results)).most_common():
        names = [one.case.name for one in results if reason(one) == why]
        print(f"{count:>5} × {why}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, action="append", help="a suite [default: all]")
    parser.add_argument("--only", default="", help="only cases whose name has a match of this regular expression")
    parser.add_argument("--every", type=int, default=1, help="only every n-th case [default: 1]")
    arguments = parser.parse_args()

    begin = time.monotonic()
    found = [case for suite in arguments.suite or SUITES for case in cases(suite) if re.search(arguments.only, case.name)]
    found = found[:: arguments.every]
    for case in found:
        in_onnxruntime(case)
    results = [Result(case, "not run", case.problem) for case in found if case.problem]
    runnable = [case for case in found if not case.problem]
    print(f"{len(found)} cases; ONNX Runtime {onnxruntime.__version__} in Python runs {len(runnable)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(runnable), GROUP):
            group = ask_group(runnable[start : start + GROUP], Path(folder))
            for one in group:
                if is_wrong(one):
                    print(f"  {one.outcome.upper()} {one.case.suite} {one.case.name}: {one.why[:500]}")
            results += group
            print(f"  {min(start + GROUP, len(runnable))} of them, {time.monotonic() - begin:.0f} s", flush=True)

    print_table(results)
    print_reasons("not run by ONNX Runtime in Python", of(results, "not run"), lambda one: without_names(one.why))
    print_reasons("refused", [one for one in of(results, "refused") if not is_wrong(one)], lambda one: not_served(one.case))
    wrong = [one for one in results if is_wrong(one)]
    print_reasons("wrong", wrong, lambda one: f"{one.outcome}: {without_names(one.why)}")
    print(f"\n{'FAILED' if wrong else 'ok'}, in {time.monotonic() - begin:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
