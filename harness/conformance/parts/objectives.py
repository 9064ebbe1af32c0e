"""Checks of a training objective: random batches with known properties, in float64.

Shape legend: N positions, V vocabulary, D hidden width, S sequences.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import Any

import torch
from torch import Tensor

from harness import objectives
from harness.conformance.subject import NotApplicableError, require
from harness.objectives import OBJECTIVES, LossFunction, ObjectiveSpec, ReadyObjective
from harness.types import IGNORED_LABEL, LossOutput, Members, Projection, TokenBatch

UNKNOWN = "no_such_setting"
SEQUENCES = 6
"""Of a batch: the first four are two sets of two members, the fifth is a set of one, the last was sampled."""
STOPS = "sg("
"""How an equation says that a factor carries no gradient."""


@dataclass(frozen=True)
class ObjectiveSubject:
    """An objective's name and settings. Settings without a threshold are calibrated on random masses."""

    name: str
    settings: Mapping[str, Any]

    @property
    def spec(self) -> ObjectiveSpec:
        return OBJECTIVES[self.name]

    @cached_property
    def ready(self) -> ReadyObjective:
        ready = objectives.ready(self.name, self.settings)
        masses = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
        return ready.calibrated(masses) if "calibration" in ready.needs else ready

    @cached_property
    def loss(self) -> LossFunction:
        return self.ready.loss

    def batch(self, positions: int = 24, vocabulary: int = 9, scale: float = 3.0) -> TokenBatch:
        """Makes logits of a Projection of random hidden states; every fourth position is ignored."""
        rng = torch.Generator().manual_seed(0)
        hidden = scale * torch.randn(positions, 5, generator=rng, dtype=torch.float64)
        weight = torch.randn(vocabulary, 5, generator=rng, dtype=torch.float64)
        reference = torch.randn(positions, vocabulary, generator=rng, dtype=torch.float64)
        labels = torch.randint(vocabulary, (positions,), generator=rng)
        labels[3::4] = IGNORED_LABEL
        members = Members(
            set=torch.tensor([0, 0, 1, 1, 2, 0]),
            sampled=torch.tensor([False] * 5 + [True]),
            cost=torch.tensor([0.0, 0.25, 0.0, 0.5, 0.0, 1.0], dtype=torch.float64),
        )
        return TokenBatch(
            Projection(hidden, weight),
            labels,
            torch.arange(positions) * SEQUENCES // positions,
            members,
            torch.rand(positions, generator=rng) < 0.5,
            reference=reference,
        )


def settings(subject: ObjectiveSubject) -> None:
    """These settings are complete and right, and a key that it does not know is named."""
    problems = objectives.problems(subject.name, subject.settings)
    require(problems == [], f"expected no problem with the settings of this check, got {problems}")
    problems = objectives.problems(subject.name, {**subject.settings, UNKNOWN: 1})
    require(any(UNKNOWN in problem for problem in problems), f"expected a line that names {UNKNOWN!r}, got {problems}")


def described(subject: ObjectiveSubject) -> None:
    """Equation and source are one line each, as `detmodes list objectives` shows them."""
    for key in ("equation", "source"):
        text = getattr(subject.spec, key)
        require(
            isinstance(text, str) and bool(text.strip()) and "\n" not in text, f"{key}: expected a line, got {text!r}"
        )


def torch_free(subject: ObjectiveSubject) -> None:
    """Importing it imports no torch, so that a suite that names it is read without."""
    require_torch_free(OBJECTIVES.point(subject.name), "harness.objectives")


def require_torch_free(point: EntryPoint | None, ours: str) -> None:
    """Imports the module of an entry point in a process of its own; of a part of detmodes, `ours`."""
    module = ours if point is None else point.module
    program = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-P", "-c", program], env=environment, capture_output=True, check=False)
    require(done.returncode == 0, f"expected {module} to import no torch; import it inside the function")


def shapes(subject: ObjectiveSubject) -> None:
    """Every term is one finite sum with a count and a finite weight, for an empty batch too."""
    batch = subject.batch()
    targets = int((batch.labels != IGNORED_LABEL).sum())
    for made, number in ((subject.loss(batch), targets), (subject.loss(_rows(batch, slice(0))), 0)):
        require(bool(made.terms), "expected at least one term, got none")
        for name, term in made.terms.items():
            require(
                term.sum.shape == () and bool(term.sum.isfinite()), f"{name}: expected a finite sum, got {term.sum}"
            )
            if subject.spec.level == "token":
                require(int(term.count) == number, f"{name}: expected {number} targets counted, got {term.count}")
            require(abs(term.weight) < float("inf"), f"{name}: expected a finite weight, got {term.weight}")


def finite(subject: ObjectiveSubject) -> None:
    """Loss and gradient are finite where probabilities round to 0 and to 1."""
    for scale in (0.0, 3.0, 1e3):
        loss, gradient = _gradient(subject, subject.batch(scale=scale))
        require(bool(torch.isfinite(loss)), f"expected a finite loss for logits of about {scale:g}, got {loss}")
        require(
            bool(gradient.isfinite().all()), f"expected a finite gradient for logits of about {scale:g}, got {gradient}"
        )


