"""Defines intervals between checkpoints: a number of steps, or a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import ConfigError

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class CheckpointInterval:
    """An interval. steps: None where it is a time; seconds: None where it is a number of steps."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, text: str | int, option: str = "--snapshot-every") -> CheckpointInterval:
        """Reads `50` as steps, and `90s`, `10m` or `1.5h` as time. ConfigError for anything else."""
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])?", str(text), re.ASCII)
        number, unit = match.groups() if match else ("0", None)
        if not float(number) or (unit is None and "." in number):
            raise ConfigError(f"{option}: expected a number of steps (50) or a time (90s, 10m, 1.5h), got {text!r}")
        return cls(steps=int(number)) if unit is None else cls(seconds=float(number) * SECONDS[unit])

    def is_over(self, step: int, seconds: float) -> bool:
        """Tells whether the interval ends after this step; seconds: since the last end."""
        if self.seconds is not None:
            return seconds >= self.seconds
        assert self.steps is not None
        return step % self.steps == 0
