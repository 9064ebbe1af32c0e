"""Runs `detmodes` as one of two processes of which the other takes over a cell: see
tests/run/processes/test_frozen_owner.py.

    python -m tests.support.processes.frozen_owner FOLDER first|second ARGUMENTS...

first: touches FOLDER/reached in its third step of training, waits there for FOLDER/go, and touches FOLDER/noticed when
it finds that its lock was taken. second: takes an owner elsewhere for dead after a second, touches FOLDER/overtaken in
its second step of training, and waits there for FOLDER/noticed. Each says that it runs on a machine of its own where
its process ids do not tell.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import harness.commands.console
import harness.training.loop
from harness.commands.app import main
from harness.system import host, locks

STEPS = {"first": 3, "second": 2}
PATIENCE = 240.0


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.05)


def patch(folder: Path, role: str) -> None:
    loop = vars(harness.training.loop)
    accumulate, check, steps = loop["accumulate"], locks.Lock.check, iter(range(1, 1000))
    reached, go = ("reached", "go") if role == "first" else ("overtaken", "noticed")

    def halting(*arguments: Any, **settings: Any) -> Any:
        if next(steps) == STEPS[role]:
            (folder / reached).touch()
            wait_for(folder / go)
        return accumulate(*arguments, **settings)

    def noticing(self: locks.Lock) -> None:
        try:
            check(self)
        except locks.LostError:
            (folder / "noticed").touch()
            raise

    loop["accumulate"] = halting
    locks.Lock.check = noticing  # type: ignore[method-assign]
    identity = host.identify_machine()
    host.identify_machine = lambda: f"{identity} {role}"  # type: ignore[assignment]
    if role == "second":
        locks.LEASE = 1.0


if __name__ == "__main__":
    patch(Path(sys.argv[1]), sys.argv[2])
    sys.argv = ["detmodes", *sys.argv[3:]]
    main()
