#!/usr/bin/env python3
"""Requests made up from /openapi.json, by schemathesis, against both ports of a real server with the shipped models.

    make test-openapi                  # installs schemathesis into .tools/schemathesis; OPENAPI_REQUESTS=20000 by default

Every answer has to be documented: its status, its headers, its body. No answer may be a fault of the server, and what the
document allows has to be accepted. The models are copies: requests to the admin port change what is served.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCHEMATHESIS = "4.32.5"
FOLDER = ROOT / ".tools/schemathesis"
PROGRAM = Path(os.environ.get("LEEWAY", ROOT / "target/release/leeway"))
REQUESTS = int(os.environ.get("OPENAPI_REQUESTS", "20000"))
DATA, ADMIN = 18280, 18281
# Paths with the types of a model, and those whose form of an instance depends on the model.
TYPED = ["/predict", "/v1/models/digits:predict", "/v1/models/penguins:predict"]
GENERAL = [
    "/invocations", "/v1/models/{model}:predict", "/v1/models/{model}/versions/{version}:predict", "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
]
# A caller that cannot wait is answered with 503 or 504, so that every deadline that is valid becomes a long one. A model that
# is unloaded is loaded again, so that other requests find it.
HOOKS = """
import urllib.request

import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    value = case.headers.get("X-Request-Timeout-Ms", "")
    if value.isascii() and value.isdigit() and int(value) > 0:
        case.headers["X-Request-Timeout-Ms"] = "60000"

@schemathesis.hook
def after_call(context, case, response):
    url = response.request.url
    if url.endswith("/unload") and response.status_code == 200:
        load = urllib.request.Request(url.removesuffix("unload") + "load", b"{}", {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(load, timeout=60).read()
"""
# What a schema cannot say: shares that add up to 100, versions that exist, a generation that is current.
OF_ADMIN = ["400", "409", "422"]


def install():
    """The program schemathesis, in a virtual environment of its own."""
    program = FOLDER / "bin/schemathesis"
    if program.exists():
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        if said.split()[-1:] == [SCHEMATHESIS]:
            return program
    print(f"installing schemathesis {SCHEMATHESIS} into {FOLDER} ...", file=sys.stderr, flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    subprocess.run([FOLDER / "bin/pip", "install", "--quiet", f"schemathesis=={SCHEMATHESIS}"], check=True)
    return program


def get(port, path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read()


def start(models):
    environment = os.environ | {
        "LEEWAY_HTTP__LISTEN": f"127.0.0.1:{DATA}",
        "LEEWAY_ADMIN__LISTEN": f"127.0.0.1:{ADMIN}",
        "LEEWAY_REPOSITORY__PATH": str(models),
        "LEEWAY_REPOSITORY__DEFAULT_MODEL": "digits",
        "LEEWAY_STATE__URL": "memory",
    }
    return subprocess.Popen([PROGRAM, "serve"], env=environment)


def until_ready(server):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"error: the server ended with {server.returncode}")
        try:
            get(DATA, "/readyz")
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("error: the server did not become ready in a minute")


def configuration(folder, port):
    """The settings of schemathesis for a port."""
    accepted = ["2xx", "401", "403", "404", "409"] + (OF_ADMIN if port == ADMIN else [])
    # A model may fail on numbers that its schema allows, such as 1e38: 500, but never the code `internal`.
    lenient = {path: ["500"] for path in TYPED} | {path: ["400", "500"] for path in GENERAL}
    rules = "".join(f"""
[[operations]]
include-path = {json.dumps(path)}

[operations.checks.positive_data_acceptance]
expected-statuses = {json.dumps(accepted + statuses)}

[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "500"]
""" for path, statuses in lenient.items()) if port == DATA else ""
    file = folder / f"schemathesis-{port}.toml"
    file.write_text(f"""
[generation]
allow-extra-parameters = false

[checks.positive_data_acceptance]
expected-statuses = {json.dumps(accepted)}
{rules}""")
    return file


def is_fault(line):
    """True for a metric of responses that are a fault of the server, if there are any."""
    codes = ['code="internal"', 'code="worker-panicked"']
    return line.startswith("leeway_error_responses_total{") and any(code in line for code in codes) and line.split()[-1] != "0"


def operations(port):
    paths = json.loads(get(port, "/openapi.json"))["paths"]
    return sum(len(item) for item in paths.values())


def fuzz(program, folder, port):
    """Tests a port. Returns true if nothing was found."""
    examples = max(1, REQUESTS // 2 // operations(port))
    report = folder / f"report-{port}.ndjson"
    command = [
        program, "--config-file", configuration(folder, port), "run", f"http://127.0.0.1:{port}/openapi.json",
        "--checks", "all", "--mode", "all", "--max-examples", str(examples), "--phases", "examples,coverage,fuzzing",
        "--workers", "1", "--continue-on-failure", "--suppress-health-check", "all",
        "--report", "ndjson", "--report-ndjson-path", report, "--request-timeout", "60", "--seed", "21",
    ]
    (folder / "hooks.py").write_text(HOOKS)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder)}
    code = subprocess.run(list(map(str, command)), cwd=folder, env=environment, check=False).returncode
    return code == 0


def main():
    program = install()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for model in ["digits", "penguins"]:
            shutil.copytree(ROOT / "models" / model, folder / "models" / model)
            settings = folder / "models" / model / "model.toml"
            # Thousands of rows on a busy machine are in time.
            settings.write_text(settings.read_text().replace("total_ms = 200", "total_ms = 60000"))
        server = start(folder / "models")
        try:
            until_ready(server)
            found = [port for port in (DATA, ADMIN) if not fuzz(program, folder, port)]
            if server.poll() is not None:
                sys.exit(f"error: the server ended with {server.returncode}")
            faults = [line for line in get(ADMIN, "/metrics").decode().splitlines() if is_fault(line)]
        finally:
            server.terminate()
            server.wait(60)
    if faults:
        sys.exit(f"error: the server itself failed: {faults}")
    if found:
        sys.exit(f"error: schemathesis found something on port {found}")


if __name__ == "__main__":
    main()
