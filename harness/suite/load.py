"""Suite files: reading, and validation that finds every mistake at once. What each key means: harness.suite.schema.

A suite is data: YAML read with the safe loader, no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from harness import registry
from harness.errors import ConfigError, unknown
from harness.suite.checks import content_problems, follows_from_another, reference_problems, schema_problem
from harness.suite.permissions import NOTHING, Permissions, permit_suite
from harness.suite.schema import Suite
from harness.suite.train_checks import train_problems
from harness.suite.yaml_text import read_yaml


def load(reference: str, permissions: Permissions | None = NOTHING) -> Suite:
    """Reads a suite by path, or by the name of a shipped one. ConfigError lists every mistake.

    permissions: of the command line; None where no model of the suite is going to be built.
    """
    shipped = registry.shipped_suites()
    path = Path(reference)
    if not path.is_file():
        if reference not in shipped:
            if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
                raise ConfigError(f"{reference}: no such suite file")
            raise ConfigError(unknown("suite", reference, shipped))
        path = shipped[reference]
    try:
        content = read_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: expected YAML: {' '.join(str(error).split())}") from None
    return parse(content, str(path), permissions)


def parse(content: object, where: str, permissions: Permissions | None = NOTHING) -> Suite:
    """Validates the content of a suite file: schema, names, settings, references between them, and permissions."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping with the keys {', '.join(Suite.model_fields)}")
    problems = []
    suite = None
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        problems += [schema_problem(item) for item in error.errors() if not follows_from_another(item)]
    problems += content_problems(content if suite is None else suite.model_dump(mode="python"))
    if suite is not None:
        problems += reference_problems(suite) + train_problems(suite)
    if problems or suite is None:
        raise ConfigError(*(f"{where}: {problem}" for problem in problems))
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
        raise ConfigError(f"--seeds: expected distinct integers from 0, as in 0,1; got {text!r}") from None
