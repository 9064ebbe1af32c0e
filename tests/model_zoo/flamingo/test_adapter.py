"""The OpenFlamingo adapter: what it emits is what it computes, what trains moves, and bad input is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from open_flamingo.src.helpers import MaskedCrossAttention
from torch import Tensor

from harness.errors import ConfigError, DataError
from harness.inference.padding import target_batch
from harness.protocols import Adapter
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from harness.types import Example, Sample
from model_zoo import checkpoint
from model_zoo.flamingo import toy
from model_zoo.flamingo.network import LatentAttention
from model_zoo.flamingo.toy import OpenFlamingo
from model_zoo.settings.open_flamingo import CONFIGS
from tests.support import small


def tokens_for(adapter: OpenFlamingo, rows: int, length: int) -> torch.Tensor:
    """The prompt followed by arbitrary tokens (no image token), [rows, length]."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.tensor([adapter.tokens.prompt] * rows)
    rest = torch.randint(2, adapter.tokens.size, (rows, length - prompt.shape[1]), generator=generator)
    return torch.cat([prompt, rest], dim=1)


@torch.no_grad()
def check_log_probs(adapter: OpenFlamingo, examples: list[Example], temperatures: list[float]) -> set[int]:
    """Every emitted log-probability is that of a teacher-forced pass, to 1e-4; returns the tokens emitted."""
    for example, samples in zip(examples, adapter.generate(examples, temperatures, 0, 20), strict=True):
        batch = target_batch([s.tokens for s in samples], adapter.codec)
        log_p = adapter.logits(adapter.pixels([example]), batch.inputs).log_softmax(-1)
        first = len(adapter.tokens.prompt) - 1
        for row, sample in enumerate(samples):
            expected = log_p[row, range(first, first + len(sample.tokens)), list(sample.tokens)]
            torch.testing.assert_close(torch.tensor(sample.log_probs), expected, atol=1e-4, rtol=0)
    return {
        t for of_image in adapter.generate(examples, temperatures, 0, 20) for sample in of_image for t in sample.tokens
    }


def test_is_an_adapter() -> None:
    assert isinstance(small.fresh(), Adapter)


def test_log_probabilities_of_generation_are_those_of_a_forward_pass() -> None:
    adapter = small.fitted()
    emitted = check_log_probs(adapter, small.fitted_examples(), [0.0, 1.0, 1.5])
    assert adapter.tokens.end in emitted  # rows of different lengths share the batch


def test_an_emitted_image_token_takes_the_image_from_no_one() -> None:
    """An untrained model emits the image token now and then; upstream would condition anew on it, and the other
    rows of the batch would no longer see their images."""
    adapter = small.fresh()
    emitted = check_log_probs(adapter, list(small.train_examples(8)), [1.0] * 8)
    assert adapter.tokens.image in emitted


