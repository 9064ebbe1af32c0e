"""`detmodes list objectives|stages|rewards`: each with its equation in one line, its settings and its source."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from harness.commands.app import app
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


def test_a_stage_is_listed_with_the_settings_that_are_its_own() -> None:
    done = CliRunner().invoke(app, ["list", "stages"])
    shown = next(line for line in done.output.splitlines() if "alpha=0.2" in line)
    assert "beta=0.1" in shown
    assert "warm_up" not in shown
