"""The name of the key-value cache, as old and new versions of transformers call it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM

from model_zoo.cache_name import CACHE, cache_of


def test_it_is_what_the_installed_version_wants() -> None:
    assert ("cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values") == CACHE


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_it_is_read_from_the_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Output:
        cache: str = "new"
        past_key_values: str = "old"

    monkeypatch.setattr("model_zoo.cache_name.CACHE", name)
    assert cache_of(Output()) == {"cache": "new", "past_key_values": "old"}[name]


def test_a_model_takes_it_back_without_a_warning() -> None:
    """Warnings are errors here. The second token alone, after the cache of the first, is answered as both at once."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(config).train(False)
    tokens = torch.tensor([[3, 5]])
    with torch.no_grad():
        first = model(input_ids=tokens[:, :1], use_cache=True)
        second = model(input_ids=tokens[:, 1:], use_cache=True, **{CACHE: cache_of(first)})
        whole = model(input_ids=tokens, use_cache=False)
    torch.testing.assert_close(second.logits[:, -1], whole.logits[:, -1])
