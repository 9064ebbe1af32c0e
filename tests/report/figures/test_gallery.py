"""Pictures with the answers that models gave: names, boxes, what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from harness.errors import DataError
from harness.records.gallery import Picture, ShownMention, ShownObject, ShownSamples
from harness.report.figures import strips as pictures
from harness.report.results import Key, Results, load
from harness.types import Box
from tests.report.figures.gallery import add_gallery
from tests.support import fake_cells

ANSWER = ShownSamples(
    3,
    (
        ShownMention(0, "disc", Box(0, 0, 9, 9), verified=True),
        ShownMention(0, "disc", Box(9, 9, 9, 9), verified=True),
        ShownMention(0, "hoop", Box(1, 1, 2, 2), verified=False),
        ShownMention(1, "circle", Box(0, 0, 9, 9), verified=True),
        ShownMention(1, "disc", Box(50, 50, 9, 9), verified=False),
        ShownMention(1, "hoop", Box(1, 1, 2, 2), verified=False),
        ShownMention(2, "hoop", Box(1, 1, 2, 2), verified=False),
    ),
)


def test_names_are_counted_by_sample() -> None:
    """disc: samples 0 (twice) and 1; verified in sample 0 alone. hoop is most frequent, but never verified."""
    assert pictures.counted(ANSWER) == [
        pictures.Named("disc", samples=2, verified=1),
        pictures.Named("circle", samples=1, verified=1),
        pictures.Named("hoop", samples=3, verified=0),
    ]
    panel = pictures.answer_panel("ce", ANSWER)
    assert panel.lines == (("2/3 disc", True), ("1/3 circle", True), ("3/3 hoop", False))
    assert [(box.sample, box.verified) for box in panel.boxes[:4]] == [(0, True), (0, True), (0, False), (1, True)]
    assert pictures.answer_panel("ce", ShownSamples(3, ())).lines == (("nothing", False),)


def test_control_characters_are_shown_as_replaced() -> None:
    """They may stand in no XML."""
    (mention, *_) = ANSWER.mentions
    panel = pictures.answer_panel("ce", ShownSamples(1, (replace(mention, name="a\x14 b\n"),)))
    assert [text for text, _ in panel.lines] == ["1/1 a\ufffd b\ufffd"]


def test_the_ground_truth_lists_every_name_once() -> None:
    def disc(x: float) -> ShownObject:
        return ShownObject(name="disc", x=x, y=0, w=5, h=5)

    star = ShownObject(name="star", x=9, y=9, w=5, h=5)
    picture = Picture(image_id=1, file="1.png", width=20, height=20, instances=(disc(0), star, disc(6)))
    panel = pictures.truth_panel(picture, {"disc": ("circle", "dot"), "star": ()})
    assert [text for text, _ in panel.lines] == ["disc", "  or circle", "  or dot", "star"]
    assert [drawn.box.x for drawn in panel.boxes] == [0, 9, 6]
    assert all(drawn.sample is None for drawn in panel.boxes)


def test_long_panels_say_what_they_leave_out() -> None:
    made = [(f"{index}", True) for index in range(pictures.NAMES + 1)]
    assert pictures._fitting(made) == made
    assert pictures._fitting([*made, ("x", True)])[-1] == ("and 2 more", False)
    ((cut, _),) = pictures._fitting([("w" * 99, True)])
    assert cut == "w" * (len(cut) - 1) + "…"


def test_strips_have_a_panel_for_ground_truth_base_and_each_objective(results: Results) -> None:
    strips = pictures.strips(results)
    assert sorted(strip.picture.image_id for strip in strips) == [100, 101]
    for strip in strips:
        assert [panel.title for panel in strip.panels] == ["ground truth", "base", "ce", "sed"]
        first = results.read_gallery(Key("toy", "ce", 0))
        assert strip.panels[2] == pictures.answer_panel("ce", first[strip.picture.image_id])


def test_an_image_that_a_cell_does_not_know_is_an_error(tmp_path: Path) -> None:
    run = fake_cells.write_run(tmp_path, fake_cells.suite(), images=5)
    add_gallery(run, images=5)
    index = run / "gallery" / "index.json"
    index.write_text(index.read_text().replace('"image_id": 101', '"image_id": 104'))
    with pytest.raises(DataError, match=r"gallery\.parquet of base, ce, sed: expected image 104"):
        pictures.strips(load(run))


def test_many_rows_leave_room_for_fewer_images(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PANELS", 7)  # four panels an image: one image
    assert len(pictures.strips(results)) == 1
    monkeypatch.setattr(pictures, "PANELS", 1)
    assert len(pictures.strips(results)) == 1  # never none


def beginnings(item: PathPatch) -> int:
    """Counts the outlines of a path."""
    return int(np.count_nonzero(np.asarray(item.get_path().codes) == Outline.MOVETO))


def test_a_box_is_dashed_where_nothing_verifies_it(results: Results) -> None:
    strip = pictures.strips(results)[0]
    panel = pictures.answer_panel("ce", ANSWER)
    folder = results.folders[Key("toy", "ce", 0)].parents[1] / "gallery"
    figure = pictures.draw_strips([replace(strip, panels=(panel,))], folder)
    drawn = [item for item in figure.axes[0].patches if isinstance(item, PathPatch)]
    boxes = {
        (str(item.get_edgecolor()), item.get_linestyle() not in ("-", "solid")): beginnings(item) for item in drawn
    }
    assert sorted(boxes.values()) == [1, 1, 1, 2, 2]  # one path per sample and kind: 2 + 1, 1 + 2, 1
    assert sum(count for (_, dashed), count in boxes.items() if dashed) == 4
    assert len({colour for colour, _ in boxes}) == 3  # one colour per sample
