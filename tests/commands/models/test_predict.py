"""What a model sees in an image: from a shipped base or a finished cell, as text and as a drawing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness import records
from harness.commands.models import predict
from harness.commands.models.predict import Seen, as_text, draw, open_model
from harness.errors import ConfigError, DataError
from harness.run import runner
from harness.run.context import open_context
from harness.types import Box, Example, Mention, Parsed
from tests.run.mini_runs import cell_folder
from tests.support import small


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells `base` and `ce` of the mini suite."""
    folder = tmp_path_factory.mktemp("run")
    runner.run(open_context(small.mini_suite(), None, "cpu"), folder, "*-[bc]*e-*")
    return folder


def image_path() -> Path:
    return small.benchmark().split("val")[0].path


def test_a_cell_is_opened_with_its_fine_tuned_weights(output: Path) -> None:
    base, tuned = (open_model(str(cell_folder(output, label))) for label in ("base", "ce"))
    assert not tuned.model.training
    pixels = tuned.pixels(small.train_examples(2))
    tokens = torch.tensor([tuned.codec.tokens.prompt] * 2)
    with torch.no_grad():
        assert not torch.equal(tuned.logits(pixels, tokens), base.logits(pixels, tokens))
    expected = small.fresh()
    expected.load(cell_folder(output, "ce") / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(tuned.logits(pixels, tokens), expected.logits(pixels, tokens))


def test_predictions_follow_the_order_of_the_images_and_the_seed(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MAX_TOKENS", 16)  # an untrained model seldom ends its sequence
    paths = [e.path for e in small.benchmark().split("val")[:2]]
    model = str(cell_folder(output, "ce"))
    first = list(predict.predict(paths, model, samples=3, temperature=1.0, seed=0))
    assert [answer.example.path for answer in first] == paths
    assert [len(answer.samples) for answer in first] == [3, 3]
    other = list(predict.predict(paths, model, samples=3, temperature=1.0, seed=1))
    assert [answer.greedy for answer in other] == [answer.greedy for answer in first]
    assert len({repr(parsed) for answer in (*first, *other) for parsed in answer.samples}) > 1
    assert all(len(answer.scores) == len(answer.greedy.mentions) for answer in first)
    assert first == list(predict.predict(paths, model, samples=3, temperature=1.0, seed=0))
    assert next(predict.predict(paths, model, samples=0, temperature=1.0, seed=0)).samples == ()


def test_a_cell_without_weights_or_changed_or_failed_is_refused(output: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cell_folder(output, "ce"), tmp_path / "ce"))
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"model\.safetensors: missing, or not the file"):
        open_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors: missing"):
        open_model(str(folder))
    record = records.read_record(folder)
    records.write_record(record.model_copy(update={"status": "failed", "error": "RuntimeError: no"}), folder)
    with pytest.raises(DataError, match=r"this cell failed \(RuntimeError: no\)"):
        open_model(str(folder))


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'open_flamigo', did you mean 'open_flamingo'.*folder of a cell"
    ):
        open_model("open_flamigo")
    with pytest.raises(ConfigError, match="unknown model"):
        open_model(str(tmp_path))
    with pytest.raises(ConfigError, match="model 'oracle-collapsed' reads the ground truth"):
        open_model("oracle-collapsed")


def test_images_are_checked_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "open_model", lambda reference: pytest.fail("loaded"))
    with pytest.raises(DataError, match=r"http://h/none\.png: expected a picture on this machine, a URL is not read"):
        list(predict.predict([Path("http://h/none.png")], "open_flamingo", 0, 1.0, 0))
    with pytest.raises(DataError, match=r"none\.png: no such image"):
        list(predict.predict([image_path(), tmp_path / "none.png"], "open_flamingo", 1, 1.0, 0))


# ---- text and drawing --------------------------------------------------------------------------------------------


