"""What is trained, with and without low-rank changes and gradients computed twice; a suite from end to end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from harness import records
from harness.commands.models.predict import open_model
from harness.errors import ConfigError
from harness.run import runner
from harness.run.context import open_context
from model_zoo import checkpoint
from tests.model_zoo.vlm.toys import EACH, FIRST, canonical, fresh, published, shared, trained
from tests.support import small


@pytest.mark.parametrize("family", EACH)
def test_a_frozen_image_encoder_stays_as_it_is(family: str) -> None:
    adapter = fresh(family, trains="decoder")
    before = {name: t.detach().clone() for name, t in checkpoint.named_tensors(adapter.model).items()}
    after = checkpoint.named_tensors(trained(adapter).model)
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    vision = {name for name in before if name.startswith(adapter.family.vision)}
    assert vision
    assert vision <= still
    assert len(still - vision) < 0.2 * len(before)  # layers that no token has come through


@pytest.mark.parametrize("new", [False, True], ids=["pretrained", "toy"])
def test_low_rank_changes_are_all_that_is_trained(new: bool, tmp_path: Path) -> None:
    """A toy has not learnt its tokens: they are trained too."""
    pytest.importorskip("peft")
    plain = published(FIRST, tmp_path)
    adapter = fresh(trains="lora", weights="random" if new else str(tmp_path))
    pixels, tokens = canonical(plain)
    assert torch.equal(adapter.logits(pixels, tokens), plain.logits(pixels, tokens))  # they start at 0
    before = {name: p.detach().clone() for name, p in adapter.model.named_parameters()}
    trained(adapter)
    moved = {name for name, p in adapter.model.named_parameters() if not torch.equal(p, before[name])}
    changes = {name for name in moved if "lora_" in name and not name.startswith(adapter.family.vision)}
    assert changes
    assert moved - changes == ({"model.language_model.embed_tokens.weight"} if new else set())


@pytest.mark.parametrize("family", EACH)
def test_gradients_computed_twice_are_the_same(family: str) -> None:
    gradients = []
    for twice in (False, True):
        adapter = fresh(family)
        if twice:
            adapter.checkpoint_gradients()
            assert any(getattr(module, "gradient_checkpointing", False) for module in adapter.model.modules())
        adapter.model.train()
        adapter.logits(*canonical(adapter, 2)).square().mean().backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in adapter.model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-4)


def test_without_peft_low_rank_changes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"install it with: pip install 'detmodes\[lora\]'"):
        fresh(trains="lora")


@pytest.mark.slow
def test_a_suite_runs_from_end_to_end(tmp_path: Path) -> None:
    plan = {"steps": 4, "batch_size": 4, "lr": 1e-3, "warm_up": 0}
    runner.run(open_context(small.mini_suite(models=[{"name": "vlm"}], train=plan), None, "cpu"), tmp_path)
    folders = {folder: records.read_record(folder) for folder in (tmp_path / "cells").iterdir()}
    by_label = {record.label: record for record in folders.values()}
    assert {label: record.status for label, record in by_label.items()} == dict.fromkeys(
        ("base", "ce", "sed", "oracle-uniform", "oracle-collapsed"), "finished"
    )
    before, after = (by_label[label].evaluations[-1].heldout_nll for label in ("base", "ce"))
    assert before is not None
    assert after is not None
    assert after < before - 0.05
    models = {record.label: open_model(str(folder)) for folder, record in folders.items() if record.role == "trained"}
    pixels, tokens = canonical(shared(FIRST))
    assert not torch.equal(models["ce"].logits(pixels, tokens), models["sed"].logits(pixels, tokens))
