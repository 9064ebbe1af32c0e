"""FLOP of a tiny transformer by hand, and those of a real network against torch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from harness.inference.outline import NetworkPart, NetworkShape, shape_of
from harness.inference.padding import target_batch
from harness.run.cost import arithmetic, reference
from harness.run.cost.arithmetic import Cost, Decoded, Passed
from harness.run.cost.hardware import Hardware, Rates
from harness.sequence.targets import target
from harness.types import IGNORED_LABEL
from model_zoo.flamingo.published import OpenFlamingoHf
from model_zoo.pix2seq import Pix2Seq
from tests.support import small

EYES = NetworkPart("eyes", "image", positions=3, trained=0, frozen=20, calls=1)
KEYS = NetworkPart("keys", "row", positions=3, trained=8, frozen=0, calls=1)
CROSS = NetworkPart("cross", "token", positions=1, trained=16, frozen=0, calls=2, layers=1, width=2, keys=3)
DECODER = NetworkPart(
    "decoder", "token", positions=1, trained=0, frozen=192, calls=7, layers=1, width=4, keys=None, cached=8
)
TINY = NetworkShape((EYES, KEYS, CROSS, DECODER), width=4, vocabulary=10, head_trains=False, learns_tokens=False)
TWO_ROWS = Passed(images=1, rows=2, positions=10, pairs=50, outputs=6)
"""Two rows of five tokens about one image, with loss at six of them."""

# Forward, in FLOP.
# eyes     2 x 20 numbers x 3 positions of 1 image              =   120
# keys     2 x 8 x 3 positions of 2 rows                        =    96
# cross    2 x 16 x 10 tokens + 4 x 1 layer x 2 x (10 x 3 keys) =   320 + 240
# decoder  2 x 192 x 10 + 4 x 1 x 4 x (2 x 5^2 pairs)           = 3,840 + 800
# head     2 x (4 x 10) x 6                                     =   480
FORWARD = 120 + 96 + 560 + 4640 + 480


def test_a_forward_pass_by_hand() -> None:
    assert arithmetic.forward(TINY, TWO_ROWS, number=4).flops == FORWARD


def test_a_backward_pass_by_hand() -> None:
    """Nothing goes back into the eyes, which are frozen and come first. Through each other part goes a gradient (once
    its matrices, twice its attention), and those that train have one of their own:
    keys 96 + 96, cross 320 + 2 x 240 + 320, decoder 3,840 + 2 x 800, head 480 + 480."""
    backward = (96 + 96) + (320 + 480 + 320) + (3840 + 1600) + 960
    assert arithmetic.training(TINY, TWO_ROWS, 4, recomputed=False, chunk=6).flops == FORWARD + backward
    again = arithmetic.training(TINY, TWO_ROWS, 4, recomputed=True, chunk=6).flops
    assert again == FORWARD + backward + 96 + 560 + 4640


def test_nothing_goes_back_before_the_first_part_that_trains() -> None:
    frozen = replace(TINY, parts=(EYES, replace(KEYS, trained=0, frozen=8), replace(CROSS, trained=0, frozen=16)))
    assert [reached for _, reached in arithmetic.gradients(frozen)] == [False, False, False]
    assert [reached for _, reached in arithmetic.gradients(TINY)] == [False, True, True, True]
    learning = replace(frozen, learns_tokens=True)  # tokens come in where the first part reads them
    assert [reached for _, reached in arithmetic.gradients(learning)] == [False, False, True]


def test_generation_by_hand() -> None:
    """Two rows about one image, a prompt of 2 tokens and answers of 3: eyes and keys once for the image; the prompts
    are 4 positions and 2 x 2^2 pairs; then 6 tokens, whose caches have 2 x (2 + 3 + 4) positions."""
    batch = Decoded(images=1, rows=2, prompt=2, steps=3, row_steps=6, cached=18)
    prompts = 120 + 48 + (2 * 16 * 4 + 4 * 2 * 12) + (2 * 192 * 4 + 16 * 8) + 80 * 4
    tokens = (2 * 16 * 6 + 4 * 2 * 18) + (2 * 192 * 6 + 16 * 18) + 80 * 6
    assert arithmetic.decoding(TINY, batch, 4).flops == prompts + tokens
    shared = arithmetic.decoding(replace(TINY, shares_prompt=True), batch, 4).flops
    assert shared == tokens + 120 + 48 + (2 * 16 * 2 + 4 * 2 * 6) + (2 * 192 * 2 + 16 * 4) + 80 * 2


@pytest.mark.parametrize("settings", [{}, {"trains": "flamingo"}, {"language": "toy-llama", "every": 2}])
def test_flop_of_training_are_those_that_torch_counts(settings: dict[str, object]) -> None:
    """Within 3%: torch leaves out nothing but what is small, and we the projections of pooled features."""
    torch.manual_seed(0)
    check_flop_of_training(OpenFlamingoHf(small.benchmark().categories, settings), 0.03)


def test_flop_of_a_convolutional_backbone() -> None:
    torch.manual_seed(0)
    check_flop_of_training(Pix2Seq(small.benchmark().categories, {}), 0.05)


def check_flop_of_training(adapter: OpenFlamingoHf | Pix2Seq, tolerance: float) -> None:
    examples = small.train_examples(4)
    batch = target_batch([target(example, adapter.codec, "canonical") for example in examples], adapter.codec)
    labelled = batch.labels != IGNORED_LABEL
    adapter.model.train()
    with FlopCounterMode(display=False) as counter:
        states = adapter.hidden(adapter.pixels(examples), batch.inputs).take(labelled)
        logits = F.linear(states.hidden, states.weight)
        torch.autograd.backward(F.cross_entropy(logits, batch.labels[labelled]))
    rows, length = batch.inputs.shape
    passed = Passed(rows, rows, rows * length, rows * length**2, int(labelled.sum()))
    shape, says = shape_of(adapter)
    counted = arithmetic.training(shape, passed, 4, recomputed=False, chunk=10**9).flops
    assert says
    assert counted == pytest.approx(counter.get_total_flops(), rel=tolerance)


def test_of_several_operations_a_cpu_waits_and_a_gpu_does_not() -> None:
    """1 TFLOP at 40% of 1 TFLOP/s is 2.5 s, 6 GB at 60% of 10 GB/s 1 s, 1,000 operations of 1 ms 1 s."""
    device = Hardware("one", flops=1e12, flops_fp32=5e11, bandwidth=1e10, memory=1e9, operation=1e-3)
    cost = Cost(1e12, 4e9, 1000, 2e9)
    assert device.seconds(cost, bf16=True) == 2.5
    assert device.seconds(cost, bf16=False) == 5.0
    measured = Rates(flops=1e12, bandwidth=2e9, operation=2e-3, streaming=1e9)
    waiting = replace(device, waits=True, phases={"training": measured})
    assert waiting.seconds(cost, bf16=True) == 4.5
    assert waiting.seconds(cost, bf16=True, phase="training") == 1 + 2 + 2 + 2


def test_rates_are_those_that_explain_what_was_measured() -> None:
    """Passes whose seconds are made from rates give these rates back; what no pass has takes no time."""
    rates = Rates(flops=1e11, bandwidth=5e9, operation=1e-5, streaming=2e10)
    amounts = [(1e6, 1e6, 90, 0), (5e8, 1e7, 100, 1e6), (1e9, 9e8, 10, 5e6), (2e10, 1e6, 1, 1e7)]
    passes = [(cost, sum(rates.times(cost))) for cost in (Cost(*each) for each in amounts)]
    fitted = reference.fitted_rates(passes, 2e10)
    assert (fitted.flops, fitted.bandwidth, fitted.operation) == pytest.approx((1e11, 5e9, 1e-5))
    lean = [(Cost(cost.flops, 0, cost.operations), cost.flops / 1e11) for cost, _ in passes]
    assert reference.fitted_rates(lean, 2e10).times(Cost(1e11, 1e9, 5)) == pytest.approx((1, 0, 0), abs=1e-6)
