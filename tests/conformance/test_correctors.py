"""The corrector that is shipped passes its checks, and each check notices the one thing that it is there for."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from harness import conformance, registry
from harness.conformance.parts import correctors
from harness.protocols import Correction
from harness.sequence import Codec
from harness.types import Box

CALLS = count()


def test_the_corrector_of_ours_passes() -> None:
    outcomes = conformance.check_corrector("templates")
    assert [(outcome.check, outcome.state) for outcome in outcomes] == [(name, "passed") for name in correctors.CHECKS]


@pytest.mark.parametrize("check", correctors.CHECKS)
def test_each_check_of_a_corrector_notices_its_fault(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = correctors.CorrectorSubject("templates")
    honest = subject.made()

    def spoil(correction: Correction, codec: Codec) -> Correction:
        broken: dict[str, Correction] = {
            "fields": replace(correction, kind="other"),  # type: ignore[arg-type]
            "readable": replace(correction, answer=(*correction.answer[:1], *correction.answer)),
            "right": replace(correction, context=(), answer=codec.encode([("disc", Box(0, 0, 4, 4))], 64, 64)),
            "repeatable": replace(correction, reply=f"{next(CALLS)}"),
        }
        return broken[check]

    def made(name: str, codec: Codec, targets: Any) -> Any:
        del name, targets
        if check == "made":
            return lambda *given: []
        return lambda *given: [spoil(correction, codec) for correction in honest(*given)]

    monkeypatch.setattr(registry, "corrector", made)
    outcome = conformance.run_check(check, correctors.CHECKS[check], correctors.CorrectorSubject("templates"))
    assert outcome.state == "failed", outcome
