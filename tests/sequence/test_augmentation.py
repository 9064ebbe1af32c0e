"""Noise objects: what they are, that they are told apart and that nothing is learnt about where they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import ConfigError
from harness.inference.padding import target_batch
from harness.sequence import NOISE, Codec, CoordinateSpace, Grammar, NameVocabulary, TokenFormat
from harness.sequence.noise_objects import JITTER, noise_boxes, with_noise
from harness.sequence.targets import fewer_objects, target
from harness.suite.train_settings import MaxObjects, Train
from harness.training.finetuning import FineTuning, left_out_objects, rows_of
from harness.training.loop import train
from harness.training.objective import Objective, prepare
from harness.training.rows import Row
from harness.training.schedule import Draw
from harness.training.stage import Work
from harness.training.step import accumulate
from harness.types import Box, Category, Example, Instance
from model_zoo.pix2seq import Pix2Seq
from tests.support import small

BINS = 5
CATEGORIES = (Category(1, ("sofa", "couch"), "f"), Category(2, ("lamp",), "r"))
LOC, SEP, END, SOFA, COUCH, LAMP, NOTHING = 5, 3, 4, 10, 11, 12, 13
"""Tokens of the vocabulary below: five special ones, five locations (from LOC), three names, and noise."""
EXAMPLE = Example(7, Path("none.png"), 8, 8, (Instance(1, 2, Box(0, 2, 4, 6)),))
"""A lamp; in yxyx its bins are 1 0 4 2 (a bin is two pixels)."""
LAMPS = (LOC + 1, LOC, LOC + 4, LOC + 2, LAMP)
A_BOX = (LOC, LOC + 1, LOC + 2, LOC + 3)


def codec_of(noise_objects: int) -> Codec:
    tokens = NameVocabulary(["sofa", "couch", "lamp", *([NOISE] if noise_objects else [])], BINS)
    return Codec(CATEGORIES, tokens, CoordinateSpace(BINS), TokenFormat(tokens, name_first=False), noise_objects)


def pix2seq(noise_objects: int) -> Pix2Seq:
    torch.manual_seed(0)
    settings = {"backbone": "test_resnet", "width": 32, "layers": 1, "noise_objects": noise_objects}
    return Pix2Seq(small.benchmark().categories, settings)


# ---- boxes ---------------------------------------------------------------------------------------------------------


def test_boxes_are_of_three_kinds_in_equal_shares() -> None:
    """Of one real box: the same size elsewhere; every edge within JITTER of its place; anything else."""
    real = Box(20, 30, 10, 5)
    boxes = noise_boxes([real], 3000, 100, 50, np.random.default_rng(0))
    assert len(boxes) == 3000

    def kind(box: Box) -> str:
        if (box.w, box.h) == (real.w, real.h):
            return "moved"
        slack = (JITTER * real.w, JITTER * real.h) * 2
        near = [abs(a - b) <= s for a, b, s in zip(box.corners, real.corners, slack, strict=True)]
        return "jittered" if all(near) else "anywhere"

    shares = Counter(map(kind, boxes))
    assert set(shares) == {"moved", "jittered", "anywhere"}
    assert all(abs(count - 1000) < 5 * 26 for count in shares.values())  # 26: the binomial standard deviation


@settings(max_examples=40)
@given(
    st.lists(st.tuples(*[st.floats(0, 40)] * 2, *[st.floats(0, 60)] * 2), max_size=3),
    st.integers(0, 20),
    st.integers(0, 9),
)
def test_boxes_lie_in_the_picture(real: list[tuple[float, float, float, float]], count: int, seed: int) -> None:
    """Also where real ones reach out of it."""
    boxes = noise_boxes([Box(*box) for box in real if min(box[2:]) > 0], count, 40, 50, np.random.default_rng(seed))
    assert len(boxes) == count
    for box in boxes:
        x0, y0, x1, y1 = box.corners
        assert 0 <= x0 <= x1
        assert 0 <= y0 <= y1
        if box.w <= 40 and box.h <= 50:
            assert x1 <= 40 + 1e-9
            assert y1 <= 50 + 1e-9


def test_without_objects_all_are_anywhere() -> None:
    boxes = noise_boxes([], 200, 100, 100, np.random.default_rng(0))
    assert len({(box.w, box.h) for box in boxes}) == 200


# ---- sequences -----------------------------------------------------------------------------------------------------


def test_an_extended_sequence_by_hand() -> None:
    codec = codec_of(3)
    plain = target(EXAMPLE, codec, "canonical")
    assert plain == (*LAMPS, END)
    boxes = [Box(2, 0, 4, 4), Box(0, 0, 8, 8)]
    extended = codec.extended(plain, boxes, 8, 8)
    whole = (LOC, LOC, LOC + 4, LOC + 4)
    assert extended == (*LAMPS, SEP, *A_BOX, NOTHING, SEP, *whole, NOTHING, END)
    assert codec.counted(extended) == [True] * 6 + [False] * 4 + [True] * 2 + [False] * 4 + [True] * 2
    assert all(codec.counted(plain))
    nothing = codec.extended((END,), boxes[:1], 8, 8)
    assert nothing == (*A_BOX, NOTHING, END)


def test_decoding_drops_noise_and_nothing_else() -> None:
    codec = codec_of(3)
    noise = (*A_BOX, NOTHING)
    parsed = codec.decode((*noise, SEP, *LAMPS, SEP, *noise, END), 8, 8)
    (mention,) = parsed.mentions
    assert (mention.name, mention.category_id, mention.box) == ("lamp", 2, Box(0, 2, 4, 6))
    assert (mention.box_start, mention.name_start, mention.name_end) == (6, 10, 11)  # as it was emitted
    assert (parsed.malformed, parsed.truncated) == (0, False)
    without_area = (LOC + 2, LOC, LOC, LOC, NOTHING)
    assert codec.decode((*without_area, END), 8, 8).malformed == 0
    assert codec.decode((*A_BOX[:3], NOTHING, END), 8, 8).malformed == 1
    truncated = codec.decode((*LAMPS, SEP, *noise, SEP, *A_BOX), 8, 8)
    assert (len(truncated.mentions), truncated.malformed, truncated.truncated) == (1, 0, True)
    assert codec.decode((*noise, END), 8, 8).mentions == ()


def test_the_grammar_admits_noise_where_a_name_may_stand() -> None:
    for count, expected in ((0, {SOFA, COUCH, LAMP}), (3, {SOFA, COUCH, LAMP, NOTHING})):
        walk, state = Grammar(codec_of(count)), Grammar.START
        for token in A_BOX:
            assert NOTHING not in walk.allowed(state)
            state = walk.advance(state, token)
        assert walk.allowed(state) == expected
        assert walk.allowed(walk.advance(state, max(expected))) == {SEP, END}


def test_every_target_has_so_many_entries() -> None:
    for wanted, entries in ((1, 1), (2, 2), (6, 6)):
        codec = codec_of(wanted)
        tokens = with_noise(target(EXAMPLE, codec, "canonical"), EXAMPLE, codec, 0, 0)
        assert len(codec.form.entries(tokens[:-1], False)) == entries
        assert codec.decode(tokens, 8, 8) == codec.decode(target(EXAMPLE, codec, "canonical"), 8, 8)
    many = replace(EXAMPLE, instances=EXAMPLE.instances * 3)
    plain = target(many, codec_of(2), "canonical")
    assert with_noise(plain, many, codec_of(2), 0, 0) == plain


def test_noise_depends_on_seed_epoch_and_image() -> None:
    codec = codec_of(6)
    plain = target(EXAMPLE, codec, "canonical")

    def noise(seed: int = 0, epoch: int = 0, image: int = 7) -> tuple[int, ...]:
        return with_noise(plain, replace(EXAMPLE, image_id=image), codec, seed, epoch)

    assert noise() == noise()
    assert len({noise(), noise(seed=1), noise(epoch=1), noise(image=8)}) == 4


# ---- training ------------------------------------------------------------------------------------------------------


def test_rows_without_the_option_are_what_they_were() -> None:
    drawn = [Draw(0, 0, 0), Draw(1, 0, 0)]
    examples = small.train_examples(1)
    plain_rows, other = (rows_of(pix2seq(count), examples, drawn, "canonical", 0) for count in (0, 6))
    plain = target(examples[0], pix2seq(0).codec, "canonical")
    assert [row.tokens for row in plain_rows] == [plain, plain]
    assert "noise_objects" not in pix2seq(0).describe()  # as records had it
    assert pix2seq(6).describe()["noise_objects"] == 6
    assert other[0].tokens != other[1].tokens


# ---- fewer objects ---------------------------------------------------------------------------------------------------


def with_areas(*sides: int) -> Example:
    instances = tuple(Instance(n, 1, Box(0.0, float(n), float(side), 1.0)) for n, side in enumerate(sides, 1))
    return replace(small.train_examples(1)[0], instances=instances)


def ids(example: Example) -> list[int]:
    return [instance.id for instance in example.instances]


def test_the_smallest_objects_are_left_out_and_the_order_of_the_rest_stays() -> None:
    example = with_areas(5, 1, 9, 3, 5)
    assert ids(fewer_objects(example, 3, "smallest", 0, 0)) == [1, 3, 5]
    assert ids(fewer_objects(example, 2, "smallest", 7, 4)) == [1, 3]  # of equals the first
    assert fewer_objects(example, 5, "smallest", 0, 0) is fewer_objects(example, 5, "random", 0, 0) is example


def test_random_objects_are_left_out_others_in_every_epoch() -> None:
    example = with_areas(*[1] * 8)
    chosen = [ids(fewer_objects(example, 3, "random", 0, epoch)) for epoch in range(400)]
    assert chosen[5] == ids(fewer_objects(example, 3, "random", 0, 5))
    assert all(numbers == sorted(set(numbers)) and len(numbers) == 3 for numbers in chosen)
    counts = [sum(number in numbers for numbers in chosen) for number in range(1, 9)]
    assert max(abs(count - 150) for count in counts) < 45  # each with probability 3/8: five standard deviations of 9.7
    assert ids(fewer_objects(example, 3, "random", 1, 0)) != chosen[0]


@pytest.mark.parametrize("drop", ["smallest", "random"])
def test_targets_list_no_more_objects_than_they_may(drop: str) -> None:
    adapter, examples = pix2seq(0), small.train_examples(6)
    drawn = [Draw(epoch, n, 0) for n in range(6) for epoch in range(2)]
    rows = rows_of(adapter, examples, drawn, "canonical", 0, MaxObjects.model_validate({"number": 1, "drop": drop}))
    parsed = [adapter.codec.decode(row.tokens, row.example.width, row.example.height) for row in rows]
    assert [len(answer.mentions) for answer in parsed] == [1] * len(rows)
    assert [row.example for row in rows] == [examples[draw.image] for draw in drawn]  # the picture stays whole
    several = [n for n in range(6) if len(examples[n].instances) > 1]
    assert several
    assert left_out_objects(examples, MaxObjects(number=1)) == {
        "images": len(several),
        "objects": sum(len(examples[n].instances) - 1 for n in several),
    }
    assert left_out_objects(examples, None) is None


def extended_rows(adapter: Pix2Seq, count: int = 3) -> list[Row]:
    return rows_of(adapter, small.train_examples(count), [Draw(0, n, 0) for n in range(count)], "canonical", 0)


def fine_tuning(adapter: Pix2Seq, **weights: float) -> Objective:
    return prepare("ce", {}, adapter, (), Train(loss_weights=weights), 0)


def gradient(adapter: Pix2Seq) -> Tensor:
    return torch.cat([p.grad.flatten() for p in adapter.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("weights", [{}, {"location": 0.5, "name": 2.0}])
def test_where_noise_is_has_no_gradient(weights: dict[str, float]) -> None:
    """Against torch's cross-entropy with weights by position; what is averaged over stays all positions."""
    adapter = pix2seq(6)
    rows = extended_rows(adapter)
    adapter.model.eval()
    output = accumulate(adapter, rows, fine_tuning(adapter, **weights), 2, small.accelerator())
    derivative = gradient(adapter)
    adapter.model.zero_grad()
    batch = target_batch([row.tokens for row in rows], adapter.codec)
    logits = adapter.logits(adapter.pixels([row.example for row in rows]), batch.inputs)
    each = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
    first, noise = adapter.tokens.locations[0], adapter.tokens.ids[NOISE]
    total, count = torch.zeros(()), 0
    loss = each.view(batch.labels.shape)
    for row, start in ((index, 1) for index in range(len(rows))):  # targets begin after two tokens of prompt
        tokens = rows[row].tokens
        for position, token in enumerate(tokens):
            location = first <= token < first + 65
            # six tokens an entry: four of the box, the name, a separator
            silent = location and tokens[position - position % 6 + 4] == noise
            weight = weights.get("location" if location else "name" if position % 6 == 4 else "other", 1.0)
            total = total + (0.0 if silent else weight) * loss[row, start + position]
            count += 1
    (total / count).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(output.mean(), (total / count).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(derivative, gradient(adapter), atol=1e-5, rtol=1e-3)


def test_objectives_over_whole_sequences_are_refused() -> None:
    adapter = pix2seq(6)
    with pytest.raises(ConfigError, match=r"eco: it compares whole sequences, which noise_objects extends"):
        prepare("eco", {}, adapter, (), Train(targets="all(2)", batching="grouped"), 0)
    prepare("eco", {}, pix2seq(0), (), Train(targets="all(2)", batching="grouped"), 0)


def test_stages_that_follow_are_refused() -> None:
    adapter, plan, examples = pix2seq(6), Train(steps=1, batch_size=4), small.train_examples(4)
    stage = FineTuning(fine_tuning(adapter), plan)
    with pytest.raises(ConfigError, match="noise_objects: expected 0 where a stage follows"):
        train(Work(adapter, examples, 0, small.accelerator()), [stage, stage])


def test_it_learns_to_say_what_is_there_and_then_noise() -> None:
    adapter, examples = pix2seq(4), small.fitted_examples()[:2]
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=3e-3)
    objective = fine_tuning(adapter)
    for epoch in range(100):
        rows = rows_of(adapter, examples, [Draw(epoch, n, 0) for n in range(2)], "canonical", 0)
        optimizer.zero_grad()
        accumulate(adapter, rows, objective, 2, small.accelerator(), logged=False)
        optimizer.step()
    adapter.model.eval()
    answers = adapter.generate(examples, [0.0], 0, 40, grammar=True)
    for example, (sample,) in zip(examples, answers, strict=True):
        codec = adapter.codec
        assert sample.tokens.count(adapter.tokens.ids[NOISE]) == 4 - len(example.instances)
        plain = target(example, codec, "canonical")
        assert codec.decode(sample.tokens, 64, 64) == codec.decode(plain, 64, 64)
