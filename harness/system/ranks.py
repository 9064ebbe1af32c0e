"""Coordinates several processes (ranks) that compute one cell, as torchrun or `accelerate launch` starts them.

Every rank runs the same program on its share; rank 0 alone decides, reads and writes. They wait for each other in the
functions here, through a separate channel (gloo, whatever carries the tensors): a waiting rank notices when another
one has failed or died. So nothing hangs as long as the ranks `meet` before they exchange tensors, with nothing in
between that may fail on a single rank. With one process, none of these functions waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from harness.errors import ElsewhereError
from harness.system import failures
from harness.system.interrupts import Deserted

T = TypeVar("T")

FOREVER = timedelta(days=30)
"""Timeout of waiting: ranks wait while rank 0 evaluates or waits for the cells of others. A dead rank is noticed at
once."""
PATIENCE = timedelta(minutes=10)
"""Seconds that a failed rank waits for the others, to tell them."""


def meet(accelerator: Accelerator, signal: int = 0) -> int:
    """Waits for all ranks; returns the largest `signal` of any.

    Raises ElsewhereError if another rank has failed, Deserted if one is gone.
    """
    if accelerator.num_processes == 1:
        return signal
    with _all_there("other processes were waited for"):
        flags = torch.tensor([0, signal])
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=_channel())
        failed, largest = flags.tolist()
        if not failed:
            return int(largest)
        messages = _exchange(None)
    raise ElsewhereError("; ".join(messages))


def make_on_all(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """Calls make() on every rank, and returns its value once all ranks are done.

    If it raises an Exception on some ranks, they raise it, and all others raise ElsewhereError where they meet next:
    in make itself, or at its end. So it must not be called inside another `make_on_all` that continues after such an
    error.
    """
    if accelerator.num_processes == 1:
        return make()
    try:
        made = make()
    except ElsewhereError:  # all ranks know
        raise
    except Exception as error:
        _tell(error)
        raise
    meet(accelerator)
    return made


def same(accelerator: Accelerator, value: T) -> T:
    """Returns rank 0's value on every rank. It is pickled on the way between processes of this run."""
    if accelerator.num_processes == 1:
        return value
    meet(accelerator)
    box = [value]
    with _all_there("a value was passed on"):
        dist.broadcast_object_list(box, src=0, group=_channel())
    return box[0]


def same_tensor(accelerator: Accelerator, tensor: Tensor | None) -> Tensor:
    """Returns rank 0's tensor, on the CPU, on every rank; the other ranks pass None."""
    shape = same(accelerator, None if tensor is None else (tensor.shape, tensor.dtype))
    if tensor is None:
        assert shape is not None
        tensor = torch.empty(shape[0], dtype=shape[1])
    if accelerator.num_processes > 1 and tensor.numel():
        with _all_there("a tensor was passed on"):
            dist.broadcast(tensor.view(-1).view(torch.uint8), src=0, group=_channel())
    return tensor


def gathered(accelerator: Accelerator, value: T) -> list[T]:
    """Returns the values of all ranks in order on rank 0, and an empty list on the others."""
    if accelerator.num_processes == 1:
        return [value]
    meet(accelerator)
    values: list[T] | None = [value] * accelerator.num_processes if accelerator.is_main_process else None
    with _all_there("values were gathered"):
        dist.gather_object(value, values, dst=0, group=_channel())
    return values or []


def leave(accelerator: Accelerator) -> None:
    """Ends the coordination when all is well: this rank waits for no other any more."""
    if accelerator.num_processes > 1:
        dist.destroy_process_group()


# ---- the channel ---------------------------------------------------------------------------------------------------


@cache
def _channel() -> dist.ProcessGroup:
    """Returns the channel, which all ranks open when they meet for the first time."""
    group = dist.new_group(backend="gloo", timeout=FOREVER)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _tell(error: Exception) -> None:
    """Makes every other rank raise ElsewhereError where it meets this one."""
    explained = failures.explain(error)
    with _all_there(explained):
        work = dist.all_reduce(torch.tensor([1, 0]), dist.ReduceOp.MAX, group=_channel(), async_op=True)
        work.wait(PATIENCE)
        _exchange(explained)


def _exchange(text: str | None) -> list[str]:
    """Exchanges messages and returns those of the ranks that failed."""
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, text, group=_channel())
    return [f"process {rank}: {message}" for rank, message in enumerate(messages) if message is not None]


@contextmanager
def _all_there(what: str) -> Iterator[None]:
    """Raises Deserted where a connection is lost, because the process at its other end is gone."""
    try:
        yield
    except RuntimeError as error:
        raise Deserted(f"{what}: {failures.one_line(error)}"[:300] if _first() else None) from error


def _first() -> bool:
    """Tells whether this rank is the first to ask, as one of the remaining ranks reports for all."""
    with suppress(Exception):  # the store may be gone too
        return bool(dist.distributed_c10d._get_default_store().add("detmodes/deserted", 1) == 1)
    return True
