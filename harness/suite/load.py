"""Suite files: reading, and validation that finds every mistake at once. What each key means: harness.suite.schema.

A suite is data: YAML read with the safe loader, no code. In: a path or name, and what the command line sets otherwise
(`--set train.steps=20`). Out: a Suite, or a ConfigError with all that is wrong.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import registry
from harness.errors import ConfigError, shorten, unknown
from harness.suite.candidates import expand_sweep
from harness.suite.checks import content_problems, follows_from_another, reference_problems, schema_problem
from harness.suite.permissions import NOTHING, Permissions, permit_suite
from harness.suite.schema import Suite
from harness.suite.train_checks import train_problems
from harness.system.strict import impossible_values
from harness.yaml_text import read_yaml

MOST_PROBLEMS = 10
"""Values that no setting can have: a file that is no suite may have thousands."""
OTHER_LENGTH = {"steps": "epochs", "epochs": "steps"}


def _similar(path: Path) -> str:
    """Names the suite file beside a missing one that was probably meant; empty where there is none."""
    present = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, present, n=1)
    return f", did you mean {path.with_name(close[0])}?" if close else ""


def load(reference: str, permissions: Permissions | None = NOTHING, changes: Sequence[str] = ()) -> Suite:
    """Reads a suite by path, or by the name of a shipped one. ConfigError lists every mistake.

    Args:
        permissions: of the command line; None where no model of the suite is going to be built.
        changes: what is set otherwise than the file says, each as PATH=VALUE (see `set_values`).
    """
    shipped = registry.shipped_suites()
    path = Path(reference)
    if not path.is_file():
        if reference not in shipped:
            if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
                raise ConfigError(f"{reference}: no such suite file{_similar(path)}")
            raise ConfigError(unknown("suite", reference, shipped))
        path = shipped[reference]
    try:
        content = read_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: expected YAML: {' '.join(str(error).split())}") from None
    if not changes:
        return parse(content, str(path), permissions)
    content = set_values(content, changes) | {"overrides": tuple(changes)}
    return parse(content, f"{path} with --set {' --set '.join(changes)}", permissions)


def set_values(content: object, changes: Sequence[str]) -> dict[str, Any]:
    """Returns the content of a suite file with other values, which are not checked yet.

    Args:
        changes: `PATH=VALUE` each, the value in YAML, the path with a dot between its keys: `train.steps=20`,
            `objectives.sed_sft.weight=3` (by label, or by place from 0), `seeds=[0]`. null removes a key. A length in
            `epochs` takes the place of one in `steps`, and a shorter one leaves out evaluations after its end.
    """
    if not isinstance(content, Mapping):
        raise ConfigError("--set: expected a suite file with keys")
    changed: dict[str, Any] = copy.deepcopy(dict(content))
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set: expected PATH=VALUE as in train.steps=20, got {change!r}")
        _set_value(changed, path, read_yaml(text, f"--set {path}"))
    return changed


def _set_value(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, key = path.split(".")
    node: Any = content
    while parents:
        node, parents = _child(node, parents, path)
    if isinstance(node, list):
        node[_place(node, key, path)] = value
        return
    if value is None:
        node.pop(key, None)
        return
    node[key] = value
    if key in OTHER_LENGTH and path.split(".")[-2:-1] == ["train"]:
        node.pop(OTHER_LENGTH[key], None)
        if isinstance(node.get("eval_at"), list) and isinstance(value, int | float):
            node["eval_at"] = [at for at in node["eval_at"] if not isinstance(at, int | float) or at <= value]


def _child(node: Any, parts: list[str], path: str) -> tuple[Any, list[str]]:
    """The part of a node that a path goes on in, made where there is none, and the keys that are left of the path."""
    if isinstance(node, list):
        longest = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in _labels(node)), 1)
        key: Any = _place(node, ".".join(parts[:longest]), path)
        child, left = node[key], parts[longest:]
    else:
        key, left = parts[0], parts[1:]
        child = node.get(key)
    if child is None or isinstance(child, str):  # a bare name: {name: ce}
        child = {} if child is None else {"name": child}
        node[key] = child
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {path}: expected keys in {key}, which is {shorten(repr(child), 100)}")
    return child, left


def _labels(items: Sequence[Any]) -> list[str]:
    """What the models, objectives or hypotheses of a list are called, in order."""
    named = [item if isinstance(item, Mapping) else {"name": item} for item in items]
    return [str(item.get("label", item.get("name", item.get("id")))) for item in named]


def _place(items: Sequence[Any], key: str, path: str) -> int:
    """Where an item stands in a list that has this label, or this place."""
    if key in _labels(items):
        return _labels(items).index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    raise ConfigError(f"--set {path}: {unknown('label', key, _labels(items))}, or a place from 0 to {len(items) - 1}")


def parse(content: object, where: str, permissions: Permissions | None = NOTHING) -> Suite:
    """Validates the content of a suite file: schema, names, settings, references between them, and permissions."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping with the keys {', '.join(Suite.model_fields)}")
    if impossible := list(islice(impossible_values(content), MOST_PROBLEMS)):
        raise ConfigError(*(f"{where}: {shorten(problem)}" for problem in impossible))
    problems: list[str] = []
    suite = None
    try:
        content = expand_sweep(content)
    except ConfigError as error:
        problems += error.problems
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        problems += [schema_problem(item) for item in error.errors() if not follows_from_another(item)]
    problems += content_problems(content if suite is None else suite.model_dump(mode="python"))
    if suite is not None:
        problems += reference_problems(suite) + train_problems(suite)
    if problems or suite is None:
        raise ConfigError(*(f"{where}: {shorten(problem)}" for problem in problems))
    if permissions is None:
        return suite
    try:
        return permit_suite(suite, permissions)
    except ConfigError as error:
        raise ConfigError(*(f"{where}: {problem}" for problem in error.problems)) from None


def with_seeds(suite: Suite, text: str) -> Suite:
    """Puts the seeds of a command line ("0,1,2") in place of the suite's own."""
    try:
        return suite.model_validate({**suite.model_dump(mode="json"), "seeds": [int(part) for part in text.split(",")]})
    except (ValueError, ValidationError):
        told = shorten(repr(text), 100)
        raise ConfigError(
            f"--seeds: expected distinct integers from 0, of at most 64 bits, as in 0,1; got {told}"
        ) from None
