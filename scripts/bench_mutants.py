#!/usr/bin/env python3
"""500 mutated model files (scripts/mutate_models.py) through `leeway add`, the trial and the load of a running server.

`make bench-mutants` runs it. Three rounds, each under strace with all child processes, in a working directory with decoys:

  add          `leeway add` of each mutant
  discovered   a server finds each mutant with a manifest that was written by hand, tries it and loads it
  untried      a server without trial (loading.trial = false) loads those that `leeway add` has taken

What is loaded is asked some things. Every path that is opened, looked at or followed has to be on a list of what each needs.
The servers have to live until the end, an honest model beside the mutants has to be answered all the time, and nothing may
be left behind. Prints what came of it; exit code 1 if anything of this is not so.

    LEEWAY=target/debug/leeway scripts/bench_mutants.py --count 100 --seed 2
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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx

from mutate_models import MODEL, ROOT, mutants

PROGRAM = Path(os.environ.get("LEEWAY", ROOT / "target/release/leeway")).resolve()
LIBRARY = Path(os.environ.get("ORT_DYLIB_PATH", ROOT / ".onnxruntime/libonnxruntime.so")).resolve()
TRIAL_LIMIT_S = 20
# An add has a trial, and copies and hashes beside it.
ADD_LIMIT_S = TRIAL_LIMIT_S + 20
# A server tries them one after the other, or some at one time.
LOAD_LIMIT_S = TRIAL_LIMIT_S + 20
BATCH = 50
MODEL_TOML = """[preprocess]
kind = "tensor"
features = "none"
[model]
providers = ["cpu"]
workers = 1
intra_op_threads = 1
[budget]
total_ms = 5000
[postprocess]
kind = "tensor"
"""
SECRET = "a secret that no answer and no message may have: 5f3a"

failures: list[str] = []


def fail(text):
    failures.append(text)
    print(f"  FAIL {text}"[:600])


class Place:
    """The folders: where programs run, with decoys, and what they may read."""

    def __init__(self, base: Path):
        self.base = base
        self.cwd, self.outside, self.home = base / "work/cwd", base / "outside", base / "home"
        for folder in (self.cwd, self.outside, self.home):
            folder.mkdir(parents=True)
        # The names that external data are given, wherever a path could be taken from.
        for folder in (self.cwd, self.cwd.parent, self.outside, base):
            for name in ("secret.txt", "weights.bin", "Cargo.toml", "plus_5.onnx.data", "model.onnx", "link"):
                (folder / name).write_text(SECRET)

    def environment(self, **more):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LEEWAY", "RUST", "_RJEM"))}
        return {
            **kept,
            "HOME": str(self.home),
            "ORT_DYLIB_PATH": str(LIBRARY),
            "LEEWAY_STATE__URL": "memory",
            "LEEWAY_LOADING__TRIAL_TIMEOUT_MS": str(TRIAL_LIMIT_S * 1000),
            "LEEWAY_LOG__FORMAT": "json",
            **more,
        }


# ===== what was opened =====

# Of the system: for the program, the C library and ONNX Runtime (which looks at the processor, the time zone, the kind of
# machine, and keeps a file of its own in the home folder).
SYSTEM = re.compile(
    r"/etc/(ld\.so\.(cache|preload)|localtime|os-release|nsswitch\.conf|passwd|ssl/certs/ca-certificates\.crt|host\.conf|hosts|resolv\.conf)"
    r"|(/usr)?/lib(64|32)?/([^.]|\.(?!\./))*\.so[.0-9]*|/usr/lib/os-release|(/usr)?/lib/locale/.*|/usr/share/zoneinfo/.*"
    r"|/proc/(self|\d+)/(maps|cgroup|status|clear_refs|oom_score_adj|task|exe|cmdline|mountinfo|limits|stat|fd)"
    r"|/proc/(cpuinfo|meminfo|stat|sys/vm/overcommit_memory|sys/kernel/osrelease|sys/vm/max_map_count|sys/net/core/somaxconn)"
    r"|/sys/(fs/cgroup|devices|bus/pci/devices|class/(dmi|drm|accel)|kernel/mm/transparent_hugepage)(/.*)?"
    r"|/dev/(null|urandom|tty)|/(run/)?\.(docker|container)env|/run/systemd/container|/tmp/\.ses|/tmp|/"
    # Below a file there is nothing: where ONNX Runtime is told to look for external data.
    r"|/dev/null/.*"
)
CALL = re.compile(r'^(?:\d+\s+)?(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)$')
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?')
FOLDER = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")
RESULT = re.compile(r"= \d+<([^>]*)>$")
LINKS = {"readlink", "readlinkat"}


def unescape(text):
    return text.encode("latin-1", "replace").decode("unicode_escape").encode("latin-1", "replace").decode("utf-8", "replace")


def paths_of(trace):
    """The paths in the lines of strace, each with its line: those that were asked for, and those that they led to."""
    for line in trace.read_text(errors="replace").splitlines():
        call = CALL.match(line)
        if not call or call[1] in ("execve", "getcwd", "exit_group") or "+++" in line[:16] or "---" in line[:16]:
            continue
        arguments = call[2]
        text = TEXT.search(arguments)
        if text and "resumed>" not in line:
            at = FOLDER.match(arguments)
            path = unescape(text[1])
            if path or not at:
                yield path if path.startswith("/") or not at else f"{at[1]}/{path}", line
        led_to = RESULT.search(line)
        if led_to:
            yield unescape(led_to[1]), line


def check_trace(trace, place, allowed, who):
    """Every path has to be of the system, or one of these files and folders; returns how many there were."""
    allowed = [str(path) for path in allowed]
    library, home = str(LIBRARY.parent), str(place.home)
    above = {str(folder) for path in [*allowed, library, str(PROGRAM), home] for folder in Path(path).parents}
    count = 0
    for path, line in paths_of(trace):
        count += 1
        path = path.removesuffix(" (deleted)")
        normal = os.path.normpath(path if path.startswith("/") else place.cwd / path)
        inside = any(normal == one or normal.startswith(one + "/") for one in [*allowed, library, home])
        # `config/leeway.toml` is the configuration; it is not there.
        own = normal in (str(PROGRAM), str(place.cwd), str(place.cwd / "config/leeway.toml"))
        fine = (inside and ".." not in path.split("/")) or own or normal in above or SYSTEM.fullmatch(normal)
        if not fine:
            fail(f"{who} reaches {path!r}: {line[:300]}")
    return count


STRACE = ["strace", "-f", "-qq", "-y", "-s", "4096", "-e", "trace=%file", "-e", "signal=none"]


def traced(trace, *arguments):
    return [*STRACE, "--seccomp-bpf", "-o", str(trace), str(PROGRAM), *map(str, arguments)]


# ===== versions =====


def write_files(mutant, folder):
    for name, content in mutant.files.items():
        to = folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            to.symlink_to(content)
        else:
            to.write_bytes(content)


def write_manifest(mutant, folder):
    """By hand, of everything that the mutant has, links too."""
    lines = ["format = 1", "[files]"]
    for name, content in mutant.files.items():
        content = SECRET.encode() if isinstance(content, str) else content
        lines.append(f"{json.dumps(name)} = \"{hashlib.sha256(content).hexdigest()}\"")
    (folder / "version.toml").write_text("\n".join(lines) + "\n")


def model_folder(repository, name):
    folder = repository / name
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(MODEL_TOML)
    return folder


def reason(text):
    """The kind of a refusal: its first words, without what differs from model to model."""
    text = re.sub(r"^(error: |\S+: )+", "", text.strip().splitlines()[-1] if text.strip() else "nothing said")
    text = re.sub(r'"[^"]*"|\'[^\']*\'|[-\d.]+|/\S+|\([^)]*\)', "…", text)
    return " ".join(text.split()[:9])


# ===== round 1: add =====


def add_one(place, number, mutant, repository):
    name = f"m{number:03}"
    incoming = place.base / "incoming" / name
    write_files(mutant, incoming)
    folder = model_folder(repository, name)
    trace = place.base / f"trace-{name}"
    # What an operator names is read, wherever a link leads: links are tried in versions that lie in a repository.
    beside = [incoming / file for file, content in mutant.files.items() if file != MODEL and "/" not in file and isinstance(content, bytes)]
    arguments = ["add", folder, "--onnx", incoming / MODEL]
    for file in beside:
        arguments += ["--data-file", file]
    begin = time.monotonic()
    process = subprocess.Popen(
        traced(trace, *arguments), cwd=place.cwd, env=place.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=ADD_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        fail(f"add of {name} ({mutant.what}) takes more than {ADD_LIMIT_S} s")
    took = time.monotonic() - begin
    said = (out + err).decode(errors="replace")
    if SECRET[:20] in said:
        fail(f"add of {name} ({mutant.what}) tells a secret: {said[:300]}")
    if re.search(r"panicked|RUST_BACKTRACE", said):
        fail(f"add of {name} ({mutant.what}) panics: {said[-600:]}")
    if process.returncode not in (0, 1):
        fail(f"add of {name} ({mutant.what}) ends with {process.returncode}: {said[-300:]}")
    if re.search(r"[\0-\x08\x0b-\x1f]", said):
        fail(f"add of {name} ({mutant.what}) writes control characters: {said[-300:]!r}")
    if len(said) > 20_000:
        fail(f"add of {name} ({mutant.what}) writes {len(said)} bytes")
    left = sorted(path.name for path in folder.iterdir())
    if left != (["1", "model.toml"] if process.returncode == 0 else ["model.toml"]):
        fail(f"add of {name} ({mutant.what}) leaves {left} behind")
    paths = check_trace(trace, place, [incoming, folder], f"add of {name} ({mutant.what})")
    trace.unlink()
    return process.returncode == 0, reason(said), took, paths


def round_of_adds(place, made):
    repository = place.base / "added"
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        results = list(pool.map(lambda one: add_one(place, *one, repository), enumerate(made)))
    taken = [number for number, result in enumerate(results) if result[0]]
    table("leeway add", made, [None if result[0] else result[1] for result in results])
    print(f"  longest {max(result[2] for result in results):.1f} s; {sum(result[3] for result in results)} paths looked at\n")
    return repository, taken


def table(title, made, reasons):
    """How many of each family were taken and refused, and why."""
    taken = collections.Counter(mutant.family for mutant, why in zip(made, reasons) if why is None)
    refused = collections.Counter(mutant.family for mutant, why in zip(made, reasons) if why is not None)
    print(f"\n{title}: {sum(taken.values())} taken, {sum(refused.values())} refused")
    for family in dict.fromkeys(mutant.family for mutant in made):
        print(f"  {family:<14} {taken[family]:>4} taken {refused[family]:>4} refused")
    for why, count in collections.Counter(why for why in reasons if why is not None).most_common():
        print(f"  {count:>4} × {why}")


# ===== rounds 2 and 3: a server =====


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    def __init__(self, place, name, repository, **settings):
        self.place, self.name, self.trace, self.log = place, name, place.base / f"trace-{name}", place.base / f"log-{name}"
        self.repository = repository
        self.port, self.admin = free_port(), free_port()
        environment = place.environment(
            LEEWAY_HTTP__LISTEN=f"127.0.0.1:{self.port}", LEEWAY_ADMIN__LISTEN=f"127.0.0.1:{self.admin}",
            LEEWAY_REPOSITORY__PATH=str(repository), LEEWAY_REPOSITORY__POLL_INTERVAL_MS="2000",
            LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS="0", **settings,
        )
        with self.log.open("wb") as log:
            self.strace = subprocess.Popen(
                traced(self.trace, "serve"), cwd=place.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_for("it is ready", lambda: self.status_of("GET", "/readyz") == 200, 120)
        self.pid = self.processes()[0]

    def processes(self):
        children = Path(f"/proc/{self.strace.pid}/task/{self.strace.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if self.strace.poll() is None else [0]

    def wait_for(self, what, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            if self.strace.poll() is not None:
                raise RuntimeError(f"{self.name} has ended: {self.log.read_text(errors='replace')[-2000:]}")
            if time.monotonic() > end:
                return fail(f"{self.name}: {what} has not come true in {seconds} s")
            time.sleep(0.1)

    def ask(self, method, path, body=None, port=None, timeout=30):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status_of(self, *request, **more):
        try:
            return self.ask(*request, **more)[0]
        except OSError:
            return None

    def versions(self):
        """State and problem of each model's version."""
        models = json.loads(self.ask("GET", "/admin/v1/models", port=self.admin)[1])["models"]
        return {
            model["model"]: (version["state"], version.get("problem") or "", model.get("problem") or "")
            for model in models for version in model["versions"][:1]
        }

    def stop(self):
        if self.processes()[0] != self.pid:
            fail(f"{self.name} is not the process any more that it was")
            return
        os.kill(self.pid, signal.SIGTERM)
        try:
            if self.strace.wait(60) != 0:
                fail(f"{self.name} ends with {self.strace.returncode}")
        except subprocess.TimeoutExpired:
            fail(f"{self.name} does not end")
            os.kill(self.pid, signal.SIGKILL)
        log = self.log.read_text(errors="replace")
        if "panicked" in log:
            fail(f"{self.name} has panicked: {log[log.index('panicked') - 200:][:600]}")
        if SECRET[:20] in log:
            fail(f"{self.name} has logged a secret")
        paths = check_trace(self.trace, self.place, [self.repository], self.name)
        print(f"  {paths} paths looked at, {len(log.splitlines())} lines of log\n")