def prediction_for(path: Path) -> Seen:
    greedy = Parsed((Mention("red_disc", 1, Box(8, 16, 24, 20.5)), Mention("dot", 1, Box(0, 0, 5, 5))), 0, False)
    samples = (Parsed((Mention("crimson_dot", 1, Box(40, 40, 16, 16)),), 2, True), Parsed((), 0, False))
    return Seen(Example(3, path, 64, 64, ()), greedy, (0.934, 0.5), samples)


@pytest.fixture
def black(tmp_path: Path) -> Path:
    path = tmp_path / "black.png"
    Image.new("RGB", (64, 64)).save(path)
    return path


def test_as_text(black: Path) -> None:
    assert as_text(prediction_for(black)).splitlines() == [
        f"{black} (64x64)",
        "  0.93  red_disc                 x 8  y 16  w 24  h 20.5",
        "  0.50  dot                      x 0  y 0  w 5  h 5",
        "  sample 1: crimson_dot | 2 malformed | truncated",
        "  sample 2: nothing",
    ]


def test_as_text_of_nothing(black: Path) -> None:
    nothing = Seen(Example(0, black, 64, 64, ()), Parsed((), 1, True, 2), (), ())
    assert as_text(nothing).splitlines()[1:] == [
        "  nothing",
        "  greedy: 1 malformed",
        "  greedy: 2 read leniently",
        "  greedy: truncated",
    ]


def test_a_drawing_has_a_panel_each_and_its_boxes_in_place(black: Path, tmp_path: Path) -> None:
    """64 pixels become 320 (x 5); 3 panels of 320 with gaps of 8; boxes below a caption of 20. The greedy box
    x 8..32, y 16..36.5 has its left edge at 40 and, in the middle of its height, is of the first colour."""
    path = draw(prediction_for(black), tmp_path / "deep" / "folder")
    assert path.name == "003-black.png"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (320 + 20, 3 * 320 + 2 * 8, 3)
    first = tuple(int(predict.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    middle = 20 + 130
    assert tuple(pixels[middle, 40]) == first
    assert tuple(pixels[middle, 159]) == first  # 32 * 5 - 1
    assert tuple(pixels[middle, 100]) == (0, 0, 0)
    assert tuple(pixels[20 + 240, 328 + 200]) == first  # sample 1: x 40, y 48
    assert (pixels[20:, 656:] == 0).all()  # sample 2 saw nothing


def test_a_category_has_one_colour_in_every_panel(black: Path, tmp_path: Path) -> None:
    """A box of category 2 comes second in the greedy answer and first in the sample: 8..32 in both, on one line."""
    box = Box(8, 16, 24, 20)
    greedy = Parsed((Mention("red_disc", 1, Box(40, 40, 8, 8)), Mention("star", 2, box)), 0, False)
    sample = Parsed((Mention("five_points", 2, box), Mention("crimson_dot", 1, Box(40, 40, 8, 8))), 0, False)
    with Image.open(draw(Seen(Example(0, black, 64, 64, ()), greedy, (1.0, 1.0), (sample,)), tmp_path)) as image:
        pixels = np.asarray(image.convert("RGB"))
    second = tuple(int(predict.COLOURS[1][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(pixels[20 + 130, 40]) == tuple(pixels[20 + 130, 328 + 40]) == second


def test_a_box_at_every_edge_can_be_drawn(black: Path, tmp_path: Path) -> None:
    boxes = [Box(0, 0, 64, 64), Box(63, 63, 1, 1), Box(0, 0, 0.2, 0.2), Box(60, 0, 4, 64)]
    mentions = tuple(Mention("a_rather_long_name_" * 3, 1, box) for box in boxes)
    one = Seen(Example(0, black, 64, 64, ()), Parsed(mentions, 0, False), (1.0,) * 4, ())
    with Image.open(draw(one, tmp_path)) as image:
        assert image.size == (320, 340)


def test_a_large_image_is_not_enlarged(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (500, 400)).save(path)
    one = Seen(Example(0, path, 500, 400, ()), Parsed((), 0, False), (), ())
    with Image.open(draw(one, tmp_path)) as image:
        assert image.size == (500, 420)
