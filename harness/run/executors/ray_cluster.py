"""Runs `detmodes run --executor ray`: each cell is a task on a Ray cluster, an ordinary run of that one cell.

Every worker has the same output folder (a shared one), or a URL (harness.run.output.mirror), and this package. A task
whose worker dies is given to another one, which takes over the lock of the dead worker (at once on the same machine,
else after two minutes, see harness.system.locks) and resumes from its checkpoints.

Suites are sent as JSON. Everything else that Ray exchanges between its processes stays in the cluster.
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
"""Number of workers of one cell that may die before the cell is given up."""
POLL = 0.5
"""Seconds between two checks of the tasks."""
LOCAL = "local"
"""Address that stands for a cluster started for this run, on this machine."""
MEMORY = 100 * 2**20
"""Bytes of such a cluster for objects: nothing large goes through Ray."""
ANSWERS = 5.0
"""Seconds within which a cluster must answer; Ray itself would try for minutes."""


@dataclass(frozen=True, slots=True)
class Order:
    """The input of every task. suite: JSON; output, data: absolute paths with the same meaning on every machine;
    options: fields of the Context; since: see runner.run, None with a URL, where every machine has a separate folder
    and clock."""

    suite: str
    output: str
    data: str | None
    device: Device
    since: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """A cell without a record. bad_input: whether its task ended with exit code 2."""

    cell: str
    why: str
    bad_input: bool

    def __str__(self) -> str:
        return self.why if self.bad_input else f"cell {self.cell} has no record: {self.why}"


class WorkerStoppedError(Exception):
    """A worker got SIGTERM and has saved its results: another one must compute the rest of the cell."""


def device_of(device: Device, resources: Resources) -> Device:
    """Returns the device of a task: the CPU unless it was given a GPU. ConfigError where --device asks for another
    one."""
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
    """Computes these cells on the cluster at the address or on one of this machine; returns those without a record.
    look: called repeatedly, with the cells that have ended since.

    The first SIGTERM or SIGINT is passed on to every task, which saves and stops; then Interrupted is raised. At the
    second one this process exits at once, and Ray ends the tasks: their work since the last checkpoint is lost.
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
    """Computes one cell in a worker, by its id and the name of its folder. Returns the mistake in its input, if there
    is one."""
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
    """Waits until every task has ended; stops the remaining ones once a signal has come."""
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
    """Joins the cluster, or starts one that ends with the block. Messages of Ray stay in its log files."""
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
    """Raises OSError if nothing answers at host:port; other forms of an address are left to Ray."""
    match = re.fullmatch(r"([^/:]+):([0-9]+)", address)
    if match is not None:
        socket.create_connection((match[1], int(match[2])), timeout=ANSWERS).close()


def _check_room(ray: ModuleType, address: str, resources: Resources) -> None:
    """Raises ConfigError if this machine cannot run a cell, as only a cluster may grow."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus for node in nodes):
        return
    wanted = f"resources: expected a node with {resources.cpus} CPUs and {resources.gpus:g} GPUs for a cell, found none"
    if address == LOCAL:
        raise ConfigError(wanted)
    print(f"detmodes: {wanted}: cells wait until one joins", file=sys.stderr)
