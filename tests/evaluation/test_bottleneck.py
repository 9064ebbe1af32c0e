"""The floor of a real adapter's output layer, and what the model has above it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from harness.errors import ConfigError
from harness.evaluation.bottleneck import bottleneck
from harness.inference.padding import target_batch
from harness.sequence.targets import target
from tests.support import small


def test_the_model_is_never_below_its_floor() -> None:
    """And every point where the names of an instance part is passed once for it."""
    adapter, examples = small.fitted(), small.fitted_examples()[:6]
    lines = bottleneck(adapter, examples)
    assert lines
    assert all(0 <= line.floor <= line.mean for line in lines)
    begin = {c: {adapter.codec.name_ids[name][0] for name in names} for c, names in adapter.codec.names_of.items()}
    several = {category for category, tokens in begin.items() if len(tokens) > 1}
    instances = Counter(item.category_id for example in examples for item in example.instances)
    first = {line.branch.category_id: line.passed for line in lines if not line.branch.before}
    assert first == {category: count for category, count in instances.items() if category in several}


def test_a_branch_by_hand() -> None:
    """One image with one object of several names: log sum exp - mean of the valid logits - log S of the next token."""
    adapter = small.fitted()
    names_of = adapter.codec.names_of
    example = next(e for e in small.fitted_examples() if any(len(names_of[i.category_id]) > 1 for i in e.instances))
    line = next(line for line in bottleneck(adapter, [example]) if not line.branch.before)
    tokens = target(example, adapter.codec, "canonical")
    batch = target_batch([tokens], adapter.codec, [adapter.codec.prompt(example)])
    with torch.no_grad():
        logits = adapter.logits(adapter.pixels([example]), batch.inputs)[0][batch.labels[0] != -100].double()
    expected = []
    for mention in adapter.codec.decode(tokens, example.width, example.height).mentions:
        if mention.category_id == line.branch.category_id:
            p = logits[mention.name_start].softmax(0)[list(line.branch.valid)]
            expected.append(float(-np.log(len(p)) - p.log().mean()))
    assert line.mean == pytest.approx(float(np.mean(expected)), abs=1e-4)
    assert line.passed == len(expected)


def test_an_adapter_without_hidden_states_is_refused() -> None:
    class Plain:
        pass

    with pytest.raises(ConfigError, match="Plain: expected an adapter with hidden states"):
        bottleneck(Plain(), ())  # type: ignore[arg-type]
