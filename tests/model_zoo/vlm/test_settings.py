"""Settings of the adapter: every mistake at once, and image sizes."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from model_zoo.vlm.adapter import Vlm
from tests.model_zoo.vlm.toys import fresh
from tests.support import small


def test_every_wrong_setting_is_reported_at_once() -> None:
    wrong = {"famly": 1, "family": "paligema", "weights": "hub:a/b", "trains": "al", "image_size": 0, "question": 3}
    with pytest.raises(ConfigError) as error:
        Vlm(small.benchmark().categories, wrong)
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 6
    assert "'famly', did you mean 'family'" in text
    assert "'paligema', did you mean 'paligemma'" in text
    assert "expected 'random', a folder or hub:OWNER/NAME@REVISION (a tag or commit), got 'hub:a/b'" in text


@pytest.mark.parametrize(
    ("family", "side", "message"),
    [
        ("paligemma", 32, "this model reads 64 pixels a side, got 32"),
        ("qwen2_5_vl", 40, "expected a multiple of 16, got 40"),
        ("florence2", 60, "expected a multiple of 8, got 60"),
    ],
)
def test_an_image_size_that_does_not_fit_is_refused(family: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fresh(family, image_size=side)


def test_an_image_size_changes_the_prompt() -> None:
    adapter = fresh("qwen2_5_vl", image_size=96)
    assert (adapter.prompt.images, adapter.pixels(small.train_examples(1)).shape[2:]) == (36, (96, 96))
