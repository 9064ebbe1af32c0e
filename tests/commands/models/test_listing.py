"""`detmodes list objectives|stages|rewards`: each with its equation in one line, its settings and its source."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from harness import registry
from harness.commands.app import app
from harness.commands.models.listing import question
from harness.metrics.samples.reward import REWARDS
from harness.objectives import OBJECTIVES
from harness.suite.stage_settings import STAGES


@pytest.mark.parametrize(("kind", "named"), [("objectives", OBJECTIVES), ("stages", STAGES), ("rewards", REWARDS)])
def test_everything_is_listed_with_equation_and_source(kind: str, named: dict[str, object]) -> None:
    done = CliRunner().invoke(app, ["list", kind])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    for name, spec in named.items():
        first = next(index for index, line in enumerate(lines) if line.split()[:1] == [name])
        assert lines[first].endswith(getattr(spec, "equation"))  # noqa: B009
        below = [line.strip() for line in lines[first + 1 : first + 3]]
        assert getattr(spec, "source") in below  # noqa: B009


def test_suites_say_what_they_ask() -> None:
    done = CliRunner().invoke(app, ["list", "suites"], env={"COLUMNS": "200"})
    assert "What does SED-SFT cost in AP, and how much of the base's diversity does it keep?" in done.output
    assert "shapes: ce, sed_sft, sed_sft_w5_base; seeds 0, 1, 2" in done.output
    assert all(question(path).endswith((".", "?")) for path in registry.shipped_suites().values())


def test_benchmarks_say_what_they_are() -> None:
    done = CliRunner().invoke(app, ["list", "benchmarks"], env={"COLUMNS": "200"})
    assert "LVIS, or any data set in its format" in done.output


def test_a_stage_is_listed_with_the_settings_that_are_its_own() -> None:
    done = CliRunner().invoke(app, ["list", "stages"])
    shown = next(line for line in done.output.splitlines() if "alpha=0.2" in line)
    assert "beta=0.1" in shown
    assert "warm_up" not in shown
