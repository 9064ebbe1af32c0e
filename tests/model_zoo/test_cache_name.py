"""The name of the key-value cache, as old and new versions of transformers call it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

from model_zoo.cache_name import CACHE, ROOM, AutocastCache, RoomyLayer, cache_of
from model_zoo.flamingo.published import OpenFlamingoHf
from tests.support import small


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


def test_room_for_more_tokens_changes_nothing_and_saves_the_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    roomy, plain = RoomyLayer(), DynamicLayer()  # type: ignore[no-untyped-call]
    places = set()
    for step in range(2 * ROOM + 10):
        width = 3 if step == 0 else 1
        keys, values = (torch.randn(4 if step < ROOM else 2, 2, width, 5, generator=generator) for _ in range(2))
        if step == ROOM:  # in the middle of a room: what was behind it is another tensor now
            for layer in (roomy, plain):
                layer.batch_select_indices(torch.tensor([3, 1]))
        for one, other in zip(roomy.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(one, other)
        assert roomy.get_seq_length() == plain.get_seq_length() == 3 + step
        assert roomy.keys is not None
        places.add(roomy.keys.data_ptr())
    assert len(places) <= 5  # the first, a second one, one of the rows that were left, and where a room was full
    cache = AutocastCache()
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert type(cache.layers[0]) is RoomyLayer


@pytest.mark.parametrize("language", ["toy-gpt_neox", "toy-llama", "toy-mpt", "toy-opt"])
def test_answers_are_the_same_to_the_bit_with_and_without_room(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = OpenFlamingoHf(small.benchmark().categories, {"language": language})
    adapter.model.eval()
    examples = small.train_examples(2)
    roomy = adapter.generate(examples, [0.0, 1.0], 0, 40)
    monkeypatch.setattr("model_zoo.cache_name.RoomyLayer", DynamicLayer)
    assert adapter.generate(examples, [0.0, 1.0], 0, 40) == roomy