class HonestClient:
    """Asks a model that is as it should be, all the time."""

    def __init__(self, server):
        self.server, self.done, self.answers, self.longest = server, threading.Event(), collections.Counter(), 0.0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.done.wait(0.05):
            begin = time.monotonic()
            try:
                status, body = self.server.ask("POST", "/v1/models/honest:predict", b'{"instances": [[0, 0], [1, 2]]}')
                right = status == 200 and json.loads(body)["predictions"] == [[1.0, 1.0], [2.0, 3.0]]
                self.answers[status if right or status != 200 else "wrong"] += 1
            except OSError as error:
                self.answers[repr(error)] += 1
            self.longest = max(self.longest, time.monotonic() - begin)

    def stop(self):
        self.done.set()
        self.thread.join()
        print(f"  honest model: {dict(self.answers)}, longest {self.longest * 1000:.0f} ms")
        if set(self.answers) != {200}:
            fail(f"{self.server.name}: the honest model is not always answered: {dict(self.answers)}")


def requests_for(mutant):
    """Some requests that may fit, and some that do not."""
    yield {"instances": [[0, 0]]}
    yield {"instances": [[1, 2], [-1e30, 3]]}
    yield {"instances": [["a", "b"]]}
    try:
        model = onnx.load_from_string(mutant.files[MODEL])
        inputs = [value for value in model.graph.input if value.name not in {one.name for one in model.graph.initializer}]
    except Exception:
        return
    if not inputs or len(inputs) > 10:
        return
    for filling in (0, 1, -1, 0.5):
        row = {}
        for value in inputs:
            dims = [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim][1:]
            if any(dim < 0 for dim in dims) or np.prod(dims, dtype=float) > 1e6 or len(dims) > 20:
                return
            of = value.type.tensor_type.elem_type
            kind = {onnx.TensorProto.STRING: str(filling), onnx.TensorProto.BOOL: filling == 1}
            whole = of not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
            row[value.name[:1000]] = np.full(dims, kind.get(of, int(abs(filling)) if whole else filling)).tolist()
        row = next(iter(row.values())) if len(row) == 1 else row
        for count in (1, 3):
            yield {"instances": [row] * count}


