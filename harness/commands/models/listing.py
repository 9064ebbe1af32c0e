"""Lists what a suite file can name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from rich.markup import escape
from rich.table import Table

import benchmarks
import model_zoo
from harness import registry
from harness.errors import DetmodesError
from harness.extension_checks import origin
from harness.extensions import Extended, foreign_points
from harness.system.terminal import screen
from model_zoo.settings.vlm import FAMILY_NAMES


class HasSource(Protocol):
    """Says who published it."""

    @property
    def source(self) -> str: ...


Described = TypeVar("Described", bound=HasSource)


def show(kind: str) -> None:
    """Prints each name with its description. Listing models imports none of them."""
    shown = {
        "objectives": _objectives,
        "stages": _stages,
        "rewards": _rewards,
        "families": _families,
        "measures": _measures,
        "suites": _suites,
        "models": _models,
        "benchmarks": _benchmarks,
    }
    shown[kind]()


def _models() -> None:
    table = Table()
    for heading in ("model", "settings", "parameters", "coordinates", "licence", "weights"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left")
    for name, reference in registry.names("model").items():
        for row in _rows(reference):
            table.add_row(escape(name), *map(escape, row))
    screen().print(table)
    _print_settings("model")


def _rows(reference: str) -> list[tuple[str, ...]]:
    """Makes one row for each card. An error in another package appears in its row and does not prevent the table."""
    try:
        cards = registry.cards(reference)
    except (DetmodesError, OSError, ImportError, SyntaxError) as error:
        return [("", "", "", "", " ".join(str(error).split()))]
    return [
        (
            " ".join(f"{key}={value}" for key, value in card.settings.items()),
            "-" if card.parameters is None else count(card.parameters),
            card.coordinates,
            card.licence,
            card.weights,
        )
        for card in cards
    ] or [("", "", "", "", f"no card: see {reference}")]


def count(parameters: int) -> str:
    """Formats a number of parameters, e.g. 360 k, 2.0 M, 3.1 B."""
    if parameters < 10**6:
        return f"{parameters / 10**3:.0f} k"
    return f"{parameters / 10**6:.1f} M" if parameters < 10**9 else f"{parameters / 10**9:.1f} B"


def _benchmarks() -> None:
    table = Table("benchmark", "what it is", "class")
    for name, reference in registry.names("benchmark").items():
        table.add_row(escape(name), escape(registry.first_sentence(reference)), escape(reference))
    screen().print(table)
    _print_settings("benchmark")


def _print_settings(kind: registry.Kind) -> None:
    """Prints the settings of each name with their defaults, where they are declared."""
    console = screen()
    declared = {"benchmark": list(benchmarks.BENCHMARKS), "model": list(model_zoo.SETTINGS)}[kind]
    for name in declared:
        values = {key: setting.default for key, setting in registry.known_settings(kind, name).items()}
        shown = ", ".join(key if value is None else f"{key}={value}" for key, value in values.items())
        console.print(f"settings of [bold]{name}[/bold]: {escape(shown)}", soft_wrap=True, highlight=False)


def _suites() -> None:
    from harness.suite import load
    from harness.suite.cells import cells

    table = Table("suite", "cells", "what it asks, and its rows")
    for name, path in registry.shipped_suites().items():
        loaded = load.load(name)
        labels = ", ".join(objective.label for objective in loaded.objectives)
        number = sum(1 for _ in cells(loaded))
        rows = f"{loaded.benchmark.name}{f': {labels}' if labels else ''}; seeds {', '.join(map(str, loaded.seeds))}"
        table.add_row(name, str(number), f"{escape(question(path))}\n[dim]{escape(rows)}[/dim]")
        table.add_section()
    screen().print(table)


def question(path: Path) -> str:
    """Reads what a suite file says of itself: the first sentence of its opening comment, after the command's line."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    words = " ".join(line for line in lines if not line.startswith(("detmodes run", "yaml-language-server")))
    return re.split(r"(?<=[.?!])\s", words, maxsplit=1)[0]


def _objectives() -> None:
    """Prints each objective: its equation, its settings with their defaults, and its source."""
    from harness import objectives

    for name, spec, source in _parts(objectives.OBJECTIVES):
        settings = {key: setting.default for key, setting in spec.settings.items()}
        _print_equation(name, spec.equation, settings, source)


def _stages() -> None:
    """Prints each stage that may follow fine-tuning, with the settings that only this stage has."""
    from harness.suite.stage_base import StageSettings
    from harness.suite.stage_settings import STAGES

    for name, stage, source in _parts(STAGES):
        fields = {key: field for key, field in stage.model_fields.items() if key not in StageSettings.model_fields}
        settings = {key: field.default for key, field in fields.items()}
        _print_equation(name, stage.equation, settings, source)


def _families() -> None:
    """Prints the families of the model `vlm`, without importing any."""
    table = Table("family of vlm", "where it is from")
    for name in FAMILY_NAMES:
        table.add_row(escape(name), "detmodes")
    for point in foreign_points("family"):
        table.add_row(escape(point.name), escape(origin("family", point.name, point)))
    screen().print(table)


def _rewards() -> None:
    from harness.metrics.samples.reward import REWARDS

    for name, reward, source in _parts(REWARDS):
        _print_equation(name, reward.equation, {}, source)


def _parts(parts: Extended[Described]) -> Iterator[tuple[str, Described, str]]:
    """Yields every part with its source, and with its package where that is another. Of one that cannot be used, the
    reason is printed in its place."""
    for name in parts:
        if wrong := parts.problems(name):
            _print_equation(name, "; ".join(wrong), {}, "")
            continue
        point, part = parts.point(name), parts[name]
        yield name, part, part.source if point is None else f"{part.source}; {origin(parts.kind, name, point)}"


def _measures() -> None:
    """Prints each figure that tables show and hypotheses name, with what it means; `@k` and `/r` are endings."""
    from harness.metrics.catalogue import MEASURES
    from harness.metrics.image_measures import described_measures, measure_problems
    from harness.metrics.measure import HIGHER, LOWER

    better = {HIGHER: "higher is better", LOWER: "lower is better"}
    for measure in MEASURES:
        _print_equation(measure.name, measure.meaning, {}, better.get(measure.direction, ""))
    for point in foreign_points("measure"):
        if wrong := measure_problems(point.name):
            _print_equation(point.name, "; ".join(wrong), {}, "")
        for measure in described_measures([point.name]).values():
            where = origin("measure", point.name, point)
            way = better.get(measure.direction)
            _print_equation(measure.name, measure.meaning, {}, where if way is None else f"{way}; {where}")


def _print_equation(name: str, equation: str, settings: Mapping[str, object], source: str) -> None:
    """The equation in one line, however long, then the settings with their defaults, and who published it."""
    console = screen()
    console.print(f"[bold]{name:<16}[/bold] {escape(equation)}", soft_wrap=True, highlight=False)
    shown = ", ".join(key if default is None else f"{key}={default}" for key, default in settings.items())
    for line in (f"settings: {shown}" if shown else "", source):
        if line:
            console.print(f"{'':<17}[dim]{escape(line)}[/dim]", soft_wrap=True, highlight=False)