def ignored(subject: ObjectiveSubject) -> None:
    """Positions without a label change no loss and get no gradient."""
    batch = subject.batch()
    away = batch.labels == IGNORED_LABEL
    loss, gradient = _gradient(subject, batch)
    got = gradient[away].abs().max()
    require(not bool(got), f"expected no gradient at ignored positions, got up to {got:g}")
    changed = replace(batch, logits=torch.where(away[:, None], 5 - _plain(batch), _plain(batch)))
    _require_near("with other logits at ignored positions", _value(subject.loss(changed)), loss)


def weights(subject: ObjectiveSubject) -> None:
    """Weights of positions multiply what each contributes: the loss is the sum over positions weighted one by one."""
    if subject.spec.level == "set":
        raise NotApplicableError("weights of positions are for the cross-entropy of a sequence-level objective alone")
    batch = subject.batch()
    whole = _sum(subject.loss(batch))
    for factor in (1.0, 2.0):
        same = torch.full_like(batch.labels, factor, dtype=torch.float64)
        got = _sum(subject.loss(replace(batch, logits=_plain(batch), weight=same)))
        _require_near(f"with all weights {factor:g}", got, factor * whole)
    thirds = [(torch.arange(len(batch.labels)) % 3 == at).double() for at in range(3)]
    parts = [replace(batch, logits=_plain(batch), weight=third) for third in thirds]
    _require_near("summed over thirds", torch.stack([_sum(subject.loss(part)) for part in parts]).sum(), whole)


def chunked(subject: ObjectiveSubject) -> None:
    """Loss and gradient from hidden states, a few positions at a time, are those of the logits at once."""
    batch = subject.batch(positions=600, vocabulary=4096)
    loss, gradient = _gradient(subject, batch)
    projection = batch.logits
    assert isinstance(projection, Projection)
    hidden = projection.hidden.detach().requires_grad_()
    by_chunk = _value(subject.loss(replace(batch, logits=Projection(hidden, projection.weight))))
    _require_near("by chunks", by_chunk, loss)
    (got,) = torch.autograd.grad(by_chunk, hidden)
    apart = (got - gradient @ projection.weight).abs().max()
    require(
        bool(apart < 1e-8), f"expected the gradient of hidden states by chunks as at once; they differ by {apart:g}"
    )


def gradient(subject: ObjectiveSubject) -> None:
    """The gradient is that of differences; an equation with sg(...), which stops it, is not asked."""
    if STOPS in subject.spec.equation:
        raise NotApplicableError(f"its equation stops a gradient: {subject.spec.equation}")
    batch = subject.batch()
    logits, step = _plain(batch), 1e-6
    _, got = _gradient(subject, batch)
    for at in range(0, logits.numel(), 7):
        move = torch.zeros_like(logits).view(-1)
        move[at] = step
        up, down = (
            _value(subject.loss(replace(batch, logits=logits + sign * move.view_as(logits)))) for sign in (1, -1)
        )
        numeric = (up - down) / (2 * step)
        where = f"position {at // logits.shape[1]}, entry {at % logits.shape[1]}"
        apart = abs(float(numeric - got.view(-1)[at]))
        require(
            apart < 1e-5,
            f"expected the gradient {numeric:g} of differences at {where}, got {got.view(-1)[at]:g}; "
            f"write what carries no gradient as {STOPS}...) in the equation",
        )


def repeatable(subject: ObjectiveSubject) -> None:
    """The same batch has the same loss each time, logged or not."""
    batch = subject.batch()
    first = _value(subject.loss(batch))
    for again in (subject.loss(batch), subject.loss(batch, logged=False)):
        require(bool(_value(again) == first), f"expected the loss {first:g} each time, got {_value(again):g}")


CHECKS: dict[str, Callable[[ObjectiveSubject], None]] = {
    check.__name__: check
    for check in (settings, described, torch_free, shapes, finite, ignored, weights, chunked, gradient, repeatable)
}


def _plain(batch: TokenBatch) -> Tensor:
    logits = batch.logits
    return logits.hidden @ logits.weight.T if isinstance(logits, Projection) else logits


def _value(made: LossOutput) -> Tensor:
    """Returns the mean; 0 for a batch in which nothing counts."""
    return torch.as_tensor(made.mean())


def _sum(made: LossOutput) -> Tensor:
    return torch.stack([term.weight * term.sum for term in made.terms.values()]).sum()


def _gradient(subject: ObjectiveSubject, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Returns the loss, and its gradient with respect to the logits [N, V]."""
    logits = _plain(batch).detach().requires_grad_()
    loss = _value(subject.loss(replace(batch, logits=logits)))
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def _rows(batch: TokenBatch, rows: slice) -> TokenBatch:
    assert isinstance(batch.reference, Tensor)
    assert batch.group is not None
    assert batch.selected is not None
    return TokenBatch(
        _plain(batch)[rows],
        batch.labels[rows],
        batch.group[rows],
        batch.members,
        batch.selected[rows],
        reference=batch.reference[rows],
    )


def _require_near(what: str, got: Tensor, expected: Tensor) -> None:
    near = torch.isclose(got.detach(), expected.detach(), rtol=1e-9, atol=1e-9)
    require(bool(near), f"{what}: expected the loss {expected.item():.12g}, got {got.item():.12g}")
