"""Runs that are killed, and what they leave: `detmodes run` in processes that die where a test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from harness.suite.schema import Suite
from harness.system import files

ROOT = Path(__file__).parents[3]
Place = tuple[str, str, int, str]
"""Module, attribute, which of its calls, and what happens there: see tests.support.processes.kill_server."""


class Attempt(NamedTuple):
    """status: exit code, or minus the signal that ended the process."""

    status: int
    seconds: float
    stdout: str
    stderr: str

    @property
    def printed(self) -> str:
        return self.stdout + self.stderr


class Program:
    """`detmodes` in a new process each time, which need not import `modules` anew (see kill_server)."""

    def __init__(
        self, folder: Path, modules: tuple[str, ...], place: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> None:
        self._streams = {name: folder / f"{name}.txt" for name in ("stdout", "stderr")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes.kill_server", *modules],
            cwd=place,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str, after: float | None = None, at: Place | None = None) -> Attempt:
        """Runs the command, and ends it after so many seconds or at this place."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        streams = {name: str(path) for name, path in self._streams.items()}
        request = {"arguments": arguments, "after": after, "at": at, **streams}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        stdout, stderr = (path.read_text() for path in self._streams.values())
        return Attempt(answer["status"], answer["seconds"], stdout, stderr)

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


class Server(Program):
    """`detmodes run` on a suite."""

    MODULES = ("benchmarks.shapes", "harness.commands.console", "harness.run.runner", "model_zoo.flamingo.toy")

    def __init__(self, folder: Path, suite: Suite) -> None:
        super().__init__(folder, self.MODULES)
        self._suite = suite_file(folder, suite)

    def run(
        self,
        output: Path,
        only: str = "open_flamingo-*",
        after: float | None = None,
        at: Place | None = None,
        every: int = 1,
    ) -> Attempt:
        """Runs the cells whose names match `only`."""
        return self.start(*arguments(self._suite, output, every, only), after=after, at=at)


def suite_file(folder: Path, suite: Suite) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite.model_dump(mode="json", exclude_defaults=True)))
    return path


def arguments(suite: Path, output: Path, every: int, matching: str = "open_flamingo-*") -> list[str]:
    """Of the program, with a snapshot after so many steps."""
    only = ["--only", matching, "--snapshot-every", str(every)]
    return ["run", str(suite), "--output", str(output), "--device", "cpu", "--quiet", *only]


def outcome(output: Path) -> dict[str, Any]:
    """Every file of every cell: digests, the record without what differs between two runs, and the log without
    its times. Hidden folders count too: there must be none."""
    return {folder.name: cell_outcome(folder) for folder in sorted((output / "cells").iterdir())}


def cell_outcome(folder: Path) -> dict[str, Any]:
    left: dict[str, Any] = {
        path.name: files.sha256(path) if path.is_file() else "a folder" for path in sorted(folder.iterdir())
    }
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    left["metrics.jsonl"] = [timeless(json.loads(line)) for line in lines]
    record = json.loads((folder / "record.json").read_text())
    assert record["files"].pop("metrics.jsonl") == files.sha256(folder / "metrics.jsonl")
    record["curve"] = [timeless(row) for row in record["curve"]]
    left["record.json"] = {key: value for key, value in record.items() if key not in ("timings", "own_peak_mib")}
    return left


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("seconds", "waiting")}


def counted(monkeypatch: pytest.MonkeyPatch, target: str) -> list[int]:
    """Grows by one with each call of `module.function`."""
    module, _, name = target.rpartition(".")
    original, calls = getattr(sys.modules[module], name), []

    def counting(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        return original(*arguments, **settings)

    monkeypatch.setattr(target, counting)
    return calls


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
