"""Runs `detmodes check-adapter`: shows the checks on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from harness import conformance, registry
from harness.conformance import Outcome, State
from harness.errors import ConfigError
from harness.inference.device import Device
from harness.suite.permissions import trust_models
from harness.system.messages import route_messages
from harness.system.terminal import make_console, screen

COLOURS: dict[State, str] = {"passed": "green", "failed": "red", "skipped": "dim"}


def check(name: str, assignments: Sequence[str], device: Device, trusted: Sequence[str] = ()) -> int:
    """Prints the table and returns the exit code. ConfigError for an unknown name and for settings that the model
    refuses."""
    made_by = registry.find("model", name)
    settings = trust_models(name, read_settings(assignments), trusted)
    if problems := made_by.problems(settings):
        raise ConfigError(*problems)
    console = make_console(stderr=True)
    with route_messages(console, False, lambda: True), console.status(f"checking {escape(name)}") as status:
        outcomes = conformance.check(
            made_by, settings, device, lambda outcome: status.update(f"{outcome.check} {outcome.state}")
        )
    screen().print(_table(name, outcomes))
    states = Counter(outcome.state for outcome in outcomes)
    print(", ".join(f"{states[state]} {state}" for state in COLOURS if states[state]))
    return 1 if states["failed"] else 0


def read_settings(assignments: Sequence[str]) -> dict[str, Any]:
    """Reads settings of the form KEY=VALUE, the value as YAML in a suite file. ConfigError names every one of another
    form."""
    settings, problems = {}, []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not key or not equals:
            problems.append(f"--set: expected KEY=VALUE, got {assignment!r}")
            continue
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            problems.append(f"--set {key}: expected a value in YAML, got {value!r}")
    if problems:
        raise ConfigError(*problems)
    return settings


def _table(name: str, outcomes: Sequence[Outcome]) -> Table:
    table = Table("check", "outcome", "seconds", "why", title=escape(name))
    table.columns[2].justify = "right"
    for outcome in outcomes:
        state = f"[{COLOURS[outcome.state]}]{outcome.state}[/]"
        table.add_row(outcome.check, state, f"{outcome.seconds:.1f}", escape(outcome.message))
    return table
