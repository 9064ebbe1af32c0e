"""What a part of another package (a model, a benchmark, an objective, ...) must have, asked at the door.

A mistake in it is one line with the package, the entry point and what was expected, not a fault of detmodes. (What a
benchmark's examples must be is in harness.benchmark_checks; `detmodes check KIND NAME` asks much more.)
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DetmodesError

CONTRACTS = {
    "model": "a class as harness.protocols describes an Adapter",
    "benchmark": "a class as harness.protocols describes a Benchmark",
    "corrector": "a function as harness.protocols describes a Corrector",
    "objective": "an ObjectiveSpec (harness.objectives.spec) with its function",
    "reward": "a Reward (harness.metrics.samples.reward)",
    "stage": "a class of StageSettings (harness.suite.stage_base) with make(plan, work)",
    "family": "a Family (model_zoo.vlm.family)",
    "measure": "an ImageMeasure (harness.metrics.image_measures)",
}
PREDICTOR = ("codec", "generate", "describe")
TRAINABLE = ("model", "pixels", "logits", "save", "load")
"""What an adapter has beside PREDICTOR: all of it, or nothing of it where it cannot be trained."""
SHOWN = 300
"""Characters of another package's error."""


@contextmanager
def blaming(kind: str, name: str, point: EntryPoint | None, doing: str) -> Iterator[None]:
    """Turns what another package's code raises into a ConfigError that names it.

    Errors of detmodes pass, and so does lack of memory and what belongs to files, for which there are better words.
    point: by which the other package brings the name; None for detmodes' own, of which nothing is caught.
    """
    try:
        yield
    except (DetmodesError, MemoryError, OSError, ModuleNotFoundError):
        raise
    except (Exception, SystemExit) as error:
        if point is None or "out of memory" in str(error):
            raise
        told = f"{type(error).__name__}: {error}".removesuffix(": ")
        told = " ".join(told.split())[:SHOWN]
        contract = f"; its contract: {CONTRACTS[kind]}"
        raise ConfigError(f"{origin(kind, name, point)}: {doing} failed: {told}{_line(error)}{contract}") from error


def require_class(kind: str, name: str, point: EntryPoint | None, made_by: Any) -> None:
    """ConfigError where what an entry point names is not what its group is for."""
    if point is None:
        return
    if not callable(made_by):
        raise ConfigError(_expectation(kind, name, point, f"got {type(made_by).__name__}"))
    if kind != "corrector" and not callable(getattr(made_by, "problems", None)):
        raise ConfigError(_expectation(kind, name, point, "it has no static method problems(settings)"))


def require_kind(kind: str, name: str, point: EntryPoint, part: Any, is_one: Callable[[Any], bool]) -> None:
    """ConfigError where what an entry point names is no part of this kind."""
    if not is_one(part):
        raise ConfigError(_expectation(kind, name, point, f"got {part!r:.60}"))


def require_lines(kind: str, name: str, point: EntryPoint | None, problems: Any) -> list[str]:
    """What `problems` of a class gave, which must be texts. ConfigError where they are not."""
    texts = isinstance(problems, list | tuple) and all(isinstance(problem, str) for problem in problems)
    if point is not None and not texts:
        raise ConfigError(_expectation(kind, name, point, f"problems() gave {problems!r:.60}, not a list of texts"))
    return list(problems)


def require_methods(name: str, point: EntryPoint | None, made: Any) -> None:
    """ConfigError where a model lacks methods: it has all of an Adapter, or nothing of what trains one."""
    if point is None:
        return
    missing = [method for method in PREDICTOR if not hasattr(made, method)]
    absent = [method for method in TRAINABLE if not hasattr(made, method)]
    missing += absent if len(absent) < len(TRAINABLE) else []
    if missing:
        raise ConfigError(_expectation("model", name, point, f"it has no {', '.join(missing)}"))


def require_json(name: str, point: EntryPoint | None, described: Any) -> dict[str, Any]:
    """What `describe` of a model gave, which must be a mapping of JSON values. ConfigError where it is not."""
    if point is None:
        return dict(described)
    try:
        json.dumps(described, allow_nan=False)
        problem = "" if isinstance(described, dict) else f"got {type(described).__name__}"
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"got: {' '.join(str(error).split())[:SHOWN]}"
    if problem:
        raise ConfigError(
            f"{origin('model', name, point)}: expected describe() to give a dict of JSON values, {problem}"
        )
    return dict(described)


def origin(kind: str, name: str, point: EntryPoint) -> str:
    """model mine (theirs 0.1, entry point mine = theirs.model:Mine)"""
    package = "" if point.dist is None else f"{point.dist.name} {point.dist.version}, "
    return f"{kind} {name} ({package}entry point {point.name} = {point.value})"


def _expectation(kind: str, name: str, point: EntryPoint, got: str) -> str:
    return f"{origin(kind, name, point)}: expected {CONTRACTS[kind]}; {got}"


def _line(error: BaseException) -> str:
    """Where in the package it was raised, for who writes it."""
    if isinstance(error, SyntaxError):
        return ""  # says it itself
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({Path(last.filename).name}, line {last.lineno})"
