"""The softmax bottleneck at the names of a category: how close any hidden state can bring the output layer to the
uniform distribution over the tokens that may follow (after Yang et al., ICLR 2018; arXiv 1711.03953).

A model that prefers one name to its synonyms may have learnt so, or may have an output layer that cannot put them side
by side. The least divergence tells the two apart: it is a floor that no training of the layers below can go under.

Shape legend: V vocabulary, D hidden width, S valid continuations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]


class Branch(NamedTuple):
    """A point where the names of a category part. before: the tokens of the name so far; valid: the tokens that may
    follow, two at least, sorted."""

    category_id: int
    before: tuple[int, ...]
    valid: tuple[int, ...]


def branches(
    names_of: Mapping[int, Sequence[str]], name_ids: Mapping[str, Sequence[int]], end: Iterable[int] = ()
) -> list[Branch]:
    """Finds the branch points of every category's names (ids to tokens by name); a name that is the beginning of
    another goes on with a token of `end`, where these are given."""
    found_branches = []
    for category_id, names in names_of.items():
        following: dict[tuple[int, ...], set[int]] = {}
        for name in names:
            tokens = tuple(name_ids[name])
            for place, token in enumerate(tokens):
                following.setdefault(tokens[:place], set()).add(token)
            following.setdefault(tokens, set()).update(end)
        found_branches += [
            Branch(category_id, before, tuple(sorted(valid)))
            for before, valid in following.items()
            if len(valid) > 1 and not valid <= set(end)
        ]
    return found_branches


def divergence_from_uniform(logits: Floats, valid: Sequence[int]) -> float:
    """KL(u || softmax(logits)) in nats, u uniform over the valid tokens: log sum exp(logits) - mean of the valid logits
    - log S. At least 0; logits [V]."""
    highest = float(logits.max())
    return float(np.log(np.exp(logits - highest).sum()) + highest - logits[list(valid)].mean() - np.log(len(valid)))


def least_divergence(weight: Floats, valid: Sequence[int], radius: float) -> float:
    """The least KL(u || softmax(weight @ h)) in nats over hidden states h of length at most `radius`.

    weight [V, D]: the output embedding. The divergence is convex in h, so the minimum that is found is the least. The
    bound matters: without it a layer that can tell the valid tokens from all others would come as close as one likes to
    0, by states that the model never has. Take the largest length of its own.
    """
    chosen = list(valid)

    def objective(direction: Floats) -> tuple[float, Floats]:
        """In a ball by h = radius * d / max(1, |d|); the gradient at the rim is that along it."""
        length = float(np.linalg.norm(direction))
        inside = direction if length <= 1 else direction / length
        logits = weight @ (radius * inside)
        highest = logits.max()
        p = np.exp(logits - highest)
        p /= p.sum()
        slope = radius * (p @ weight - weight[chosen].mean(axis=0))
        if length > 1:
            slope = (slope - inside * (inside @ slope)) / length
        return divergence_from_uniform(logits, chosen), slope

    start = weight[chosen].mean(axis=0) - weight.mean(axis=0)
    norm = float(np.linalg.norm(start))
    begin = start / norm * 0.5 if norm else np.zeros(weight.shape[1])
    solved = minimize(
        objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    )
    return max(0.0, min(float(solved.fun), objective(np.zeros(weight.shape[1]))[0]))
