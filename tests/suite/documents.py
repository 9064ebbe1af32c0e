"""A suite without a mistake, and the mistakes of what is changed in it."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import ConfigError
from harness.suite.load import parse

GOOD: dict[str, Any] = {
    "suite": "s",
    "benchmark": {"name": "shapes"},
    "models": ["open_flamingo"],
    "objectives": ["ce", {"name": "sed_sft", "label": "sed", "mask": "none"}],
    "seeds": [0, 1],
}


def problems(changes: dict[Any, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        parse({**GOOD, **changes}, "file.yaml")
    assert all(problem.startswith("file.yaml: ") and "\n" not in problem for problem in error.value.problems)
    return tuple(problem.removeprefix("file.yaml: ") for problem in error.value.problems)
