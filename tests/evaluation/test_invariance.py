"""Results do not depend on how work is cut into batches: what an image gets is its own, on a CPU in float32.

Elsewhere: every objective's gradient against one unpadded sequence at a time, in any micro-batches and on two ranks
(test_paths); curves and statistics in any micro-batches (test_train); padding and order in the losses alone
(objectives/test_invariants), in a batch's tensors (test_batches), in the model (model_zoo/test_open_flamingo); sampling
in any batch over known distributions (test_decoding); chunks of scores over the same (test_scores).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks.shapes import Shapes
from harness.evaluation.evaluate import Measurement, measure
from harness.evaluation.generation import generate
from harness.evaluation.scored_samples import EvaluationSettings
from harness.inference import teacher_forcing, tree_queries
from harness.inference.teacher_forcing import heldout_nll
from harness.suite.schema import SampleSettings
from harness.training.rows import Row
from harness.training.step import accumulate, with_samples
from harness.types import Sample
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import paths, small

SIZES = (1, 3, 32)
"""One image at a time, a size that leaves a remainder, and every image at once."""
REAL = {"log_prob", "name_score", "category_score", "location_score", "score"}
"""Columns that are made of probabilities: the others hold what was emitted, matched and counted."""


@cache
def benchmark() -> Shapes:
    """Of the harder domain: noisy pictures, as photographs are."""
    return Shapes({**small.SETTINGS, "domain": "cluttered"})


def shipped() -> OpenFlamingo:
    """A model that finds something in them."""
    adapter = OpenFlamingo(benchmark().categories, {})
    adapter.model.eval()
    return adapter


def settings(batch_images: int, grammar: bool = False) -> SampleSettings:
    return SampleSettings(samples=3, max_tokens=16, batch_images=batch_images, grammar=grammar)


# ---- generation --------------------------------------------------------------------------------------------------


def answers(batch_images: int, grammar: bool, kind: str) -> list[list[Sample]]:
    adapter = shipped() if kind == "trained" else small.fresh()
    return generate(adapter, benchmark().split("val"), 1.0, settings(batch_images, grammar), seed=4)


@pytest.mark.parametrize(
    ("kind", "grammar"),
    [
        *(("trained", True), ("random", False)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("trained", False), ("random", True))),
    ],
)
def test_answers_do_not_depend_on_the_batch_size(kind: str, grammar: bool) -> None:
    """Greedy and sampled tokens to the bit; the random model's choices are all close."""
    one, *others = (answers(size, grammar, kind) for size in SIZES)
    assert len({sample.tokens for of_image in one for sample in of_image}) > len(one)
    for other in others:
        assert [[s.tokens for s in of_image] for of_image in other] == [
            [s.tokens for s in of_image] for of_image in one
        ]
        torch.testing.assert_close(log_probs(other), log_probs(one), rtol=0, atol=1e-5)


def log_probs(answers: list[list[Sample]]) -> Tensor:
    """Of every token, one after the other."""
    return torch.tensor([value for of_image in answers for sample in of_image for value in sample.log_probs])


# ---- evaluation --------------------------------------------------------------------------------------------------


@cache
def measured(batch_images: int, chunk: int = teacher_forcing.CHUNK, positions: int = 8192) -> Measurement:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_queries, "POSITIONS", positions)
        patch.setattr(teacher_forcing, "CHUNK", chunk)
        nll = heldout_nll(shipped(), benchmark().split("calibration"))
        return measure(shipped(), benchmark(), EvaluationSettings(settings(batch_images)), step=5, heldout_nll=nll)


@pytest.mark.parametrize(
    ("batch_images", "chunk", "positions"), [(1, 64, 8192), (3, 64, 8192), (32, 1, 1), (32, 5, 100)]
)
def test_figures_and_tables_do_not_depend_on_the_batch_size(batch_images: int, chunk: int, positions: int) -> None:
    """Of generation, scoring and held-out loss: what is counted is equal, probabilities as float32 keeps them."""
    whole, cut = measured(32), measured(batch_images, chunk, positions)
    assert whole.info.metrics["AP"] is not None
    assert 0 < whole.info.metrics["AP"] < 1
    assert cut.info.metrics == whole.info.metrics
    assert cut.info.consensus == whole.info.consensus
    assert cut.info.diversity == whole.info.diversity
    assert cut.evaluation.per_category == whole.evaluation.per_category
    assert cut.info.heldout_nll == pytest.approx(whole.info.heldout_nll, abs=1e-5)
    assert cut.tables.keys() == whole.tables.keys()
    for name, table in whole.tables.items():
        assert_alike(table, cut.tables[name])


def assert_alike(a: pd.DataFrame, b: pd.DataFrame) -> None:
    real = [column for column in a if column in REAL]
    if "score" in real:  # ranked by it: what is equal but for its last digit may stand either way
        fixed = [str(column) for column in a if column not in real]
        a, b = (table.sort_values(fixed, ignore_index=True) for table in (a, b))
    pd.testing.assert_frame_equal(a.drop(columns=real), b.drop(columns=real))
    # A sequence's log-probability is a sum of float32 values of some -40: 1e-5 is two of its last digits there.
    np.testing.assert_allclose(a[real].to_numpy(float), b[real].to_numpy(float), rtol=1e-6, atol=1e-5)


# ---- training ----------------------------------------------------------------------------------------------------


def gradient(case: str, order: list[int]) -> Tensor:
    """Of the step of test_paths, its four images in this order; what the model samples for them is drawn in it too."""
    adapter, objective = paths.model(), paths.objective_of(case)
    plain = paths.rows_of(adapter, paths.objective_of("ce"))
    sets = [plain[at : at + 2] for at in range(0, len(plain), 2)]
    rows = [row for index in order for row in sets[index]]
    if "samples" in objective.needs:
        rows = with_samples(adapter, rows, 3, 12, seed=5)
    adapter.model.zero_grad()
    accumulate(adapter, rows, objective, 3, small.accelerator())
    return paths.flat([p.grad for p in adapter.model.parameters()], adapter)


@pytest.mark.parametrize("case", ["ce", "sed_sft live", "sed_sft base", "gem", "eco", "kl_uniform", "mrt"])
def test_the_gradient_does_not_depend_on_the_position_in_the_batch(case: str) -> None:
    """Another order puts other sequences together in a micro-batch too, and pads them to other lengths."""
    there, back = gradient(case, [0, 1, 2, 3]), gradient(case, [3, 1, 0, 2])
    assert (there - back).norm() < 1e-4 * there.norm()  # float32 sums in another order


def test_padding_adds_nothing_to_a_gradient() -> None:
    """The gradient of a long and a short target together is the mean, by tokens, of their gradients alone."""

    def of(*rows: Row) -> Tensor:
        adapter = small.fitted()
        accumulate(adapter, rows, paths.objective_of("ce"), len(rows), small.accelerator())
        return paths.flat([p.grad for p in adapter.model.parameters()], adapter)

    adapter = small.fitted()
    rows = sorted(paths.rows_of(adapter, paths.objective_of("ce")), key=lambda row: len(row.tokens))
    short, long = rows[0], rows[-1]
    n, m = len(short.tokens), len(long.tokens)
    assert n < m
    expected = (n * of(short) + m * of(long)) / (n + m)
    torch.testing.assert_close(of(short, long), expected, rtol=0, atol=1e-6 * float(expected.norm()))
