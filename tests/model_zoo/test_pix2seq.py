"""The Pix2Seq adapter: its decoder is a plain transformer, what it emits is what it computes, and it learns."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import conformance, records
from harness.commands.models.predict import open_model
from harness.errors import ConfigError, DataError
from harness.inference.padding import target_batch
from harness.protocols import Adapter, HiddenStates
from harness.run import runner
from harness.run.context import open_context
from harness.sequence import vocabulary_names
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from model_zoo import checkpoint
from model_zoo.pix2seq import Pix2Seq
from model_zoo.pix2seq_decoder import Layer
from model_zoo.settings.pix2seq import DEFAULTS
from tests.support import small

CNN = {"backbone": "test_resnet", "width": 64, "layers": 2}
VIT = {"backbone": "test_vit", "stride": 16, "width": 64, "layers": 2}


def fresh(seed: int = 0, **settings: Any) -> Pix2Seq:
    """In eval mode; a small CNN by default."""
    torch.manual_seed(seed)
    adapter = Pix2Seq(small.benchmark().categories, {**CNN, **settings})
    adapter.model.eval()
    return adapter


def canonical(adapter: Pix2Seq, count: int = 3) -> tuple[Tensor, Tensor]:
    """Pixels and inputs of the first training images."""
    examples = small.train_examples(count)
    sequences = [target(example, adapter.codec, "canonical") for example in examples]
    return adapter.pixels(examples), target_batch(sequences, adapter.codec).inputs


@cache
@torch.enable_grad()
def fitted() -> tuple[Pix2Seq, tuple[float, ...]]:
    """Four images by heart, in 80 steps, and the nats per target token along them. Never change it."""
    adapter, examples = fresh(), small.fitted_examples()
    batch = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec)
    pixels = adapter.pixels(examples)
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=2e-3)
    losses = []
    for _ in range(80):
        loss = F.cross_entropy(adapter.logits(pixels, batch.inputs).flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(adapter.model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return adapter, tuple(losses)


# ---- what it computes ----------------------------------------------------------------------------------------------


def test_is_an_adapter_with_hidden_states() -> None:
    assert isinstance(fresh(), Adapter)
    assert isinstance(fresh(), HiddenStates)


def as_in_torch(layer: Layer, width: int, heads: int) -> nn.TransformerDecoderLayer:
    """torch's own decoder layer with the same weights."""
    made = nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    for theirs, ours in ((made.self_attn, layer.own), (made.multihead_attn, layer.cross)):
        theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight])
        theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias])
        theirs.out_proj = ours.out  # type: ignore[assignment]
    made.norm1, made.norm2, made.norm3 = layer.norms  # type: ignore[assignment]
    made.linear1, _, made.linear2 = layer.feed_forward  # type: ignore[assignment]
    return made.eval()


