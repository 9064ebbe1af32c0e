"""OpenFlamingo over toy tokenizers and language models, in memory and in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.inference.padding import target_batch
from harness.sequence import vocabulary_names
from harness.sequence.targets import target
from model_zoo.flamingo import language
from model_zoo.flamingo.published import OpenFlamingoHf
from tests.support import small

NAMES = vocabulary_names(small.benchmark().categories)


def fresh(seed: int = 0, **settings: Any) -> OpenFlamingoHf:
    torch.manual_seed(seed)
    adapter = OpenFlamingoHf(small.benchmark().categories, settings)
    adapter.model.eval()
    return adapter


def folder_of(family: str, path: Path) -> Path:
    """A language model with its tokenizer, as transformers saves them."""
    torch.manual_seed(7)
    tokenizer = language.toy_tokenizer(NAMES)
    language.toy_model(family, len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def logits_of(adapter: OpenFlamingoHf) -> Tensor:
    examples = small.train_examples(2)
    tokens = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec).inputs
    with torch.no_grad():
        return adapter.logits(adapter.pixels(examples), tokens)
