"""A corrector of another package: detmodes' own, of which the first correction of an answer stays."""

from __future__ import annotations

import numpy as np

from harness.metrics.diagnosis.codebook import SampleErrors
from harness.protocols import Correction
from harness.training.stages.corrections import Templates
from harness.types import Example, Parsed


class FirstOutside(Templates):
    def __call__(
        self, example: Example, parsed: Parsed, errors: SampleErrors, rng: np.random.Generator, /
    ) -> list[Correction]:
        return super().__call__(example, parsed, errors, rng)[:1]
