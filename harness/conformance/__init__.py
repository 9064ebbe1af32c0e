"""Checks whether a part fulfils the contract of its kind: a model family that of harness.protocols, with nothing but
rendered pictures; other parts what their module in `parts` asks.

Every check is a function of a subject (of a model: Subject) that raises ContractError with what was expected, what
came and what to do, or NotApplicableError with the reason. A predictor that has no logits is asked what a Predictor
promises.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from harness import registry
from harness.conformance import contract, forward, learning, sampling, shortcuts, vocabulary
from harness.conformance.network import no_network
from harness.conformance.parts import benchmarks, correctors, measures, objectives, rewards, stages
from harness.conformance.subject import ContractError, NotApplicableError, Subject
from harness.errors import DetmodesError
from harness.inference.device import Device, accelerator_on

CHECKS: dict[str, Callable[[Subject], None]] = {
    "protocol": contract.protocol,
    "settings": contract.settings,
    "describe": contract.describe,
    "card": contract.card,
    "mask": vocabulary.mask,
    "round_trip": vocabulary.round_trip,
    "parsing": vocabulary.parsing,
    "pixels": forward.pixels,
    "logits": forward.logits,
    "hidden": forward.hidden,
    "padding": forward.padding,
    "batch": forward.batch,
    "rows": forward.rows,
    "generate": sampling.generate,
    "limit": sampling.limit,
    "greedy": sampling.greedy,
    "most_probable": sampling.most_probable,
    "samples": sampling.samples,
    "seed": sampling.seed,
    "neighbours": sampling.neighbours,
    "log_probs": sampling.log_probs,
    "asked": sampling.asked,
    "grammar": vocabulary.grammar,
    "scores": shortcuts.scores,
    "overfits": learning.overfits,
    "picture": learning.picture,
    "trains": learning.trains,
    "frozen": learning.frozen,
    "refills": shortcuts.refills,
    "save_load": learning.save_load,
    "bad_weights": learning.bad_weights,
    "offline": contract.offline,
}
"""The checks in the order in which an adapter is written. Samples come from the base, but those of `refills` and
`learning`."""


State = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended. message: why it failed or was skipped, in one line."""

    check: str
    state: State
    seconds: float
    message: str = ""


Tell = Callable[[Outcome], None]
Part = TypeVar("Part")


def check(
    made_by: type[Any],
    settings: Mapping[str, Any] | None = None,
    device: Device = "cpu",
    tell: Tell = lambda outcome: None,
) -> list[Outcome]:
    """Returns the outcome of every check of a model; `tell` is called with each as soon as it ends. If the class cannot
    be made, all other checks are skipped. During the checks this process cannot use the network."""
    with TemporaryDirectory() as folder, no_network() as tried:
        subject = Subject(made_by, settings or {}, accelerator_on(device), Path(folder), tried)
        return run_all(CHECKS, subject, tell)


def check_objective(name: str, settings: Mapping[str, Any] | None = None, tell: Tell = lambda _: None) -> list[Outcome]:
    """Returns the outcome of every check of an objective under these settings."""
    return run_all(objectives.CHECKS, objectives.ObjectiveSubject(name, settings or {}), tell)


def check_reward(name: str, tell: Tell = lambda _: None) -> list[Outcome]:
    """Returns the outcome of every check of a reward."""
    return run_all(rewards.CHECKS, rewards.RewardSubject(name), tell)


def check_corrector(name: str, tell: Tell = lambda _: None) -> list[Outcome]:
    """Returns the outcome of every check of a corrector of nSFT."""
    return run_all(correctors.CHECKS, correctors.CorrectorSubject(name), tell)


def check_measure(name: str, tell: Tell = lambda _: None) -> list[Outcome]:
    """Returns the outcome of every check of a measure."""
    return run_all(measures.CHECKS, measures.MeasureSubject(name), tell)


def check_stage(name: str, settings: Mapping[str, Any] | None = None, tell: Tell = lambda _: None) -> list[Outcome]:
    """Returns the outcome of every check of a stage."""
    return run_all(stages.CHECKS, stages.StageSubject(name, settings or {}), tell)


def check_family(
    name: str,
    settings: Mapping[str, Any] | None = None,
    device: Device = "cpu",
    tell: Tell = lambda _: None,
) -> list[Outcome]:
    """Returns the outcome of every check of the model `vlm` with this family."""
    return check(registry.find("model", "vlm"), {**(settings or {}), "family": name}, device, tell)


def check_benchmark(
    name: str, settings: Mapping[str, Any] | None = None, data: Path | None = None, tell: Tell = lambda _: None
) -> list[Outcome]:
    """Returns the outcome of every check of a benchmark; data: the folder of its files."""
    return run_all(benchmarks.CHECKS, benchmarks.BenchmarkSubject(name, settings or {}, data), tell)


def run_all(checks: Mapping[str, Callable[[Part], None]], subject: Part, tell: Tell) -> list[Outcome]:
    """Runs the checks one after another. If the first one fails, the others are skipped."""
    outcomes: list[Outcome] = []
    for name, one in checks.items():
        hopeless = outcomes and outcomes[0].state == "failed"
        see = f"see `{outcomes[0].check}`" if hopeless else ""
        outcomes.append(Outcome(name, "skipped", 0.0, see) if hopeless else run_check(name, one, subject))
        tell(outcomes[-1])
    return outcomes


def run(name: str, subject: Subject) -> Outcome:
    """Runs one check of a model."""
    return run_check(name, CHECKS[name], subject)


def run_check(name: str, one: Callable[[Part], None], subject: Part) -> Outcome:
    """Runs a check. The message of an error contains the line of the code that raised it."""
    started = time.perf_counter()
    state: State = "passed"
    message = ""
    try:
        one(subject)
    except NotApplicableError as reason:
        state, message = "skipped", str(reason)
    except ContractError as failure:
        state, message = "failed", str(failure)
    except DetmodesError as error:  # says all there is to say
        state, message = "failed", str(error)
    except Exception as error:
        state, message = "failed", f"{_kind(error)}{error}{_where(error)}"
    return Outcome(name, state, time.perf_counter() - started, " ".join(message.split()))


def _kind(error: Exception) -> str:
    """Returns the name of the error; nothing for a method that is not written yet, whose message is enough."""
    return "" if isinstance(error, NotImplementedError) else f"{type(error).__name__}: "


def _where(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno})"
