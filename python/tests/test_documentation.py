"""docs/python.md and docs/your-own-model.md are followed to the letter: every example runs, and has its types."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import leeway
from conftest import CHECKOUT
from leeway.testing import Server

#: The server loads what is added while a test runs, when a command asks it to.
SETTINGS = {"LEEWAY_LOADING__TRIAL": "false", "LEEWAY_REPOSITORY__POLL_INTERVAL_MS": "100"}


@dataclass(frozen=True)
class Page:
    """A page of the documentation."""

    name: str

    def blocks(self, marker: str) -> list[str]:
        """Returns the fenced blocks that follow `<!-- marker -->`."""
        text = (CHECKOUT / "docs" / self.name).read_text(encoding="utf-8")
        return re.findall(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", text, flags=re.DOTALL)

    def block(self, marker: str) -> str:
        (found,) = self.blocks(marker)
        return found


PYTHON, YOUR_OWN_MODEL = Page("python.md"), Page("your-own-model.md")
EXAMPLES = PYTHON.blocks("example")
needs_pytorch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="make test-torch installs PyTorch")


class Folder:
    """A folder in which somebody follows the documentation, with the program and Python in its PATH."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "bin").mkdir()
        (path / "bin/leeway").symlink_to(leeway.program())
        (path / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (path / "bin/python").chmod(0o755)

    def write(self, page: Page, name: str, server: Server | None = None, kind: str = "file") -> None:
        code = page.block(f"{kind}: {name}")
        (self.path / name).write_text(code if server is None else here(code, server), encoding="utf-8")

    def run(self, *command: str, admin: str = "127.0.0.1:0") -> str:
        """Runs a command, and returns what it printed."""
        environment = {
            **os.environ,
            "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT / "python"),
            "LEEWAY_ADMIN__LISTEN": admin,
        }
        ended = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout


def here(text: str, server: Server) -> str:
    """Returns commands or code with the address of a server in place of the documented one."""
    return text.replace("http://127.0.0.1:8080", server.url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder in which docs/your-own-model.md was followed up to the training."""
    made = Folder(tmp_path_factory.mktemp("letter"))
    for name in ("data.py", "train.py"):
        made.write(YOUR_OWN_MODEL, name)
    check_export(made, "train")
    return made


def check_export(made: Folder, name: str) -> None:
    """Runs a training script, and compares what it prints with what is documented."""
    said = made.run("sh", "-ec", YOUR_OWN_MODEL.block(f"run: {name}"))
    documented = YOUR_OWN_MODEL.block(f"answer: {name}").splitlines()
    # The last lines may be left out.
    is_whole = documented[-1] != "…"
    for line, expected in zip(said.splitlines(), documented if is_whole else documented[:-1], strict=is_whole):
        # Paths, digests and differences depend on the machine.
        assert words(line) == words(expected), f"{line}\nis documented as\n{expected}"


def words(line: str) -> list[str]:
    """Returns the words of a line, without numbers, digests and paths."""
    # Whether answers differ in their last bits depends on the number of threads, which is measured.
    line = re.sub(r"exactly the same, (.*)|the same, (.*) \(largest difference .*\)", r"the same, \1\2", line)
    return [word for word in line.split() if not re.search(r"\d", word)]


@pytest.fixture(scope="module")
def server(folder: Folder) -> Iterator[Server]:
    with leeway.testing.serve(folder.path / "models", settings=SETTINGS) as running:
        yield running


def test_a_model_of_ones_own_is_served_as_documented(folder: Folder, server: Server) -> None:
    for name in ("churn", "no churn"):
        command = here(YOUR_OWN_MODEL.block(f"run: {name}"), server)
        answered = json.loads(folder.run("sh", "-ec", f'curl() {{ command curl -s "$@"; }}\n{command}'))
        check_answer(json.loads(YOUR_OWN_MODEL.block(f"answer: {name}")), answered)
    folder.write(YOUR_OWN_MODEL, "ask.py", server)
    assert re.fullmatch(r"\d+ of 100 will leave\n", folder.run("python", "ask.py"))


def check_answer(documented: Any, answered: Any, key: str = "") -> None:
    """Compares an answer with the documented one. Ids, digests and the last digits of numbers may be others."""
    if isinstance(documented, dict):
        assert list(documented) == list(answered), key
        for name, value in documented.items():
            check_answer(value, answered[name], name)
    elif isinstance(documented, list):
        assert len(documented) == len(answered), key
        for one, other in zip(documented, answered):
            check_answer(one, other, key)
    elif isinstance(documented, float):
        assert documented == pytest.approx(answered, abs=0.02), key
    elif key not in ("request_id", "prediction_ids", "sha256"):
        assert documented == answered, key


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_the_examples_run(folder: Folder, server: Server, number: int) -> None:
    (folder.path / "example.py").write_text(here(EXAMPLES[number], server), encoding="utf-8")
    folder.run("python", "example.py")


def test_the_example_of_a_fixture_runs(folder: Folder) -> None:
    for name in ("conftest.py", "test_churn.py"):
        folder.write(PYTHON, name)
    assert "1 passed" in folder.run("python", "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "test_churn.py")


def test_later_versions_wait_for_traffic_as_documented(folder: Folder, server: Server) -> None:
    admin = server.admin_url.removeprefix("http://")
    said = folder.run("bash", "-ec", YOUR_OWN_MODEL.block("run: second"), admin=admin)
    assert "Added version 2" in said and "gives it no traffic" in said
    assert "stable version 2" in said and said.rstrip().endswith("stable version 1, generation 4"), said
    # The first example of the other page is the third version.
    (folder.path / "example.py").write_text(EXAMPLES[0], encoding="utf-8")
    assert "Added version 3" in folder.run("python", "example.py")


@needs_pytorch
def test_the_examples_of_pytorch_run(tmp_path: Path) -> None:
    made = Folder(tmp_path)
    made.write(YOUR_OWN_MODEL, "network.py", kind="torch")
    check_export(made, "network")
    made.write(PYTHON, "topics.py", kind="torch")
    assert "The length of tokens is open; compared with 1, 6, 12, 13, 24." in made.run("python", "topics.py")
    with leeway.testing.serve(tmp_path / "models", settings=SETTINGS) as server:
        made.write(YOUR_OWN_MODEL, "ask_network.py", server, kind="torch")
        answered = made.run("python", "ask_network.py").strip()
        assert f"prints `{answered}`" in (CHECKOUT / "docs/your-own-model.md").read_text(encoding="utf-8")


@needs_pytorch
def test_the_examples_of_pytorch_have_types(tmp_path: Path) -> None:
    # PyTorch's `backward` has no types.
    scripts = [PYTHON.block("torch: topics.py"), YOUR_OWN_MODEL.block("torch: network.py")]
    check_types(tmp_path, scripts, "--allow-untyped-calls")


def test_the_examples_have_types(tmp_path: Path) -> None:
    scripts = [PYTHON.block("file: conftest.py"), PYTHON.block("file: test_churn.py")]
    scripts += [YOUR_OWN_MODEL.block(f"file: {name}.py") for name in ("data", "train", "ask")]
    scripts.append(YOUR_OWN_MODEL.block("torch: ask_network.py"))
    check_types(tmp_path, [*EXAMPLES, *scripts])


def check_types(tmp_path: Path, scripts: list[str], *options: str) -> None:
    paths = []
    for number, script in enumerate(scripts):
        paths.append(tmp_path / f"example_{number}.py")
        paths[-1].write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "--config-file", os.devnull]
    # pandas and scikit-learn come without types.
    command += ["--disable-error-code", "import-untyped", "--disable-error-code", "import-not-found", *options]
    environment = {**os.environ, "MYPYPATH": str(CHECKOUT / "python")}
    ended = subprocess.run([*command, *map(str, paths)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