def ask_all(server, made, names):
    statuses = collections.Counter()
    for name in names:
        mutant = made[int(name[1:])]
        for request in requests_for(mutant):
            try:
                status, body = server.ask("POST", f"/v1/models/{name}:predict", json.dumps(request).encode())
            except OSError as error:
                fail(f"{server.name}: {name} ({mutant.what}) is not answered: {error!r}")
                if server.strace.poll() is not None or server.processes()[0] != server.pid:
                    raise RuntimeError(f"{server.name} has ended: {server.log.read_text(errors='replace')[-2000:]}")
                continue
            statuses[status] += 1
            if SECRET[:20].encode() in body:
                fail(f"{server.name}: {name} ({mutant.what}) answers with a secret")
            if re.search(rb"[\0-\x09\x0b-\x1f]", body):
                fail(f"{server.name}: {name} ({mutant.what}) answers with control characters")
            if status >= 400 and len(body) > 20_000:
                fail(f"{server.name}: {name} ({mutant.what}) answers {status} with {len(body)} bytes")
    print(f"  requests to what is loaded: {dict(sorted(statuses.items()))}")


def round_of_loads(place, made, title, numbers, put, **settings):
    """A server that has one honest model is given these, some at a time."""
    repository = place.base / f"repository-{title}"
    honest = model_folder(repository, "honest")
    subprocess.run(
        [PROGRAM, "add", honest, "--onnx", ROOT / "tests/data/models/plus_1.onnx"],
        env=place.environment(), cwd=place.cwd, check=True, stdout=subprocess.DEVNULL,
    )
    server = Server(place, title, repository, **settings)
    client = HonestClient(server)
    states = {}
    begin = time.monotonic()
    try:
        for start in range(0, len(numbers), BATCH):
            batch = [f"m{number:03}" for number in numbers[start : start + BATCH]]
            for name in batch:
                put(name, repository / name)
            settled = lambda: {name for name, (state, _, _) in server.versions().items() if state in ("loaded", "refused")}
            server.wait_for(f"{batch[0]} to {batch[-1]} are loaded or refused", lambda: settled() >= set(batch), LOAD_LIMIT_S + BATCH)
        states = server.versions()
        took = time.monotonic() - begin
        loaded = [f"m{number:03}" for number in numbers if states.get(f"m{number:03}", [""])[0] == "loaded"]
        problem = lambda name: states.get(name, ("", "not found", ""))[1]
        names = [f"m{number:03}" for number in numbers]
        table(f"a server, {title}", [made[number] for number in numbers], [None if name in loaded else reason(problem(name)) for name in names])
        print(f"  {took:.0f} s for all")
        ask_all(server, made, loaded)
    finally:
        client.stop()
        server.stop()
    left = [path.name for folder in repository.iterdir() for path in folder.iterdir() if path.name.startswith(".")]
    if left:
        fail(f"{title}: {left} are left behind")
    return loaded


