"""Answers to prompts that name categories: sampled, scored, put together, evaluated and trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.evaluation.answers import group_by_image, join_answers, read_and_match, read_sample
from harness.evaluation.evaluate import measure
from harness.evaluation.scored_samples import EvaluationSettings
from harness.inference.confidence import score
from harness.inference.decoding import uniforms
from harness.inference.padding import target_batch
from harness.inference.teacher_forcing import teacher_forced
from harness.metrics.samples.mentions import truth_of
from harness.protocols import Adapter
from harness.sequence import prompts
from harness.sequence.targets import members, target
from harness.suite.schema import SampleSettings
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from harness.training.rows import Row, batch_of, counts_of
from harness.training.stages.rollout import rollout
from harness.training.step import reference_selection
from harness.types import IGNORED_LABEL, Category, Example, Sample
from model_zoo.oracle import OracleCollapsed, OracleUniform
from model_zoo.pix2seq import Pix2Seq
from tests.sequence.test_prompts import CATEGORIES, A, B, C, image, vocabulary_codec
from tests.support import small
from tests.support.tiny import Scripted

# ---- sampling and scoring ------------------------------------------------------------------------------------------


def questions_of(adapter: Adapter) -> list[Example]:
    """Four images, prompts of three lengths (the open one is as long as one without a name)."""
    ids = [category.id for category in adapter.codec.categories]
    asked = [tuple(ids[:3]), tuple(ids[3:4]), None, tuple(ids[4:5])]
    return [replace(e, asked=a) for e, a in zip(small.fitted_examples(), asked, strict=True)]


def assert_each_as_alone(adapter: Adapter, questions: Sequence[Example], grammar: bool = False) -> None:
    """What is sampled for questions in one batch is what each gets alone, with the log-probabilities of a whole pass
    over its own prompt."""
    heat = [0.0, 1.0, 1.0]
    joint = adapter.generate(questions, heat, 3, 10, grammar)
    backwards = adapter.generate(questions[::-1], heat, 3, 10, grammar)[::-1]
    for question, answers, other in zip(questions, joint, backwards, strict=True):
        (alone,) = adapter.generate([question], heat, 3, 10, grammar)
        assert [s.tokens for s in answers] == [s.tokens for s in other] == [s.tokens for s in alone]
        for sample, same in zip(answers, alone, strict=True):
            assert sample.log_probs == pytest.approx(same.log_probs, abs=1e-4)
            batch = target_batch([sample.tokens], adapter.codec, [adapter.codec.prompt(question)])
            with torch.no_grad():
                log_p = adapter.logits(adapter.pixels([question]), batch.inputs)[0].log_softmax(-1)
            labelled = batch.labels[0] != IGNORED_LABEL
            expected = log_p[labelled].gather(1, batch.labels[0][labelled][:, None])[:, 0]
            assert sample.log_probs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("grammar", [False, True])
@pytest.mark.parametrize("kind", ["open_flamingo", "pix2seq"])
def test_prompts_of_different_lengths_sample_as_each_image_alone(kind: str, grammar: bool) -> None:
    torch.manual_seed(0)
    adapter = small.fitted() if kind == "open_flamingo" else Pix2Seq(small.benchmark().categories, {})
    adapter.model.eval()
    assert_each_as_alone(adapter, questions_of(adapter), grammar)


def test_questions_about_one_image_have_random_numbers_of_their_own() -> None:
    first, second = (image(5, asked=asked) for asked in ((7, 2), (5, 1)))
    drawn = uniforms([image(5), first, second], 2, 4, seed=0)
    assert len(set(drawn.flatten().tolist())) == drawn.numel()
    assert torch.equal(uniforms([second], 2, 4, seed=0), drawn[4:])
    expected = np.random.default_rng([0, 5, 1]).random(4)  # as ever where everything is asked
    assert drawn[1].tolist() == expected.tolist()


def test_targets_of_questions_about_one_image_are_drawn_apart() -> None:
    codec = vocabulary_codec()
    example = image(5, [(7, box) for box in (A, B, C)])
    drawn = [
        members(replace(example, asked=asked), codec, "random", seed=0, epoch=0, count=1)[0]
        for asked in ((7,), (7, 2), (7, 5), (7, 1), (7, 2, 5), None)
    ]
    assert len(set(drawn)) > 1  # of 6 x 8 members
    assert drawn[0] == members(replace(example, asked=(7,)), codec, "random", 0, 0, 1)[0]


def test_scores_do_not_depend_on_the_prompts_of_neighbours() -> None:
    adapter = small.fitted()
    questions = questions_of(adapter)
    sequences = [target(example, adapter.codec, "canonical") for example in questions]
    sequences[0] = sequences[0][:1]  # a name without a box is no mention
    sequences[3] = sequences[3][:-1]  # without an end
    parsed = [adapter.codec.decode(s, 64, 64) for s in sequences]
    joint = score(adapter, questions, sequences, parsed)
    assert [len(of_answer) for of_answer in joint] == [len(of_answer.mentions) for of_answer in parsed]
    for question, sequence, answer, scores in zip(questions, sequences, parsed, joint, strict=True):
        (alone,) = score(adapter, [question], [sequence], [answer])
        for one, other in zip(scores, alone, strict=True):
            assert (one.name, one.category, one.locations) == pytest.approx(
                (other.name, other.category, other.locations), abs=1e-5
            )
    opened = score(adapter, [replace(q, asked=None) for q in questions], sequences, parsed)
    assert opened[1] != joint[1]
    assert opened[2] == pytest.approx(joint[2])


def test_teacher_forcing_follows_each_prompt() -> None:
    adapter = small.fitted()
    questions = questions_of(adapter)
    sequences = [target(example, adapter.codec, "canonical") for example in questions]
    (forced,) = teacher_forced(adapter, questions, sequences)
    parts = torch.split(forced.logits, [len(sequence) for sequence in sequences])
    for question, sequence, part in zip(questions, sequences, parts, strict=True):
        tokens = torch.tensor([[*adapter.codec.prompt(question), *sequence]])
        with torch.no_grad():
            expected = adapter.logits(adapter.pixels([question]), tokens)[0, -len(sequence) - 1 : -1]
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=0)


# ---- answers to several questions ----------------------------------------------------------------------------------


def scripted(answers: Mapping[tuple[int, ...], Sequence[Any]] = {}) -> Scripted:
    """Answers by the key of a question."""
    return Scripted(vocabulary_codec(), lambda question: answers[question.key])


def test_what_is_said_to_all_questions_is_one_answer() -> None:
    """Two questions, K = 2. The first sample says a couch to the one, and to the other a mug that has no end; the
    second says something that cannot be read, then a lamp that was not asked about."""
    first, second = (image(4, asked=asked) for asked in ((7, 2), (5, 1)))
    told = scripted()
    names, end = told.codec.name_ids, told.codec.tokens.end
    couch, mug = told.sample([("couch", A)]), told.sample(told.sample([("mug", B)]).tokens[:-1])
    rubbish, lamp = told.sample((*names["sofa"], end)), told.sample([("lamp", C)])
    # A couch is 1 token, 4 locations and the end: the mug starts at 6.
    truth = truth_of([image(3), image(4, [(7, A), (1, B)])], CATEGORIES)
    reading = read_and_match(told, [first, second], truth, CATEGORIES, [[couch, rubbish], [mug, lamp]], 1.0)
    nothing, (one, two) = reading.samples
    assert one.sample == Sample((*couch.tokens, *mug.tokens), (*couch.log_probs, *mug.log_probs))
    assert [(m.name, m.box, m.name_start, m.name_end, m.box_start, m.box_end) for m in one.parsed.mentions] == [
        ("couch", A, 0, 1, 1, 5),
        ("mug", B, 6, 7, 7, 11),
    ]
    assert (one.parsed.malformed, one.parsed.truncated) == (0, True)
    assert one.text == f"{told.codec.text(couch.tokens)} {told.codec.text(mug.tokens)}"
    assert two.sample.tokens == (*rubbish.tokens, *lamp.tokens)
    assert [(m.name, m.category_id, m.name_start) for m in two.parsed.mentions] == [("lamp", 2, 2)]
    assert (two.parsed.malformed, two.parsed.truncated) == (1, False)
    assert [answer.sample for answer in nothing] == [Sample((), ())] * 2  # an image that nothing is asked about
    assert reading.verification.instance.tolist() == [0, 1, -1]
    assert reading.answers.malformed.tolist() == [[0, 0], [0, 1]]
    assert reading.answers.truncated.tolist() == [[False, False], [True, False]]


def test_an_answer_to_one_question_stays_what_it_is() -> None:
    told = scripted()
    answer = read_sample(told.codec, image(4), told.sample([("couch", A)]))
    assert join_answers([answer]) is answer


def test_answers_are_put_together_in_the_order_of_the_questions() -> None:
    truth = truth_of([image(8), image(2), image(5)], CATEGORIES)
    questions = [image(8, asked=(7,)), image(8, asked=(2,)), image(5, asked=(1,))]
    assert group_by_image(truth, questions, [["a", "b"], ["c", "d"], ["e", "f"]]) == [
        [("a", "c"), ("b", "d")],
        [(), ()],
        [("e",), ("f",)],
    ]


def as_asked(examples: Sequence[Example], categories: Sequence[Category], chunk: int) -> list[Example]:
    return [question for e in examples for question in prompts.about(e, prompts.verified(e), categories, chunk)]


@pytest.mark.parametrize("made_by", [OracleCollapsed, OracleUniform])
@pytest.mark.parametrize("chunk", [1, 5])
def test_the_oracles_bound_the_figures_as_ever(made_by: type[OracleCollapsed | OracleUniform], chunk: int) -> None:
    """What can be said about an image is the same, in however many questions: AP 1, recall 1, no hallucination."""
    benchmark = small.benchmark()
    oracle, settings = made_by(benchmark.categories, {}), SampleSettings(samples=4, batch_images=7)
    questions = as_asked(benchmark.split("val"), benchmark.categories, chunk)
    result = measure(oracle, benchmark, EvaluationSettings(settings), step=0, heldout_nll=None, questions=questions)
    assert result.info.metrics["AP"] == pytest.approx(1.0)
    assert result.info.consensus["AP"] == pytest.approx(1.0)
    assert (result.info.diversity["recall"], result.info.diversity["hallucination_rate"]) == (1.0, 0.0)
    collapsed = made_by is OracleCollapsed
    assert (result.info.diversity["name_diversity"] == 0.0) == collapsed
    samples, mentions = result.tables["samples"], result.tables["mentions"]
    assert len(samples) == 5 * len(benchmark.split("val"))
    count = sum(len(example.instances) for example in benchmark.split("val"))
    assert len(mentions) == 5 * count
    assert mentions["instance_id"].notna().all()


def test_the_uniform_oracle_draws_apart_for_each_question() -> None:
    """Two names each: of 64 pairs of draws about half agree, with a standard deviation of 4."""
    example = image(4, [(7, A), (1, B)])
    questions = prompts.about(example, prompts.verified(example), CATEGORIES, 1)
    oracle = OracleUniform(CATEGORIES, {})
    sofas, mugs = oracle.generate([questions[0], questions[-1]], [1.0] * 64, 0, 16)
    first = [oracle.codec.name_ids[name][0] for name in ("sofa", "mug")]
    same = sum((a.tokens[0] == first[0]) == (b.tokens[0] == first[1]) for a, b in zip(sofas, mugs, strict=True))
    assert 16 <= same <= 48


def test_the_tables_are_those_of_the_whole_answers() -> None:
    """The name of the second question's mention has the log-probability of its own token: -0.25 as the first of its
    sequence, beside -0.5 - 0.75 - 1 - 1.25 of its box."""
    benchmark = small.benchmark()
    example = next(e for e in benchmark.split("val") if len(prompts.present(e)) > 1)
    codec_names = {c.id: c.name for c in benchmark.categories}

    def right(question: Example) -> list[Any]:
        return [[(codec_names[i.category_id], i.box) for i in question.instances]] * 3

    predictor = Scripted(OracleCollapsed(benchmark.categories, {}).codec, right)
    questions = as_asked(benchmark.split("val"), benchmark.categories, 1)
    asked = EvaluationSettings(SampleSettings(samples=2))
    result = measure(predictor, benchmark, asked, step=0, heldout_nll=None, questions=questions)
    mentions = result.tables["mentions"].query(f"image_id == {example.image_id} and sample == 1")
    alone = mentions.groupby("category_id")["name"].transform("size") == 1
    assert len(mentions[alone]) > 1
    assert mentions[alone]["name_score"].to_numpy() == pytest.approx(np.exp(-0.25))
    assert mentions[alone]["location_score"].to_numpy() == pytest.approx(np.exp(-3.5))
    assert mentions["position"].tolist() == list(range(len(mentions)))


# ---- training ------------------------------------------------------------------------------------------------------


def test_the_mask_covers_the_target_alone_whatever_is_asked() -> None:
    adapter = small.fresh()
    examples = [
        replace(e, asked=asked) for e, asked in zip(small.train_examples(3), (None, (1, 2, 3), (4,)), strict=True)
    ]
    rows = [Row(e, target(e, adapter.codec, "canonical")) for e in examples]
    rows.append(replace(rows[1], context=rows[0].tokens[:3]))
    batch = batch_of(rows, adapter)
    for row, inputs, labels, kinds in zip(rows, batch.inputs, batch.labels, batch.kinds, strict=True):
        assert tuple(labels[labels != IGNORED_LABEL].tolist()) == row.tokens
        assert kinds[labels != IGNORED_LABEL].tolist() == adapter.codec.kinds(row.tokens)
        before = (*adapter.codec.prompt(row.example), *row.context)
        first = int((labels != IGNORED_LABEL).nonzero()[0, 0])
        assert tuple(inputs[: first + 1].tolist()) == before


def test_questions_about_one_image_are_sets_of_their_own() -> None:
    first, second = (image(4, [(7, A)], asked=asked) for asked in ((7, 2), (5, 1)))
    rows = [Row(first, (1, 2)), Row(first, (2, 1)), Row(second, (1,)), Row(second, (1,))]
    assert counts_of(rows)["sets"] == 2
    assert counts_of(rows[1:])["sets"] == 1  # not the three of the image


def test_what_the_base_selects_is_kept_for_each_question() -> None:
    base, settings = small.fresh(), {"top_k": 5, "threshold": 0.9, "weight": 1.0, "mask": "base"}
    objective = prepare("sed_sft", settings, base, (), Train(), 0)
    example = small.train_examples(1)[0]
    end = (base.codec.tokens.end,)
    rows = [Row(replace(example, asked=asked), end) for asked in (None, (1, 2), (3,))]
    reference_selection(objective, rows, base.pixels([example]).repeat(3, 1, 1, 1))
    assert set(objective.selections) == {(example.image_id, asked + end) for asked in ((), (1, 2, -1), (3, -1))}


def test_a_rollout_judges_a_question_by_what_it_asks() -> None:
    """A couch is all there is to say to the first question and wrong as an answer to the second, which asks about what
    is not there; silence is the other way round."""
    example = image(4, [(7, A), (1, B)], negative=frozenset({5}))
    first, second = (q for asked in ((7,), (5,)) for q in prompts.about(example, asked, CATEGORIES, 1))
    end = vocabulary_codec().tokens.end
    objects = [[("couch", A)], (end,)]
    told = scripted({first.key: objects, second.key: objects})
    rolled = rollout(told, [first, second], "f_score", 2, 1.0, 16, 0)
    assert rolled.rewards.tolist() == [[1.0, 0.0], [0.0, 1.0]]
