"""Pretraining: stages that resume, the same weights from the same seed, and labels derived by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.types import Box, Example, Instance
from model_zoo import checkpoint
from model_zoo.flamingo.pretrain import Lesson, _DenseLoss, _Images, install_weights, learning_rate, mirror, pretrain
from tests.support import small

LESSONS = (
    Lesson("A", steps=2, lr=2e-3, images=4, dense=True),
    Lesson("B", steps=2, lr=1e-3, images=2, single=True),
    Lesson("C", steps=3, lr=1e-3, images=3, sequences=2),
)


def example(*boxes: Box) -> Example:
    instances = tuple(Instance(index, 3, box) for index, box in enumerate(boxes, 1))
    return Example(1, Path("image.png"), 64, 64, instances)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one complete run with seed 5."""
    folder = tmp_path_factory.mktemp("pretrain")
    assert (
        pretrain(small.benchmark(), folder, 5, stages=LESSONS, log=lambda line: None) == folder / "stage-C.safetensors"
    )
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: checkpoint.sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def test_every_stage_writes_its_weights_and_changes_them(first: Path) -> None:
    assert list(digests(first)) == ["stage-A.safetensors", "stage-B.safetensors", "stage-C.safetensors"]
    assert len(set(digests(first).values())) == 3


def test_the_same_seed_gives_the_same_bits_and_another_does_not(first: Path, tmp_path: Path) -> None:
    for seed, name in ((5, "again"), (6, "other")):
        pretrain(small.benchmark(), tmp_path / name, seed, stages=LESSONS[:1], log=lambda line: None)
    expected = digests(first)["stage-A.safetensors"]
    assert digests(tmp_path / "again")["stage-A.safetensors"] == expected
    assert digests(tmp_path / "other")["stage-A.safetensors"] != expected


def test_an_interrupted_run_goes_on_where_it_stopped(first: Path, tmp_path: Path) -> None:
    """Stages A and B are not run again, and what follows is what an uninterrupted run would have made."""
    for name in ("stage-A.safetensors", "stage-B.safetensors"):
        (tmp_path / name).write_bytes((first / name).read_bytes())
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    lines: list[str] = []
    pretrain(small.benchmark(), tmp_path, 5, stages=LESSONS, log=lines.append)
    assert digests(tmp_path) == digests(first)
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in times.items())
    assert [line.split(":")[0] for line in lines] == ["stage A", "stage B", "stage C"]
    assert ["done before" in line for line in lines] == [True, True, False]


def test_dense_stage_leaves_the_language_model_alone(first: Path, tmp_path: Path) -> None:
    """A stage of the vision tower alone, from the same start as a run without any step."""
    pretrain(small.benchmark(), tmp_path, 5, stages=(replace(LESSONS[0], steps=0),), log=lambda line: None)
    start, trained = (checkpoint.read(folder / "stage-A.safetensors")[0] for folder in (tmp_path, first))
    moved = {name.split(".")[0] for name in start if not torch.equal(start[name], trained[name])}
    assert moved == {"vision_encoder"}


def test_mirror_hand_case() -> None:
    """x' = width - x - w: 64 - 10 - 20 = 34."""
    assert mirror(example(Box(10, 5, 20, 7))).instances[0].box == Box(34, 5, 20, 7)


@given(st.lists(st.tuples(*[st.integers(0, 32)] * 4), max_size=4))
def test_mirroring_twice_changes_nothing(boxes: list[tuple[int, int, int, int]]) -> None:
    original = example(*(Box(*box) for box in boxes))
    assert mirror(mirror(original)) == original
    assert all(a.box.w == b.box.w for a, b in zip(original.instances, mirror(original).instances, strict=True))


