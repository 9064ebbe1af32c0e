"""The command line in this process: what a call returned, and that it was one problem in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        return self.err.splitlines()


Invoke = Callable[..., Done]


def change(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return path


def assert_one_problem(done: Done, *parts: str) -> None:
    assert done.code == 2
    assert done.out == ""
    (problem,) = done.problems
    assert problem.startswith("detmodes: ")
    for part in parts:
        assert part in problem
