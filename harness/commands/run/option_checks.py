"""What is wrong with the options of `detmodes run`, told before anything heavy is imported."""

from __future__ import annotations

import os
from typing import Literal

from harness.errors import ConfigError
from harness.run.cost.hardware import device_named


def require_one_process(option: str) -> None:
    """ConfigError where torchrun or `accelerate launch` has started several to compute each cell together."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise ConfigError(f"{option}: expected one process, got {processes}: leave out torchrun or accelerate launch")


def require_device(name: str | None) -> None:
    """ConfigError where `--on` names no device that is known."""
    if name is not None:
        device_named(name)


def number_of_jobs(jobs: str) -> int | None:
    """Returns what `--jobs` asks for; None for "auto". ConfigError where it is neither."""
    if jobs == "auto":
        return None
    if not (jobs.isascii() and jobs.isdecimal() and int(jobs) >= 1):
        raise ConfigError(f"--jobs: expected a whole number of at least 1, or auto, got {jobs!r}")
    return int(jobs)


def require_executor(executor: Literal["local", "ray"], ray_address: str | None, jobs: int | None) -> None:
    """ConfigError where an option is for another executor than the one that was chosen. jobs: None for "auto"."""
    if executor == "local" and ray_address is not None:
        raise ConfigError("--ray-address: expected with --executor ray")
    if executor == "ray":
        require_one_process("--executor ray")
        if jobs is not None and jobs > 1:
            raise ConfigError("--jobs: a cluster runs as many cells as it has room for; leave it out")
