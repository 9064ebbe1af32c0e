"""Weights on disk: what is saved, what is read again, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import ConfigError, DataError
from model_zoo import checkpoint
from model_zoo.location_rows import location_curve
from model_zoo.vlm import loading
from tests.model_zoo.vlm.toys import EACH, FIRST, canonical, fresh, published, trained
from tests.support import small


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_a_folder_gives_the_same_model(family: str, tmp_path: Path) -> None:
    adapter = published(family, tmp_path)
    loaded = fresh(
        family,
        seed=1,
        weights=str(tmp_path),
        **({} if adapter.family.step(adapter.model.config) == 1 else {"image_size": 64}),
    )
    pixels, tokens = canonical(adapter)
    assert torch.equal(canonical(loaded)[1], tokens)
    assert torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))
    digest = loaded.describe()["weights_digest"]
    assert digest == " ".join(checkpoint.sha256(tmp_path / name) for name in ("config.json", "model.safetensors"))


def test_what_is_saved_is_what_was_trained(tmp_path: Path) -> None:
    published(FIRST, tmp_path / "base")
    adapter = trained(fresh(weights=str(tmp_path / "base"), trains="decoder"))
    adapter.save(tmp_path / "model.safetensors")
    names = checkpoint.read(tmp_path / "model.safetensors")[0].keys()
    assert not [name for name in names if name.startswith(adapter.family.vision)]
    loaded = fresh(seed=1, weights=str(tmp_path / "base"), trains="decoder")
    pixels, tokens = canonical(adapter)
    assert not torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))
    loaded.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))


def test_a_folder_of_another_family_is_refused(tmp_path: Path) -> None:
    published("paligemma", tmp_path)
    with pytest.raises(ConfigError, match=r"expected a kosmos-2 model in .*, got paligemma"):
        fresh("kosmos2", weights=str(tmp_path))
    with pytest.raises(DataError, match=r"expected a folder with config\.json"):
        fresh(weights=str(tmp_path / "none"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    published(FIRST, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"transformers cannot read it: .*safetensors"):
        fresh(weights=str(tmp_path))


def test_a_repository_is_read_at_its_revision_without_what_could_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*asked: object, **more: object) -> str:
        assert (asked, more["revision"]) == (("owner/name",), "v1")
        assert isinstance(more["allow_patterns"], list)
        assert not {"*.py", "*.bin", "*.pt", "*"} & set(more["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(loading, "snapshot_download", download)
    published(FIRST, tmp_path)
    assert fresh(weights="hub:owner/name@v1").weights_digest == loading.digest(tmp_path)


@torch.no_grad()
def test_idefics_keeps_its_rows_and_gets_new_ones() -> None:
    """A published Idefics has its two added tokens in a table of their own; location tokens are appended."""
    torch.manual_seed(0)
    adapter = fresh("idefics")
    config = adapter.model.config
    config.vocab_size, config.additional_vocab_size, config.tie_word_embeddings = 500, 2, False
    model = type(adapter.model)(config).eval()
    tokens = torch.tensor([[3, 499, 500, 501, 7]])
    looked_up = {
        "pixel_values": adapter.pixels(small.train_examples(1))[:, None],
        "image_attention_mask": torch.ones(1, 5, 1),
    }
    before = model(input_ids=tokens, use_cache=False, **looked_up).logits
    adapter.family.grow(model, 600)
    after = model(input_ids=tokens, use_cache=False, **looked_up).logits
    assert after.shape == (1, 5, 600)
    torch.testing.assert_close(after[..., :502], before, atol=1e-5, rtol=0)
    rows = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(rows[502:], location_curve(rows[:500], 98))
