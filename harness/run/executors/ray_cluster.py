"""`detmodes run --executor ray`: each cell is a task on a Ray cluster, an ordinary run of that one cell.

Every worker has the same output folder (a shared one), or a URL (harness.run.output.mirror), and this package. A task
whose worker dies is given to another one, which takes over the lock of the dead (at once on the same machine, else
after two minutes, see harness.system.locks) and goes on from its checkpoints.

Suites are sent as JSON. What else Ray exchanges between its own processes stays in the cluster.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import ConfigError, DetmodesError
from harness.inference.device import Device
from harness.run import runner
from harness.run.context import Planned, open_context
from harness.run.output.mirror import Mirror, is_url
from harness.suite.schema import Resources, Suite
from harness.system import interrupts
from harness.system.interrupts import Interrupted, Interrupts
from harness.system.timing import THREAD_VARIABLES

RETRIES = 3
"""How many workers of one cell may die before it is given up."""
POLL = 0.5
"""Seconds between two looks at the tasks."""
LOCAL = "local"
"""The address of a cluster that is started for this run, on this machine."""
MEMORY = 100 * 2**20
"""Bytes that such a cluster has for objects: nothing large goes through Ray."""
ANSWERS = 5.0
"""Seconds in which a cluster must be reached; Ray itself would try for minutes."""


@dataclass(frozen=True, slots=True)
class Order:
    """What every task needs to know. suite: JSON; output, data: absolute, they mean the same on every machine; options:
    fields of the Context; since: see runner.run, None with a URL, where every machine has a folder and a clock of its
    own."""

    suite: str
    output: str
    data: str | None
    device: Device
    since: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """A cell without a record. bad_input: what an exit code of 2 stands for."""

    cell: str
    why: str
    bad_input: bool

    def __str__(self) -> str:
        return self.why if self.bad_input else f"cell {self.cell} has no record: {self.why}"


class WorkerStoppedError(Exception):
    """In a worker that got SIGTERM, once what it had computed is saved: the cell is for another one."""


def device_of(device: Device, resources: Resources) -> Device:
    """What a task computes on: without a GPU of its own on the CPU. ConfigError where --device asks for another one."""
    if device == "cuda" and not resources.gpus:
        raise ConfigError("--device cuda: expected `resources: {gpus: 1}` in the suite, got 0")
    return device if resources.gpus else "cpu"


def run(
    order: Order,
    cells: Sequence[Planned],
    resources: Resources,
    address: str | None,
    look: Callable[[Sequence[Planned]], None],
) -> list[Lost]:
    """Has these cells computed, on the cluster at the address or on one of this machine; returns those that came to
    nothing. look: called again and again, with the cells that have ended since.

    The first SIGTERM or SIGINT is passed on to every task, which saves and stops; then Interrupted is raised. At the
    second one this process leaves at once, and Ray ends the tasks: what they had since their last checkpoint is lost.
    """
    ray = _installed()
    with _cluster(ray, address or os.environ.get("RAY_ADDRESS") or LOCAL, resources), interrupts.deferred() as caught:
        task = ray.remote(compute).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_retries=RETRIES,
            retry_exceptions=[WorkerStoppedError],
        )
        tasks = {task.remote(order, item.cell.id, item.folder.name): item for item in cells}
        lost = list(_ended(ray, tasks, caught, look))
        caught.check()
    return lost


def compute(order: Order, cell: str, name: str) -> str:
    """In a worker: one cell by its id and the name of its folder. Returns what is wrong with its input, if anything."""
    try:
        mirror = Mirror(order.output) if is_url(order.output) else None
        folder = Path(order.output) if mirror is None else mirror.folder
        if mirror is not None:
            mirror.bring_cell(name)  # an earlier worker may have died after it had sent it
        data = None if order.data is None else Path(order.data)
        context = open_context(Suite.model_validate_json(order.suite), data, order.device)
        runner.run(replace(context, **order.options), folder, glob.escape(cell), order.since)
        if mirror is not None:
            mirror.send_cell(name)
    except DetmodesError as error:
        return str(error)
    except Interrupted as interrupt:
        raise WorkerStoppedError(f"its worker was stopped by {interrupt.number.name}") from None
    return ""


def _installed() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise ConfigError("--executor ray: expected the package ray; install detmodes[ray]") from None
    return ray


def _ended(
    ray: ModuleType, tasks: Mapping[Any, Planned], caught: Interrupts, look: Callable[[Sequence[Planned]], None]
) -> Iterator[Lost]:
    """Waits until every task has ended; stops those that are left once a signal has come."""
    waiting, stopping = list(tasks), False
    while waiting:
        done, waiting = ray.wait(waiting, timeout=POLL)
        if caught.pending is not None and not stopping:
            stopping = True
            for task in waiting:
                ray.cancel(task)  # in a worker it is like Ctrl-C
        for task in done:
            lost = _lost(ray, task, tasks[task].cell.id)
            if lost is not None:
                yield lost
        look([tasks[task] for task in done])


def _lost(ray: ModuleType, task: Any, cell: str) -> Lost | None:
    try:
        problem = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        return Lost(cell, " ".join(f"{type(error.cause).__name__}: {error.cause}".split()), bad_input=False)
    except ray.exceptions.RayError as error:
        why = f"Ray gave it up ({type(error).__name__}); the next run goes on with it"
        return Lost(cell, why, bad_input=False)
    return Lost(cell, problem, bad_input=True) if problem else None


# ---- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def _cluster(ray: ModuleType, address: str, resources: Resources) -> Iterator[None]:
    """Joined, or started and ended with the block. Ray's own messages stay in its log files."""
    options = {"include_dashboard": False, "object_store_memory": MEMORY} if address == LOCAL else {}
    environment = {"env_vars": dict.fromkeys(THREAD_VARIABLES, str(resources.cpus))}
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment, **options)
    except (OSError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"--ray-address {address}: expected a Ray cluster that can be joined (with RAY_AUTH_MODE=token if it asks "
            f"for one): {told}"
        ) from None
    try:
        _check_room(ray, address, resources)
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """OSError if nobody answers at host:port; other forms of an address are Ray's own."""
    match = re.fullmatch(r"([^/:]+):([0-9]+)", address)
    if match is not None:
        socket.create_connection((match[1], int(match[2])), timeout=ANSWERS).close()


def _check_room(ray: ModuleType, address: str, resources: Resources) -> None:
    """A cluster may grow, this machine does not."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus for node in nodes):
        return
    wanted = f"resources: expected a node with {resources.cpus} CPUs and {resources.gpus:g} GPUs for a cell, found none"
    if address == LOCAL:
        raise ConfigError(wanted)
    print(f"detmodes: {wanted}: cells wait until one joins", file=sys.stderr)