def test_pixels_are_mirrored_with_their_boxes() -> None:
    adapter = small.fresh()
    data = _Images(adapter, small.benchmark().split("train"), chunk=7)
    originals = {e.image_id: e for e in data.examples}
    stage = replace(LESSONS[2], steps=2, images=12)
    counts = {True: 0, False: 0}
    for pixels, examples in data.batches(stage, np.random.default_rng(0)):
        for image, given_ in zip(pixels, examples, strict=True):
            original = originals[given_.image_id]
            flipped = given_.instances != original.instances
            expected = adapter.pixels([original])[0]
            torch.testing.assert_close(image, expected.flip(-1) if flipped else expected)
            counts[flipped] += 1
    assert min(counts.values()) > 0


def test_a_single_object_stage_sees_only_such_images() -> None:
    data = _Images(small.fresh(), small.benchmark().split("train"))
    stage = replace(LESSONS[1], steps=4)
    batches = list(data.batches(stage, np.random.default_rng(0)))
    assert len(batches) == 4
    assert all(len(e.instances) == 1 for _, examples in batches for e in examples)


def test_dense_labels_hand_case() -> None:
    """64 pixels in 4 x 4 patches of 16: centres at 8, 24, 40, 56. The box x 0..32, y 0..16 holds the centres of
    row 0, columns 0 and 1; its edges are 0, 0, 1/2, 1/4 of the image. The box x 40..60, y 30..60 holds
    x 40 and 56 (an edge counts) and y 40 and 56: rows and columns 2 and 3."""
    first, second = Box(0, 0, 32, 16), Box(40, 30, 20, 30)
    loss = _DenseLoss(small.fresh(), categories=[1, 3])  # category 3 has index 1; 2 is background
    category, box = loss._labels([example(first, second), example()], 4)
    assert category[0].view(4, 4).tolist() == [[1, 1, 2, 2], [2, 2, 2, 2], [2, 2, 1, 1], [2, 2, 1, 1]]
    assert box[0][1].tolist() == [0, 0, 0.5, 0.25]
    assert box[0][10].tolist() == [0.625, 0.46875, 0.9375, 0.9375]
    assert (category[1] == 2).all()


def test_the_learning_rate_warms_up_stays_and_decays() -> None:
    """1,000 steps at 2: warm-up over 50, constant up to step 600, half-way down the cosine at 800."""
    stage = Lesson("X", steps=1_000, lr=2.0, images=1)
    assert learning_rate(0, stage) == pytest.approx(2 / 50)
    assert learning_rate(24, stage) == pytest.approx(1.0)
    assert [learning_rate(step, stage) for step in (49, 300, 600)] == [2.0, 2.0, 2.0]
    assert learning_rate(800, stage) == pytest.approx(1.0)
    assert learning_rate(999, stage) == pytest.approx(0.0, abs=1e-4)


def test_a_base_whose_names_are_spelled_is_pretrained_and_installed(tmp_path: Path) -> None:
    """Its weights stand beside those of the other base, each with its page and its digest, and are read again."""
    final = pretrain(small.benchmark(), tmp_path / "run", 5, "spelled", stages=LESSONS[2:], log=lambda line: None)
    assert "_disc" in checkpoint.read(final)[1]
    log, folder = tmp_path / "log.txt", tmp_path / "weights"
    log.write_text("stage C step 100/1000 loss 4.7942 7s\n")
    folder.mkdir()
    (folder / "digests.json").write_text('{"open_flamingo-tiny.safetensors": "0"}')
    installed = install_weights(final, log, 5, "spelled", folder)
    assert installed.name == "open_flamingo-spelled.safetensors"
    tensors, entries, digest = checkpoint.read_shipped(installed)
    assert entries == checkpoint.read(final)[1]
    assert json.loads((folder / "digests.json").read_text()) == {
        "open_flamingo-tiny.safetensors": "0",
        installed.name: digest,
    }
    assert "| C | 100 | 1000 | 4.7942 | 7 |" in (folder / "open_flamingo-spelled.md").read_text()
    assert len(tensors) > 10
