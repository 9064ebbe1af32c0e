from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.run.interval import CheckpointInterval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            ("50", CheckpointInterval(steps=50)),
            (7, CheckpointInterval(steps=7)),
            ("90s", CheckpointInterval(seconds=90.0)),
        ),
        *(("10m", CheckpointInterval(seconds=600.0)), ("1.5h", CheckpointInterval(seconds=5400.0))),
    ],
)
def test_steps_and_times(text: str | int, expected: CheckpointInterval) -> None:
    assert CheckpointInterval.of(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "-5", "1.5", "10 m", "m", "10d", "1e3", "nan", "\u0661\u0660", "9" * 400]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--snapshot-every: expected a number of steps \(50\) or a time"):
        CheckpointInterval.of(text)


def test_when_it_is_over() -> None:
    assert [step for step in range(1, 9) if CheckpointInterval(steps=3).is_over(step, 1e9)] == [3, 6]
    assert [seconds for seconds in (0, 59, 60, 61) if CheckpointInterval(seconds=60).is_over(5, seconds)] == [60, 61]