@torch.no_grad()
def test_logits_are_those_of_torchs_own_transformer() -> None:
    adapter = fitted()[0]
    pixels, tokens = canonical(adapter)
    decoder = adapter.model.decoder
    places = torch.arange(tokens.shape[1])[:, None] / 10_000 ** (torch.arange(0, 64, 2) / 64)
    x = decoder.embedding(tokens) + torch.cat([places.sin(), places.cos()], dim=1)
    mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
    memory = adapter.model.memory(pixels)
    for layer in decoder.layers:
        assert isinstance(layer, Layer)
        x = as_in_torch(layer, 64, 4)(x, memory, tgt_mask=mask, tgt_is_causal=True)
    expected = decoder.norm(x) @ decoder.output.weight.T
    torch.testing.assert_close(adapter.logits(pixels, tokens), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("settings", [CNN, VIT], ids=["cnn", "vit"])
def test_log_probabilities_of_generation_are_those_of_a_forward_pass(settings: dict[str, Any]) -> None:
    """Rows end at different places: caches are cut on the way."""
    adapter, examples = fresh(**settings), small.train_examples(3)
    adapter.model.decoder.output.weight[adapter.tokens.end] *= 20  # untrained, it would hardly ever end
    first, lengths = len(adapter.tokens.prompt) - 1, set()
    for example, samples in zip(examples, adapter.generate(examples, [0.0, 1.0, 1.0, 1.5], 0, 20), strict=True):
        batch = target_batch([s.tokens for s in samples], adapter.codec)
        log_p = adapter.logits(adapter.pixels([example]), batch.inputs).log_softmax(-1)
        for row, sample in enumerate(samples):
            expected = log_p[row, range(first, first + len(sample.tokens)), list(sample.tokens)]
            torch.testing.assert_close(torch.tensor(sample.log_probs), expected, atol=1e-4, rtol=0)
            lengths.add(len(sample.tokens))
    assert len(lengths) > 2


@torch.no_grad()
def test_hidden_states_times_the_output_embedding_are_the_logits() -> None:
    adapter = fitted()[0]
    pixels, tokens = canonical(adapter)
    projection = adapter.hidden(pixels, tokens)
    logits = projection.hidden @ projection.weight.T
    torch.testing.assert_close(logits, adapter.logits(pixels, tokens), atol=1e-5, rtol=1e-5)
    assert (adapter.logits(pixels[[1, 2, 0]], tokens) - logits).abs().max() > 0.1  # it looks at the images


@torch.no_grad()
def test_one_image_serves_several_rows() -> None:
    adapter = fitted()[0]
    pixels, tokens = canonical(adapter, 2)
    rows = tokens.repeat_interleave(3, dim=0)
    repeated = adapter.logits(pixels.repeat_interleave(3, dim=0), rows)
    torch.testing.assert_close(adapter.logits(pixels, rows), repeated, atol=1e-5, rtol=0)


def test_answers_do_not_depend_on_neighbours() -> None:
    adapter, examples = fitted()[0], list(small.train_examples(5))
    temperatures = [0.0, 1.0, 2.0, 2.0]
    joint = adapter.generate(examples, temperatures, 3, 16)
    alone = [adapter.generate([example], temperatures, 3, 16)[0] for example in examples]
    assert [[s.tokens for s in of_image] for of_image in alone] == [[s.tokens for s in of_image] for of_image in joint]
    assert len({s.tokens for of_image in joint for s in of_image}) > 5


# ---- learning ------------------------------------------------------------------------------------------------------


def test_it_learns_four_images_by_heart_and_says_them() -> None:
    adapter, losses = fitted()
    assert losses[0] > 4.5  # log of the vocabulary's 147 entries is 4.99
    assert losses[-1] < 0.05 * losses[0]
    examples = small.fitted_examples()
    answers = [of_image[0].tokens for of_image in adapter.generate(examples, [0.0], 0, 32)]
    assert answers == [target(example, adapter.codec, "canonical") for example in examples]


@pytest.mark.parametrize("settings", [CNN, VIT], ids=["cnn", "vit"])
def test_a_frozen_backbone_stays_as_it_is(settings: dict[str, Any]) -> None:
    adapter = fresh(**settings, trains="decoder")
    before = {name: t.detach().clone() for name, t in checkpoint.named_tensors(adapter.model).items()}
    plan = Train(steps=2, batch_size=4)
    objective = prepare("ce", {}, adapter, (), plan, 0)
    small.fine_tune(adapter, objective, plan)
    after = checkpoint.named_tensors(adapter.model)
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert still == {name for name in before if name.startswith("tower.")}


def test_a_suite_runs_from_end_to_end(tmp_path: Path) -> None:
    plan = {"steps": 4, "batch_size": 4, "lr": 1e-3, "warm_up": 0}
    suite = small.mini_suite(models=[{"name": "pix2seq", **CNN}], train=plan)
    runner.run(open_context(suite, None, "cpu"), tmp_path)
    folders = {folder: records.read_record(folder) for folder in (tmp_path / "cells").iterdir()}
    by_label = {record.label: record for record in folders.values()}
    assert {label: record.status for label, record in by_label.items()} == dict.fromkeys(
        ("base", "ce", "sed", "oracle-uniform", "oracle-collapsed"), "finished"
    )
    assert by_label["ce"].model == fresh().describe()
    assert by_label["ce"].score_source == "category"
    before, after = (by_label[label].evaluations[-1].heldout_nll for label in ("base", "ce"))
    assert before is not None
    assert after is not None
    assert after < before - 0.05
    assert by_label["ce"].curve[-1]["loss"] != by_label["sed"].curve[-1]["loss"]
    trained = {record.label: open_model(str(folder)) for folder, record in folders.items() if record.role == "trained"}
    pixels, tokens = canonical(fresh())
    assert not torch.equal(trained["ce"].logits(pixels, tokens), trained["sed"].logits(pixels, tokens))


@pytest.mark.slow
def test_with_noise_objects_it_keeps_the_contract() -> None:
    outcomes = conformance.check(Pix2Seq, {**CNN, "noise_objects": 4})
    assert {o.check: o.message for o in outcomes if o.state == "failed"} == {}


def test_a_suite_runs_with_noise_objects(tmp_path: Path) -> None:
    """Nothing that it says is malformed, and no category is called noise."""
    suite = small.mini_suite(
        models=[{"name": "pix2seq", **CNN, "noise_objects": 4}],
        train={"steps": 15, "batch_size": 4, "lr": 3e-3},
        sample={"samples": 2, "max_tokens": 24, "grammar": True},
    )
    runner.run(open_context(suite, None, "cpu"), tmp_path)
    folders = {folder: records.read_record(folder) for folder in (tmp_path / "cells").iterdir()}
    assert {record.status for record in folders.values()} == {"finished"}
    (ce,) = (folder for folder, record in folders.items() if record.label == "ce")
    assert folders[ce].model["noise_objects"] == 4
    samples, mentions = (pd.read_parquet(ce / f"{name}.parquet") for name in ("samples", "mentions"))
    assert samples.malformed.sum() == 0
    assert samples.text.str.contains("<noise>").any()
    assert set(mentions.name) <= set(vocabulary_names(small.benchmark().categories))


# ---- weights on disk -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("settings", [CNN, VIT], ids=["cnn", "vit"])
def test_saved_weights_reproduce_every_logit(settings: dict[str, Any], tmp_path: Path) -> None:
    adapter, path = fresh(**settings), tmp_path / "model.safetensors"
    adapter.save(path)
    pixels, tokens = canonical(adapter)
    loaded, started = fresh(seed=1, **settings), fresh(seed=2, **settings, weights=str(path))
    assert not torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))
    loaded.load(path)
    for other in (loaded, started):
        assert torch.equal(other.logits(pixels, tokens), adapter.logits(pixels, tokens))
    assert started.describe()["weights_digest"] == checkpoint.sha256(path)
    assert adapter.describe()["weights_digest"] is None


