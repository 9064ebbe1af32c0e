"""Runs `detmodes check KIND NAME`: shows the checks on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from harness import conformance, registry
from harness.commands.options import read_settings
from harness.conformance import Outcome, State, Tell
from harness.errors import ConfigError
from harness.inference.device import Device
from harness.metrics.image_measures import measure_problems
from harness.metrics.samples.reward import REWARDS
from harness.objectives import problems as objective_problems
from harness.suite.permissions import trust_models
from harness.suite.stage_settings import STAGES
from harness.system.messages import route_messages
from harness.system.terminal import make_console, screen

COLOURS: dict[State, str] = {"passed": "green", "failed": "red", "skipped": "dim"}
Checks = Callable[[Tell], list[Outcome]]


def check(
    kind: str,
    name: str,
    assignments: Sequence[str] = (),
    *,
    device: Device = "cpu",
    data: Path | None = None,
    trusted: Sequence[str] = (),
) -> int:
    """Prints the table and returns the exit code. ConfigError for an unknown name and for settings that the part
    refuses."""
    settings = read_settings(assignments)
    checks = {
        "adapter": lambda: _of_model(name, trust_models(name, settings, trusted), device),
        "benchmark": lambda: _of_benchmark(name, settings, data),
        "objective": lambda: _of_objective(name, settings),
        "reward": lambda: _of_reward(name, settings),
        "stage": lambda: _of_stage(name, settings),
        "measure": lambda: _of_measure(name, settings),
        "corrector": lambda: _of_corrector(name, settings),
        "family": lambda: _of_model("vlm", {**settings, "family": name}, device),
    }[kind]()
    console = make_console(stderr=True)
    with route_messages(console, False, lambda: True), console.status(f"checking {escape(name)}") as status:
        outcomes = checks(lambda outcome: status.update(f"{outcome.check} {outcome.state}"))
    screen().print(_table(name, outcomes))
    states = Counter(outcome.state for outcome in outcomes)
    print(", ".join(f"{states[state]} {state}" for state in COLOURS if states[state]))
    return 1 if states["failed"] else 0


def _of_model(name: str, settings: dict[str, Any], device: Device) -> Checks:
    made_by = registry.find("model", name)
    _refuse(made_by.problems(settings))
    return lambda tell: conformance.check(made_by, settings, device, tell)


def _of_benchmark(name: str, settings: dict[str, Any], data: Path | None) -> Checks:
    _refuse(registry.problems("benchmark", name, settings))
    return lambda tell: conformance.check_benchmark(name, settings, data, tell)


def _of_objective(name: str, settings: dict[str, Any]) -> Checks:
    _refuse(objective_problems(name, settings))
    return lambda tell: conformance.check_objective(name, settings, tell)


def _of_reward(name: str, settings: dict[str, Any]) -> Checks:
    _refuse([*REWARDS.problems(name), *(f"--set {key}: a reward has no settings" for key in settings)])
    return lambda tell: conformance.check_reward(name, tell)


def _of_corrector(name: str, settings: dict[str, Any]) -> Checks:
    _refuse([f"--set {key}: a corrector has no settings" for key in settings])
    _refuse(getattr(registry.find("corrector", name), "unready", list)())
    return lambda tell: conformance.check_corrector(name, tell)


def _of_measure(name: str, settings: dict[str, Any]) -> Checks:
    _refuse([*measure_problems(name), *(f"--set {key}: a measure has no settings" for key in settings)])
    return lambda tell: conformance.check_measure(name, tell)


def _of_stage(name: str, settings: dict[str, Any]) -> Checks:
    _refuse(STAGES.problems(name))
    return lambda tell: conformance.check_stage(name, settings, tell)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError(*problems)


def _table(name: str, outcomes: Sequence[Outcome]) -> Table:
    table = Table("check", "outcome", "seconds", "why", title=escape(name))
    table.columns[2].justify = "right"
    for outcome in outcomes:
        state = f"[{COLOURS[outcome.state]}]{outcome.state}[/]"
        table.add_row(outcome.check, state, f"{outcome.seconds:.1f}", escape(outcome.message))
    return table
