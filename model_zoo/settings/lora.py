"""What a suite may say of low-rank changes (`lora: {rank: 8, alpha: 16, targets: [q_proj, v_proj]}`), for all models
that have some. Without torch and peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import settings as checks
from harness.settings import Setting

RANK = 16
SETTING = Setting("keys among rank, alpha, targets", lambda value: isinstance(value, Mapping))
PARTS = {
    "rank": checks.whole(1),
    "alpha": checks.whole(1),
    "targets": Setting(
        "a list of names of modules",
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(x, str) for x in value),
    ),
}


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank changes (Hu et al., ICLR 2022; arXiv 2106.09685): W + alpha / rank * B A.

    Args:
        rank: columns of B and rows of A.
        alpha: by default twice the rank.
        targets: how the names of the changed linear maps end; None: those of the attention.
    """

    rank: int = RANK
    alpha: int = 2 * RANK
    targets: tuple[str, ...] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LoraSettings:
        """Reads the setting `lora` of a model, which has no problems."""
        given = settings.get("lora") or {}
        rank = given.get("rank", RANK)
        targets = given.get("targets")
        return cls(rank, given.get("alpha", 2 * rank), None if targets is None else tuple(targets))


def problems(owner: str, settings: Mapping[str, Any]) -> list[str]:
    """Lists what is wrong with the setting `lora` of a model (`vlm`), and with its absence of use."""
    given = settings.get("lora")
    if not isinstance(given, Mapping):  # none, or told already
        return []
    lines = checks.problems(f"{owner}.lora", given, PARTS)
    if settings.get("trains") != "lora":
        lines.append(f"{owner}.lora: expected with trains: lora, and only there")
    return lines
