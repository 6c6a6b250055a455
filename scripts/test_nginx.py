#!/usr/bin/env python3
"""Two replicas behind a real nginx with the shipped configuration: rolling restarts, and a replica that is killed, under load.

    make test-nginx                                  # needs root for apt, if nginx is missing; installs oha into .bench

64 clients ask without a pause while the replicas are restarted in turn, 50 times (LEEWAY_RESTARTS): no request may fail. Then,
under the same load, they are killed in turn with SIGKILL, six times: nginx asks the other one again, so that none may fail either.
Last, replicas that refuse most requests, as under overload: nginx must not leave them alone for it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OHA = ROOT / ".bench/bin/oha"
RESTARTS = int(os.environ.get("LEEWAY_RESTARTS", "50"))
KILLS = 6
PORTS = {18180: 18181, 18182: 18183}
NGINX = 18190


def get(port, path="/readyz"):
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def until(question, what, seconds=60):
    end = time.monotonic() + seconds
    while not question():
        if time.monotonic() > end:
            sys.exit(f"error: {what} did not come true in {seconds} s")
        time.sleep(0.02)


class Replicas:
    """Two of them, ended with the test."""

    def __init__(self, state):
        self.state, self.processes = state, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def start(self, port, **settings):
        self.processes[port] = process = start_replica(port, self.state, **settings)
        until(lambda: get(port) == 200 or process.poll() is not None, f"readiness of {port}")
        if process.poll() is not None:
            sys.exit(f"error: the replica at {port} ended with {process.returncode}")

    def end(self, port, how):
        self.processes[port].send_signal(how)
        return self.processes[port].wait(60)


def start_replica(port, state, **settings):
    environment = os.environ | {
        "LEEWAY_HTTP__LISTEN": f"127.0.0.1:{port}",
        "LEEWAY_ADMIN__LISTEN": f"127.0.0.1:{PORTS[port]}",
        "LEEWAY_REPOSITORY__DEFAULT_MODEL": "digits",
        "LEEWAY_STATE__URL": f"sqlite:{state}/leeway.db",
        # nginx tells by the first 503, and needs no time to notice.
        "LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS": "500",
        "LEEWAY_LOG__LEVEL": "warn",
        **settings,
    }
    return subprocess.Popen([ROOT / "target/release/leeway", "serve"], cwd=ROOT, env=environment)


@contextlib.contextmanager
def running_nginx(folder):
    """The shipped configuration, with these ports in place of its own, as a server of its own."""
    site = (ROOT / "deploy/nginx/leeway.conf").read_text()
    first, second = PORTS
    ours = {"127.0.0.1:8080": f"127.0.0.1:{first}", "127.0.0.2:8080": f"127.0.0.1:{second}", "listen 80 default_server;": f"listen 127.0.0.1:{NGINX};"}
    for before, after in ours.items():
        if before not in site:
            sys.exit(f"error: deploy/nginx/leeway.conf has no {before}")
        site = site.replace(before, after)
    (folder / "leeway.conf").write_text(site)
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log warn; events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; {paths} include {folder}/leeway.conf; }}\n"
    )
    started = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"])
    try:
        until(lambda: get(NGINX) == 200 or started.poll() is not None, "an answer of nginx")
        if started.poll() is not None:
            sys.exit(f"error: nginx ended with {started.returncode}")
        yield
    finally:
        # Not killed: its workers would go on.
        started.terminate()
        started.wait(30)


class Load:
    """64 clients that ask until they are told to stop."""

    def __init__(self, folder):
        rows = json.loads((ROOT / "tests/data/digits_held_out.json").read_text())["instances"]
        body = folder / "body.json"
        body.write_text(json.dumps({"instances": rows[:1]}))
        command = [OHA, "--no-tui", "--output-format", "json", "-z", "3600s", "-c", "64", "-m", "POST"]
        command += ["-H", "content-type: application/json", "-D", body, f"http://127.0.0.1:{NGINX}/predict"]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """How many were answered with which status, and how many were not answered. Those that are under way do not count."""
        self.process.send_signal(signal.SIGINT)
        report = json.loads(self.process.communicate(timeout=60)[0])
        errors = {what: count for what, count in report["errorDistribution"].items() if "aborted due to deadline" not in what}
        return report["statusCodeDistribution"], errors


def main():
    # As Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not shutil.which("nginx"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "nginx-light"], check=True)
    if not OHA.exists():
        subprocess.run(["cargo", "install", "--quiet", "--locked", "oha", "--version", "1.16.0", "--root", ROOT / ".bench"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        with Replicas(folder) as replicas:
            for port in PORTS:
                replicas.start(port)
            with running_nginx(folder):
                restarts(replicas, folder)
                kills(replicas, folder)
                refusals(replicas, folder)


def restarts(replicas, folder):
    begin = time.monotonic()
    with Load(folder) as load:
        for port in in_turn(RESTARTS):
            if (code := replicas.end(port, signal.SIGTERM)) != 0:
                sys.exit(f"error: the replica ended with {code}")
            replicas.start(port)
            # nginx does not ask it again before its fail_timeout of a second is over: then the next one's turn has come.
            time.sleep(1.5)
        expect_only({"200"}, load, folder, f"{RESTARTS} rolling restarts in {time.monotonic() - begin:.0f} s")


def kills(replicas, folder):
    with Load(folder) as load:
        time.sleep(2)
        for port in in_turn(KILLS):
            replicas.end(port, signal.SIGKILL)
            time.sleep(1)
            replicas.start(port)
            # It was refused until now: nginx asks it again two to three seconds later, by its clock of whole seconds.
            time.sleep(3.5)
        expect_only({"200"}, load, folder, f"{KILLS} times a replica killed")


def refusals(replicas, folder):
    """Replicas that refuse most of what comes: their 503 reaches the client, and nginx asks both of them on."""
    for port in PORTS:
        replicas.end(port, signal.SIGKILL)
        replicas.start(port, LEEWAY_HTTP__CONNECTION_LIMIT="4")
    time.sleep(2)
    with Load(folder) as load:
        time.sleep(5)
        expect_only({"200", "503"}, load, folder, "replicas that refuse")


def in_turn(times):
    return (list(PORTS)[turn % 2] for turn in range(times))


def expect_only(wanted, load, folder, what):
    statuses, errors = load.stop()
    print(f"{what}: {statuses}, not answered: {errors or 'none'}", flush=True)
    if set(statuses) != wanted or errors:
        print((folder / "error.log").read_text()[-2000:])
        sys.exit(f"error: every request should have been answered, with {' and '.join(sorted(wanted))}")


if __name__ == "__main__":
    main()