@torch.no_grad()
def test_padding_and_neighbours_do_not_reach_a_row() -> None:
    adapter, examples = small.fitted(), small.train_examples(3)
    pixels, tokens = adapter.pixels(examples), tokens_for(adapter, 3, 12)
    joint = adapter.logits(pixels, tokens)
    padded = torch.cat([tokens, torch.full((3, 7), adapter.tokens.pad)], dim=1)
    torch.testing.assert_close(adapter.logits(pixels, padded)[:, :12], joint, atol=1e-4, rtol=0)
    for row in range(3):
        alone = adapter.logits(pixels[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(alone[0], joint[row], atol=1e-4, rtol=0)


@torch.no_grad()
def test_hidden_states_times_the_output_embedding_are_the_logits() -> None:
    adapter, examples = small.fitted(), small.train_examples(3)
    pixels = adapter.pixels(examples)
    tokens = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec).inputs
    projection = adapter.hidden(pixels, tokens)
    assert projection.weight is adapter.model.lang_encoder.get_output_embeddings().weight
    logits = projection.hidden @ projection.weight.T
    torch.testing.assert_close(logits, adapter.logits(pixels, tokens), atol=1e-5, rtol=1e-5)
    other = adapter.hidden(pixels[[1, 2, 0]], tokens)  # it looks at the images
    assert (other.hidden - projection.hidden).abs().max() > 1e-2


@torch.no_grad()
def test_one_image_serves_several_rows() -> None:
    adapter = small.fitted()
    pixels, tokens = adapter.pixels(small.train_examples(2)), tokens_for(adapter, 6, 9)
    once = adapter.logits(pixels, tokens)
    repeated = adapter.logits(pixels.repeat_interleave(3, dim=0), tokens)
    torch.testing.assert_close(once, repeated, atol=1e-5, rtol=0)
    swapped = adapter.logits(pixels.flip(0), tokens)
    assert (swapped - once).abs().max() > 1e-2  # and the image matters


def test_answers_do_not_depend_on_neighbours_or_batch_size() -> None:
    adapter, examples = small.fitted(), list(small.train_examples(6))
    temperatures = [0.0, 1.0]
    joint = adapter.generate(examples, temperatures, 3, 16)
    alone = [adapter.generate([example], temperatures, 3, 16)[0] for example in examples]
    reverse = adapter.generate(examples[::-1], temperatures, 3, 16)[::-1]
    for answers in (alone, reverse):
        assert [[s.tokens for s in of_image] for of_image in answers] == [
            [s.tokens for s in of_image] for of_image in joint
        ]
    assert len({s.tokens for of_image in joint for s in of_image}) > 6


def test_the_seed_moves_samples_but_not_the_greedy_answer() -> None:
    adapter, examples = small.fresh(), small.train_examples(2)
    one, again, other = (adapter.generate(examples, [0.0, 1.0], seed, 8) for seed in (0, 0, 1))
    assert one == again
    assert one[0][0] == other[0][0]
    assert one[0][1] != other[0][1]


def test_grammar_makes_every_entry_readable() -> None:
    adapter, examples = small.fresh(), small.train_examples(4)
    with_grammar = adapter.generate(examples, [1.0], 0, 18, grammar=True)
    without = adapter.generate(examples, [1.0], 0, 18)

    def malformed(answers: list[list[Sample]]) -> int:
        return sum(adapter.codec.decode(s.tokens, 64, 64).malformed for of_image in answers for s in of_image)

    assert malformed(with_grammar) == 0
    assert malformed(without) > 0 or all(not adapter.codec.decode(s.tokens, 64, 64).mentions for (s,) in without)


# ---- training ------------------------------------------------------------------------------------------------


def test_gradient_reaches_the_vision_tower() -> None:
    """Upstream runs it under no_grad."""
    adapter = small.fresh()
    adapter.logits(adapter.pixels(small.train_examples(2)), tokens_for(adapter, 2, 8)).square().mean().backward()  # type: ignore[no-untyped-call]
    for part in (adapter.model.vision_encoder.conv1[0].weight, adapter.model.perceiver.latents):
        assert part.grad is not None
        assert part.grad.abs().max() > 0


def test_flamingo_mode_moves_what_upstream_trains_and_nothing_else() -> None:
    adapter = small.fresh(trains="flamingo")
    before = {name: t.detach().clone() for name, t in checkpoint.named_tensors(adapter.model).items()}
    plan = Train(steps=3, batch_size=4)
    objective = prepare("ce", {}, adapter, (), plan, 0)
    small.fine_tune(adapter, objective, plan)
    after = checkpoint.named_tensors(adapter.model)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    allowed = ("perceiver", "gated_cross_attn_layer", "embed_tokens")
    assert moved
    assert all(any(part in name for part in allowed) for name in moved)
    for part in allowed:
        assert any(part in name for name in moved)


def test_it_can_learn_four_images_by_heart() -> None:
    losses = small.fitting_losses()
    assert losses[0] > 4.0  # log of the vocabulary's 147 entries is 4.99
    assert losses[-1] < 0.2 * losses[0]


# ---- weights on disk -----------------------------------------------------------------------------------------


def test_saved_weights_reproduce_every_logit(tmp_path: Path) -> None:
    adapter, other = small.fitted(), small.fresh(seed=1)
    adapter.save(tmp_path / "model.safetensors")
    pixels, tokens = adapter.pixels(small.train_examples(2)), tokens_for(adapter, 2, 10)
    with torch.no_grad():
        assert not torch.equal(other.logits(pixels, tokens), adapter.logits(pixels, tokens))
        other.load(tmp_path / "model.safetensors")
        assert torch.equal(other.logits(pixels, tokens), adapter.logits(pixels, tokens))


def test_aliased_tensors_are_stored_once(tmp_path: Path) -> None:
    """The gated cross-attention blocks are registered twice (in a list, and in the decoder layers)."""
    adapter = small.fresh()
    tensors = checkpoint.named_tensors(adapter.model)
    assert len(adapter.model.state_dict()) > len(tensors)
    adapter.save(tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    parameters = adapter.describe()["sizes"]["parameters"]  # type: ignore[index]
    assert parameters == sum(p.numel() for p in adapter.model.parameters())
    content = sum(tensor.nbytes for tensor in tensors.values())
    assert 4 * parameters <= content < 4 * parameters * 1.01  # hardly any buffers
    assert content < size < content * 1.01  # the header


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    small.fresh(bins=33).save(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="another vocabulary"):
        small.fresh().load(tmp_path / "model.safetensors")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder of our own in place of the shipped one."""
    monkeypatch.setattr(toy, "WEIGHTS", tmp_path)
    path = tmp_path / str(CONFIGS["tiny"].weights)
    small.fitted().save(path)
    (tmp_path / checkpoint.DIGESTS).write_text(json.dumps({path.name: checkpoint.sha256(path)}))
    return path


def test_shipped_weights_are_loaded_and_named_by_their_digest(shipped: Path) -> None:
    adapter = OpenFlamingo(small.benchmark().categories, {})
    pixels, tokens = adapter.pixels(small.train_examples(2)), tokens_for(adapter, 2, 10)
    adapter.model.eval()
    with torch.no_grad():
        assert torch.equal(adapter.logits(pixels, tokens), small.fitted().logits(pixels, tokens))
    assert adapter.describe()["weights_digest"] == checkpoint.sha256(shipped)
    assert small.fresh().describe()["weights_digest"] is None


def test_a_wrong_digest_names_both(shipped: Path) -> None:
    expected = checkpoint.sha256(shipped)
    small.fresh().save(shipped)
    with pytest.raises(DataError) as error:
        OpenFlamingo(small.benchmark().categories, {})
    assert expected in str(error.value)
    assert checkpoint.sha256(shipped) in str(error.value)


def test_missing_weights_say_how_to_make_them(shipped: Path) -> None:
    shipped.unlink()
    with pytest.raises(
        DataError, match=r"no such weights file; make it with: detmodes pretrain --base tiny --install$"
    ):
        OpenFlamingo(small.benchmark().categories, {})


def test_shipped_weights_serve_another_number_of_bins(shipped: Path) -> None:
    """Names keep their rows; the first and the last location are those of the stored 65."""
    torch.manual_seed(0)
    wide = OpenFlamingo(small.benchmark().categories, {"bins": 129})
    rows = wide.model.lang_encoder.get_input_embeddings().weight
    stored, entries = checkpoint.read(shipped)
    embedding = stored["lang_encoder.model.embed_tokens.weight"]
    name = entries[-1]
    assert torch.equal(rows[wide.tokens.ids[name]], embedding[entries.index(name)])
    for new, old in (("<loc0>", "<loc0>"), ("<loc128>", "<loc64>"), ("<loc64>", "<loc32>")):
        torch.testing.assert_close(rows[wide.tokens.ids[new]], embedding[entries.index(old)])


# ---- settings ------------------------------------------------------------------------------------------------


def test_every_wrong_setting_is_reported_at_once() -> None:
    settings = {"confg": "tiny", "trains": "al", "weights": "none", "bins": True}
    with pytest.raises(ConfigError) as error:
        OpenFlamingo(small.benchmark().categories, settings)
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 4
    assert "'confg', did you mean 'config'" in text
    assert "'al', did you mean 'all'" in text
    assert "open_flamingo.bins: expected an integer from 2 to 10000, got True" in text


@pytest.mark.parametrize("settings", [{}, {"bins": 2}, {"bins": 10_000}, {"trains": "flamingo", "weights": "random"}])
def test_good_settings_have_no_problems(settings: dict[str, object]) -> None:
    assert OpenFlamingo.problems(settings) == []


def test_answers_are_those_of_upstreams_attention_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token, while rows end; log-probabilities and all."""
    adapter, examples = small.fitted(), small.train_examples(5)
    calls: list[int] = []
    remembered = LatentAttention.remembered

    def observed(self: LatentAttention, x: Tensor, memo: Tensor, locations: Tensor) -> Tensor:
        calls.append(len(x))
        return remembered(self, x, memo, locations)

    monkeypatch.setattr(LatentAttention, "remembered", observed)
    ours = adapter.generate(examples, [0.0, 1.0, 2.0], 0, 16)
    assert calls[0] == 15 > calls[-1]  # rows that had ended were left out
    monkeypatch.setattr(LatentAttention, "forward", MaskedCrossAttention.forward)
    assert adapter.generate(examples, [0.0, 1.0, 2.0], 0, 16) == ours


def test_a_row_without_an_image_reads_nothing() -> None:
    attention = next(block.attn for block in small.fitted().model.readers())
    torch.manual_seed(0)
    x, media = torch.randn(3, 1, 128), torch.randn(3, 1, 16, 128)
    locations = torch.tensor([[False, True, False], [False, False, False], [True, False, False]])
    with torch.no_grad():
        expected = attention(x, media, locations, use_cached_media=True)
        attention.to_kv.memo = attention.to_kv(media.flatten(1, 2))
        again = attention(x, media, locations, use_cached_media=True)
    attention.to_kv.forget()
    assert torch.equal(again, expected)
    assert not expected[1].any() and expected[0].any()  # noqa: PT018


def test_attention_to_the_image_in_one_kernel_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does: logits where the image stands in the middle of a row, gradients, and answers token by token."""
    adapter, examples = small.fitted_in_double(), small.train_examples(3)
    pixels, tokens = adapter.pixels(examples), tokens_for(adapter, 3, 12)
    tokens[1] = tokens[1].roll(4)  # some tokens stand before the image
    tokens[1, :4] = adapter.tokens.pad
    calls: list[bool] = []

    def everything() -> tuple[Tensor, Tensor, list[list[Sample]]]:
        adapter.model.zero_grad()
        logits = adapter.logits(pixels, tokens)
        logits.log_softmax(-1)[..., 7].sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([p.grad.flatten() for p in adapter.model.parameters() if p.grad is not None])
        return logits.detach(), gradient, adapter.generate(examples, [0.0, 1.0], 0, 12)

    logits, gradient, answers = everything()
    fused = LatentAttention.fused

    def observed(self: LatentAttention, x: Tensor, media: Tensor, locations: Tensor, cached: bool) -> Tensor:
        calls.append(cached)
        return fused(self, x, media, locations, cached)

    monkeypatch.setattr(
        LatentAttention,
        "forward",
        lambda self, x, media, media_locations, use_cached_media: observed(
            self, x, media, media_locations, use_cached_media
        ),
    )
    again = everything()
    assert {True, False} == set(calls)
    torch.testing.assert_close(again[0], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again[1], gradient, atol=1e-4, rtol=1e-4)
    assert [[s.tokens for s in of_image] for of_image in again[2]] == [
        [s.tokens for s in of_image] for of_image in answers
    ]