def test_a_base_serves_other_names_and_bins(tmp_path: Path) -> None:
    """Rows of names that both know, and of both ends of the image, are those of the file."""
    path = tmp_path / "model.safetensors"
    stored = fresh()
    stored.save(path)
    torch.manual_seed(3)
    few = small.benchmark().categories[:4]
    other = Pix2Seq(few, {**CNN, "bins": 33, "weights": str(path)})
    for entry, source in ((vocabulary_names(few)[-1],) * 2, ("<loc0>", "<loc0>"), ("<loc32>", "<loc64>")):
        for part in ("embedding", "output"):
            theirs = getattr(other.model.decoder, part).weight[other.tokens.ids[entry]]
            torch.testing.assert_close(theirs, getattr(stored.model.decoder, part).weight[stored.tokens.ids[source]])
    with pytest.raises(DataError, match="another vocabulary"):
        other.load(path)


def test_the_digest_of_a_backbones_file_identifies_the_model(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from timm import create_model

    path = tmp_path / "backbone.safetensors"
    save_file(create_model("test_resnet").state_dict(), path)
    one, other = fresh(backbone_weights=str(path)), fresh(seed=1, backbone_weights=str(path))
    assert one.describe()["weights_digest"] == checkpoint.sha256(path)
    pixels = one.pixels(small.train_examples(1))
    assert torch.equal(one.model.tower(pixels), other.model.tower(pixels))
    assert not torch.equal(one.model.tower(pixels), fresh().model.tower(pixels))
    statistics = next(b for name, b in one.model.tower.named_buffers() if name.endswith("running_mean"))
    statistics += 1.0  # fixed, but saved
    one.save(tmp_path / "model.safetensors")
    other.load(tmp_path / "model.safetensors")
    assert torch.equal(one.model.tower(pixels), other.model.tower(pixels))


def test_weights_of_another_size_name_what_does_not_fit(tmp_path: Path) -> None:
    fresh(layers=1).save(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"decoder\.layers\.1\.\S+ missing"):
        fresh().load(tmp_path / "model.safetensors")


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [("image_size", 32), ("stride", 16), ("width", 32), ("layers", 1), ("heads", 2), ("bins", 33)],
)
def test_every_setting_of_the_architecture_changes_it(setting: str, value: int) -> None:
    """All but the heads change a shape; those change what is computed from the same weights."""
    one, other = fresh(), fresh(**{setting: value})
    if setting == "heads":
        pixels, tokens = canonical(one)
        assert not torch.equal(one.logits(pixels, tokens), other.logits(pixels, tokens))
    elif setting == "image_size":
        assert (one.model.tower.grid, other.model.tower.grid) == ((8, 8), (4, 4))
    else:
        parameters = [adapter.describe()["sizes"]["parameters"] for adapter in (one, other)]  # type: ignore[index]
        assert parameters[0] != parameters[1]


def test_every_wrong_setting_is_reported_at_once() -> None:
    wrong = {"backbon": 1, "backbone": "resnet10", "width": 0, "bins": True, "trains": "al", "weights": 3}
    with pytest.raises(ConfigError) as error:
        Pix2Seq(small.benchmark().categories, wrong)
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 6
    assert "'backbon', did you mean 'backbone'" in text
    assert "pix2seq.width: expected an integer from 4 to 8192, got 0" in text
    assert "pix2seq.bins: expected an integer from 2 to 10000, got True" in text
    assert "pix2seq.weights: expected 'random' or a file, got 3" in text


@pytest.mark.parametrize("settings", [{"width": 66}, {"width": 132, "heads": 5}])
def test_width_must_be_divisible(settings: dict[str, Any]) -> None:
    (problem,) = Pix2Seq.problems(settings)
    assert problem.startswith("pix2seq.width: expected a multiple of 4 and of heads")
    assert Pix2Seq.problems(DEFAULTS) == []
