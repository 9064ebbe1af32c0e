"""Models as outlines: every tensor has its shape and type and no values; and what a network is made of, as far as its
cost depends on it: matrices, attention, and how many positions pass them.

In: a block in which adapters are made. Out: adapters on torch's `meta` device, whose weights were not read, and notes
on what had to be assumed because it is not on this machine. Adapters ask `makes_outlines` before they read weights. One
that has `network_shape` says what it is made of; of another one all matrices are taken to be read for every token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from harness.protocols import Adapter

_notes: ContextVar[list[str] | None] = ContextVar("outline_notes", default=None)


@contextmanager
def making_outlines() -> Iterator[list[str]]:
    """Whatever is made in the block has no values. Yields the notes, which grow meanwhile."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        with torch.device("meta"):
            yield notes
    finally:
        _notes.reset(token)


def makes_outlines() -> bool:
    """Whether models are made without values here: weights are then not to be read."""
    return _notes.get() is not None


def note_assumption(text: str) -> None:
    """Tells whoever asked for an outline what was assumed."""
    notes = _notes.get()
    if notes is not None and text not in notes:
        notes.append(text)


# ---- the shape of a network -----------------------------------------------------------------------------------------

Per = Literal["image", "row", "token"]


@dataclass(frozen=True, slots=True)
class NetworkPart:
    """Layers that are passed by equally many positions.

    per        whether it is passed once for an image, for a row of tokens, or for each token
    positions  that pass it then; 1 for a token
    trained    numbers in its matrices that train; frozen: and that do not
    calls      modules without children, each called once in a forward pass
    layers     with attention, each `width` numbers wide (heads times width of a head)
    keys       positions that each of its positions attends to; None: those of its own row of tokens
    cached     numbers that a layer keeps of a position in generation (its keys and values)
    """

    name: str
    per: Per
    positions: int
    trained: int
    frozen: int
    calls: int
    layers: int = 0
    width: int = 0
    keys: int | None = 0
    cached: int = 0

    @property
    def matrices(self) -> int:
        """Numbers in all its matrices: each is multiplied and added once for a position."""
        return self.trained + self.frozen

    @property
    def breadth(self) -> float:
        """Layers times their width, by their matrices: a layer of a transformer of width D has 12 D^2 numbers."""
        layers = max(self.layers, 1)
        return layers * math.sqrt(self.matrices / (12 * layers))


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """parts: in the order in which they are passed. width, vocabulary: of the output embedding. head_trains: whether it
    does (new rows alone do not count). learns_tokens: whether the input embedding trains, so that gradients reach it
    through every layer. shares_prompt: whether a prompt is read once for all samples of an image."""

    parts: tuple[NetworkPart, ...]
    width: int
    vocabulary: int
    head_trains: bool
    learns_tokens: bool
    shares_prompt: bool = False

    @property
    def head(self) -> int:
        """Numbers in the output embedding."""
        return self.width * self.vocabulary

    def of_tokens(self) -> list[NetworkPart]:
        """The parts that each token passes."""
        return [part for part in self.parts if part.per == "token"]


@runtime_checkable
class HasNetworkShape(Protocol):
    """What an adapter may offer, so that a run's cost is known beforehand."""

    def network_shape(self) -> NetworkShape:
        """Of its network as it is; also of an outline."""
        ...


def shape_of(adapter: Adapter) -> tuple[NetworkShape, bool]:
    """The network's shape, and whether the adapter says it itself."""
    if isinstance(adapter, HasNetworkShape):
        return adapter.network_shape(), True
    everything = part_of("all of it", "token", 1, [adapter.model])
    width = max((parameter.shape[-1] for parameter in adapter.model.parameters() if parameter.ndim == 2), default=1)
    trains = everything.trained > 0
    return NetworkShape((everything,), width, adapter.codec.tokens.size, trains, trains), False


def part_of(
    name: str,
    per: Per,
    positions: int,
    modules: Iterable[nn.Module],
    *,
    layers: int = 0,
    width: int = 0,
    keys: int | None = 0,
    cached: int = 0,
) -> NetworkPart:
    """Counts the matrices and calls of modules; see NetworkPart for the rest."""
    item = list(modules)
    parameters = {id(p): p for module in item for p in module.parameters() if p.ndim >= 2}.values()
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    calls = sum(1 for module in item for _ in leaves(module))
    return NetworkPart(name, per, positions, trained, frozen, calls, layers, width, keys, cached)


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in it that have none in them; what passes its input on alone does not count."""
    for item in module.modules():
        if not any(True for _ in item.children()) and not isinstance(item, nn.Identity | nn.Dropout | nn.ModuleList):
            yield item


def convolution_parts(name: str, module: nn.Module, side: int) -> list[NetworkPart]:
    """One part for each convolution of a network that goes through them one after the other, for square images of so
    many pixels a side: each is passed by the positions that it puts out. Shortcuts keep the size of their block."""
    parts: list[NetworkPart] = []
    for path, item in module.named_modules():
        stride = getattr(item, "stride", None)
        if not isinstance(item, nn.Conv2d | nn.MaxPool2d) or stride is None:
            continue
        step = stride if isinstance(stride, int) else stride[0]
        shortcut = "downsample" in path or "shortcut" in path
        side = side if shortcut else -(-side // step)
        if isinstance(item, nn.Conv2d):
            parts.append(part_of(f"{name} {path}", "image", side * side, [item]))
    return parts
