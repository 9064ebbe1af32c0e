"""One scenario on several processes at once: `on_ranks(2, "tests.training.test_paths:save_gradients", folder)`.

Each rank calls that function with the folder, and leaves what it returns, as JSON, in FOLDER/<rank>.json. By hand:

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.support.processes.ranks MODULE:FUNCTION FOLDER
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
LIMIT = 600.0
"""Seconds after which a hang is a hang: starting processes takes many of them on a busy machine."""


def rank() -> int:
    """Of this process."""
    return int(os.environ.get("RANK", "0"))


def torchrun(processes: int) -> list[str]:
    """Begins a command that starts a module so many times: append its name and arguments."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]


def accelerate(configuration: Path, processes: int) -> list[str]:
    """The same with a configuration of accelerate, which says what is split over the processes."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    return [*launch, "--num_processes", str(processes), "-m"]


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """Exit code, and what was printed."""
    process = start(command, **environment)
    printed, _ = process.communicate(timeout=LIMIT)
    return process.returncode, printed


def scenario(launcher: Sequence[str], reference: str, folder: Path, *arguments: str) -> list[str]:
    """The command that plays `reference`, "module:function", on every process of the launcher."""
    return [*launcher, "tests.support.processes.ranks", reference, str(folder), *arguments]


def forks(processes: int, reference: str, folder: Path, *arguments: str) -> list[str]:
    """The command that plays `reference` on so many processes. Modules are imported once for all of them, unlike with
    torchrun."""
    command = [sys.executable, "-m", "tests.support.processes.ranks", "--fork", str(processes)]
    return [*command, reference, str(folder), *arguments]


def on_ranks(processes: int, reference: str, folder: Path, **environment: str) -> list[Any]:
    """What the scenario returned on each rank."""
    code, printed = finish(forks(processes, reference, folder), **environment)
    assert code == 0, printed[-4000:]
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(processes)]


def play(reference: str, place: str, *arguments: str) -> None:
    import torch  # late: tests import this module to start others

    module, _, name = reference.partition(":")
    torch.manual_seed(0)
    result = getattr(importlib.import_module(module), name)(Path(place), *arguments)
    (Path(place) / f"{rank()}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def fork(processes: int, reference: str, place: str, *arguments: str) -> int:
    """Plays the scenario in forks of this process, with the environment that torchrun gives its own. The largest of
    their exit codes."""
    importlib.import_module(reference.partition(":")[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for index in range(processes):
        child = os.fork()
        if not child:
            code = 1
            try:
                size, index_of_rank = str(processes), str(index)
                os.environ.update(
                    address, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, RANK=index_of_rank, LOCAL_RANK=index_of_rank
                )
                play(reference, place, *arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children)


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        sys.exit(fork(int(sys.argv[2]), *sys.argv[3:]))
    play(*sys.argv[1:])
