#!/usr/bin/env python3
"""Builds the console: its TypeScript types from the admin API of this program, and its files into console/dist, which are committed.

    make console                       # needs Node.js; installs what console/package-lock.json names into console/node_modules

The tests compare both with what is committed.
"""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = ROOT / "console"
PROGRAM = Path(os.environ.get("LEEWAY", ROOT / "target/quick/leeway")).resolve()


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket, which needs no free port."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def document():
    """The OpenAPI document of the admin listener, by a server without models."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "models").mkdir()
        environment = os.environ | {
            "LEEWAY_HTTP__LISTEN": f"unix:{scratch}/data",
            "LEEWAY_ADMIN__LISTEN": f"unix:{scratch}/admin",
            "LEEWAY_ADMIN__TOKEN": "only-for-the-document-0123456789",
            "LEEWAY_STATE__URL": f"sqlite:{scratch}/leeway.db",
        }
        command = [PROGRAM, "serve", "--models", scratch / "models"]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as server:
            try:
                return read(scratch / "admin", server)
            finally:
                server.terminate()


def read(admin, server):
    for _ in range(600):
        if server.poll() is not None:
            sys.exit(f"error: the server did not start:\n{server.stderr.read()}")
        try:
            connection = UnixConnection(admin)
            connection.request("GET", "/openapi.json")
            return connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
    sys.exit("error: the server did not start within a minute")


def run(*command):
    if subprocess.run(command, cwd=CONSOLE, check=False).returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} failed")


def main():
    if not shutil.which("npm"):
        sys.exit("error: there is no Node.js here; install it, so that node and npm are on the PATH")
    run("npm", "ci", "--silent", "--no-audit", "--no-fund")
    with tempfile.TemporaryDirectory() as scratch:
        (file := Path(scratch) / "openapi.json").write_bytes(document())
        run("npx", "--no-install", "openapi-typescript", file, "--output", "src/api.d.ts")
    run("npm", "run", "--silent", "build")


if __name__ == "__main__":
    main()
