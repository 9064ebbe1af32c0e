"""What each token of a prompt and of an answer sees, and what a prompt asks about."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from harness.errors import ConfigError
from harness.inference.confidence import score
from harness.inference.padding import target_batch
from harness.sequence.targets import target
from harness.types import Box
from model_zoo.vlm.families import FAMILIES
from tests.evaluation.test_questions import assert_each_as_alone, questions_of
from tests.model_zoo.vlm.toys import EACH, canonical, fresh, shared
from tests.support import small


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_an_image_token_that_a_model_emits_holds_no_image(family: str) -> None:
    adapter = shared(family)
    pixels, tokens = canonical(adapter, 2)
    before = len(adapter.tokens.prompt)
    emitted = tokens.clone()
    emitted[0, before + 1] = adapter._image
    clean, altered = (adapter.logits(pixels, ids) for ids in (tokens, emitted))
    torch.testing.assert_close(altered[1], clean[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(altered[0, : before + 1], clean[0, : before + 1], atol=1e-4, rtol=0)
    assert (altered[0, before + 1 :] - clean[0, before + 1 :]).abs().max() > 1e-3


@torch.no_grad()
def test_the_prompt_sees_all_of_itself_and_the_answer_what_stands_before() -> None:
    """PaliGemma: the question changes what is said of the image that stands before it."""
    adapter = shared("paligemma")
    pixels, tokens = canonical(adapter, 1)
    asked, answered = tokens.clone(), tokens.clone()
    asked[0, len(adapter.tokens.prompt) - 2] += 1
    answered[0, -2] += 1
    clean = adapter.logits(pixels, tokens)
    assert (adapter.logits(pixels, asked) - clean)[0, 0].abs().max() > 1e-6
    assert torch.equal(
        adapter.logits(pixels, answered)[0, : len(adapter.tokens.prompt)], clean[0, : len(adapter.tokens.prompt)]
    )


@torch.no_grad()
def test_the_question_is_part_of_the_prompt() -> None:
    adapter = fresh(question="detect red disc")
    text = adapter.tokens.decode_text(adapter.tokens.prompt)
    assert text == "<image>" * 16 + "<bos>detect red disc\n"
    with pytest.raises(ConfigError, match="expected text without <image>"):
        fresh(question="what is in <image>?")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("paligemma", "<image><bos>detect {0} ; {1}\n"),
        ("kosmos2", "<s><image><image></image><grounding>{0}; {1}:"),  # the first opens the image
        (
            "idefics",
            "<s>User:<fake_token_around_image><image><fake_token_around_image>"
            "Name every one of these objects and where it is: {0}; {1}.\nAssistant:",
        ),
        (
            "qwen3_vl",
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Locate every instance that belongs to the "
            'following categories: "{0}, {1}". Report bbox coordinates and labels ("bbox_2d", "label") in JSON format.'
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_categories_are_asked_about_as_the_family_does(family: str, expected: str) -> None:
    adapter = shared(family)
    first, second = adapter.codec.categories[:2]
    question = replace(small.train_examples(1)[0], asked=(first.id, second.id))
    text = adapter.tokens.decode_text(adapter.codec.prompt(question))
    image = FAMILIES[family].image
    assert text.replace(image * adapter.prompt.images, image) == expected.format(
        *(category.name.replace("_", " ") for category in (first, second))
    )


def test_a_question_of_ones_own_asks_about_categories_where_they_have_a_place() -> None:
    asking = fresh(question="find {names}")
    question = replace(small.train_examples(1)[0], asked=(asking.codec.categories[0].id,))
    name = asking.codec.categories[0].name.replace("_", " ")
    assert asking.tokens.decode_text(asking.codec.prompt(question)).endswith(f"<bos>find {name}\n")
    for silent in (fresh(question="find it"), shared("florence2")):
        with pytest.raises(ConfigError, match="this model's prompt has no place for names"):
            silent.codec.prompt(question)


@torch.no_grad()
def test_each_prompt_sees_all_of_itself_whatever_its_length() -> None:
    """PaliGemma: beside a longer prompt, what the first token sees of the last one is as it is alone."""
    adapter = shared("paligemma")
    ids = [category.id for category in adapter.codec.categories[:4]]
    questions = [
        replace(e, asked=asked_ids)
        for e, asked_ids in zip(small.train_examples(2), (tuple(ids), (ids[0],)), strict=True)
    ]
    pixels, prompts = adapter.pixels(questions), [adapter.codec.prompt(question) for question in questions]
    answer = target(small.fitted_examples()[0], adapter.codec, "canonical")
    joint = adapter.logits(pixels, target_batch([answer, answer], adapter.codec, prompts).inputs)
    assert len(adapter.tokens.prompt) < len(prompts[1]) < len(prompts[0])
    for row, prompt in enumerate(prompts):
        alone, image = target_batch([answer], adapter.codec, [prompt]).inputs, pixels[row : row + 1]
        asked, answered = alone.clone(), alone.clone()
        asked[0, len(prompt) - 2] += 1
        answered[0, len(prompt)] += 1
        clean, of_asked, of_answered = (
            adapter.logits(image, answer_batch)[0] for answer_batch in (alone, asked, answered)
        )
        torch.testing.assert_close(joint[row, : len(clean)], clean, atol=1e-4, rtol=0)
        assert (of_asked - clean)[0].abs().max() > 1e-6
        assert torch.equal(of_answered[: len(prompt)], clean[: len(prompt)])


@pytest.mark.parametrize("family", EACH)
def test_questions_are_answered_as_each_alone(family: str) -> None:
    if family == "florence2":
        pytest.skip("its encoder reads the same prompt for every row")
    adapter = shared(family)
    assert_each_as_alone(adapter, questions_of(adapter))


@torch.no_grad()
def test_names_of_several_tokens_are_scored_after_their_own_prompt() -> None:
    """The probability of a category is the sum over its names, each from a pass of its own."""
    adapter = shared("paligemma")
    codec, example = adapter.codec, small.train_examples(1)[0]
    category = next(c for c in codec.categories if len(c.names) > 1)
    question = replace(example, asked=(category.id, codec.categories[-1].id))
    tokens = codec.encode([(category.name, Box(0, 0, 32, 32))], example.width, example.height)
    parsed = codec.decode(tokens, example.width, example.height)
    ((scores,),) = score(adapter, [question], [tokens], [parsed])
    box, expected = tokens[: parsed.mentions[0].name_start], 0.0
    for name in category.names:
        ids = codec.name_ids[name]
        inputs = torch.tensor([[*codec.prompt(question), *box, *ids]])
        log_p = adapter.logits(adapter.pixels([question]), inputs)[0, -len(ids) - 1 :].log_softmax(-1)
        value = float(log_p[:-1].gather(1, torch.tensor(ids)[:, None]).sum())
        if name in codec.prefix_names:
            value += float(log_p[-1, list(codec.form.terminators)].logsumexp(0))
        expected += math.exp(value)
    assert len(codec.name_ids[category.names[1]]) > 1
    assert scores.category == pytest.approx(expected, rel=1e-4)
