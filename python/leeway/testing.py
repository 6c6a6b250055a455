"""A Leeway server for tests, on free ports, with its state in memory.

    with leeway.testing.serve("models") as server:
        assert server.client().predict("churn", rows)[0]["label"] == "stays"

As a fixture of pytest, in `conftest.py`:

    churn_server = leeway.testing.fixture("models")

and then `def test_churn(churn_server: leeway.testing.Server) -> None: ...`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from leeway.client import Client
from leeway.errors import LeewayError
from leeway.executable import program

#: Settings of a server for tests. Nothing waits for a load balancer, and no other server is in the way.
_SETTINGS = {
    "LEEWAY_HTTP__LISTEN": "127.0.0.1:0",
    "LEEWAY_ADMIN__LISTEN": "127.0.0.1:0",
    "LEEWAY_STATE__URL": "memory",
    "LEEWAY_LOG__FORMAT": "json",
    "LEEWAY_LOG__LEVEL": "info",
    "LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS": "0",
    "LEEWAY_SHUTDOWN__GRACE_PERIOD_MS": "2000",
}


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str, admin_url: str, log: list[str]) -> None:
        self._process = process
        self._log = log
        self.url = url
        self.admin_url = admin_url

    def client(self, *, api_key: str | None = None, timeout_s: float = 30.0) -> Client:
        """Returns a client of this server."""
        return Client(self.url, api_key=api_key, timeout_s=timeout_s)

    def log(self) -> str:
        """Returns what the server has logged so far."""
        return "".join(self._log)

    def stop(self) -> int:
        """Stops the server as an orchestrator does, and returns its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


@contextmanager
def serve(models: str | Path, *, settings: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> Iterator[Server]:
    """Serves a folder of models while the block runs.

    `settings` are environment variables, as in {"LEEWAY_HTTP__THREADS": "1"}. `timeout_s` is the longest start.
    """
    server = start(models, settings=settings, timeout_s=timeout_s)
    try:
        yield server
    finally:
        server.stop()


def start(models: str | Path, *, settings: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> Server:
    """Starts a server, and waits until it is ready. Call `stop` on it, or use `serve` instead."""
    models = Path(models).resolve()
    if not models.is_dir():
        raise LeewayError(f"{models}: there is no such folder with models")
    # A configuration file of the working folder is not for this server.
    folder = tempfile.TemporaryDirectory(prefix="leeway-test-")
    process = subprocess.Popen(
        [str(program()), "serve", "--models", str(models)],
        cwd=folder.name,
        env={**os.environ, **_SETTINGS, **(settings or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    starting = _Starting(process, folder)
    threading.Thread(target=starting.read, name="leeway-log", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    addresses = starting.wait(deadline)
    if addresses is None:
        process.kill()
        process.wait()
        raise LeewayError(f"leeway did not start within {timeout_s:g} s; its log:\n{''.join(starting.log)}")
    server = Server(process, f"http://{addresses.data}", f"http://{addresses.admin}", starting.log)
    with Client(server.url) as client:
        while not client.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                server.stop()
                raise LeewayError(f"leeway did not become ready; its log:\n{server.log()}")
            time.sleep(0.01)
    return server


def fixture(models: str | Path, *, scope: str = "session", settings: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Returns a fixture of pytest that serves a folder of models."""
    # pytest is a package of those who test.
    import pytest

    def server() -> Iterator[Server]:
        with serve(models, settings=settings) as running:
            yield running

    made: Callable[..., Any] = pytest.fixture(scope=scope)(server)  # type: ignore[call-overload,unused-ignore]
    return made


@dataclass(frozen=True)
class _Addresses:
    data: str
    admin: str


class _Starting:
    """Reads the log of a server that starts, in which its addresses are fields of a line of JSON."""

    def __init__(self, process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
        self._process = process
        self._folder = folder
        self._found: _Addresses | None = None
        self._done = threading.Event()
        self.log: list[str] = []

    def read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if not self._done.is_set():
                self._look_at(line)
        self._done.set()
        self._folder.cleanup()

    def _look_at(self, line: str) -> None:
        try:
            fields = json.loads(line)
            data, admin = fields["data"], fields["admin"]
        except (ValueError, KeyError, TypeError):
            return
        self._found = _Addresses(data.split(", ")[0], admin.split(", ")[0])
        self._done.set()

    def wait(self, deadline: float) -> _Addresses | None:
        """Returns the addresses; None if the server has ended, or did not say them in time."""
        self._done.wait(max(0.0, deadline - time.monotonic()))
        return self._found