def processes_in(base):
    """Processes that are still there."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and Path(os.readlink(folder / "cwd")).is_relative_to(base):
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:100])
        except OSError:
            continue
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=500)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep", action="store_true", help="keep the folder with all files")
    options = arguments.parse_args()
    if not shutil.which("strace"):
        print("strace is not here: install the package strace; without it nobody sees which files are read")
        return 1
    place = Place(Path(tempfile.mkdtemp(prefix="leeway-mutants-")).resolve())
    made = mutants(options.count, options.seed, place.outside)
    print(f"{len(made)} mutants of seed {options.seed}, in {place.base}")
    begin = time.monotonic()
    try:
        added, taken = round_of_adds(place, made)

        def discovered(name, to):
            hidden = to.with_name("." + name)
            version = hidden / "1"
            model_folder(to.parent, hidden.name)
            write_files(made[int(name[1:])], version)
            write_manifest(made[int(name[1:])], version)
            hidden.rename(to)

        loaded = round_of_loads(place, made, "discovered", list(range(len(made))), discovered)
        refused_once = {f"m{number:03}" for number in taken} - set(loaded)
        if refused_once:
            fail(f"taken by `leeway add`, and not loaded by a server: {sorted(refused_once)}")
        round_of_loads(
            place, made, "untried", taken, lambda name, to: (added / name).rename(to), LEEWAY_LOADING__TRIAL="false"
        )
        left = processes_in(place.base)
        if left:
            fail(f"processes are left behind: {left}")
    finally:
        if not options.keep:
            shutil.rmtree(place.base, ignore_errors=True)
    print(f"{time.monotonic() - begin:.0f} s; " + (f"FAIL: {len(failures)}" if failures else "PASS"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
