"""Pairs of sequences: who is chosen, who is rejected, and the table they are kept in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from harness.commands.app import main
from harness.commands.results.pairs import show
from harness.errors import ConfigError, DataError
from harness.images import read_rgb
from harness.metrics.samples.reward import rewards
from harness.objectives.policy import advantages
from harness.records import read_record
from harness.report import rows
from harness.report.results import load
from harness.run import runner
from harness.run.context import open_context
from harness.sequence.targets import members, target
from harness.suite.preference_settings import Divpo, Dpo
from harness.system.files import sha256
from harness.training.stages import pairs
from harness.training.stages.pairs import RatedAnswer, chosen_over_worst, rare_over_common
from harness.training.stages.rollout import Rollout, keys
from harness.types import Box, Example, Parsed, Sample
from tests.support import small
from tests.support.chains import DIVPO, DPO
from tests.training.stages.test_preference import tiny


def rated(tokens: int, reward: float, samples: int = 1) -> RatedAnswer:
    return RatedAnswer((tokens,), Parsed((), 0, False), reward, samples)


# ---- who is chosen, who is rejected ----------------------------------------------------------------------------------


def test_the_worst_samples_are_rejected() -> None:
    """0.1 twice by one sequence, so 0.1, 0.3 and 0.9 are left; the third target has nothing that is worse."""
    samples = [rated(1, 0.9), rated(2, 0.1), rated(3, 0.3), rated(2, 0.1)]
    targets = [rated(10, 1.0), rated(11, 1.0), rated(12, 0.9)]
    pairs_made = chosen_over_worst(targets, samples)
    assert [(chosen.tokens, rejected.tokens) for chosen, rejected in pairs_made] == [((10,), (2,)), ((11,), (3,))]
    assert chosen_over_worst([rated(10, 1.0)], [rated(1, 1.0)]) == []


def test_of_equally_bad_samples_the_first_is_rejected() -> None:
    samples = [rated(5, 0.4), rated(7, 0.2), rated(6, 0.2), rated(7, 0.2)]
    ((_, rejected),) = chosen_over_worst([rated(10, 1.0)], samples)
    assert rejected.tokens == (7,)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # the rarest good one, however good; the most common bad one, however bad
        ([rated(1, 0.9, 3), rated(2, 0.6, 1), rated(3, 0.4, 2), rated(4, 0.0, 1)], (2, 3)),
        # of equally rare ones the better, of equally common ones the worse, of equal ones the first
        ([rated(1, 0.7, 1), rated(2, 0.9, 1), rated(3, 0.3, 1), rated(4, 0.1, 1), rated(5, 0.1, 1)], (2, 4)),
        ([rated(1, 0.9, 1), rated(2, 0.59, 1), rated(3, 0.41, 1)], None),  # neither good nor bad
        ([rated(1, 0.2, 1), rated(2, 0.3, 1)], None),
    ],
)
def test_rare_and_good_over_common_and_bad(answers: list[RatedAnswer], expected: tuple[int, int] | None) -> None:
    pair = rare_over_common(answers, 0.6, 0.4)
    assert [(chosen.tokens[0], rejected.tokens[0]) for chosen, rejected in pair] == ([expected] if expected else [])


def rolled(*objects: list[tuple[str, Box]]) -> tuple[Rollout, Example]:
    """What was said of a training image with several objects, one sequence each."""
    codec, example = small.fresh().codec, two_objects()
    samples = tuple(Sample(codec.encode(listed, example.width, example.height), (0.0,)) for listed in objects)
    parsed = [codec.decode(sample.tokens, example.width, example.height) for sample in samples]
    worth = torch.from_numpy(rewards("detection", [example], [parsed]))
    return Rollout((example,), (samples,), worth, advantages(worth), {}), example


def two_objects() -> Example:
    return next(e for e in small.train_examples(24) if len({i.category_id for i in e.instances}) == 2)


def correct(example: Example) -> list[tuple[str, Box]]:
    names = small.fresh().codec.names_of
    return [(names[item.category_id][0], item.box) for item in example.instances]


def test_divpo_of_what_a_model_said() -> None:
    """All right twice in one order (2 of 5), once in the other (1 of 5, the rarest good one), and twice names in the
    first order again with boxes in the corner (2 + 2 of 5 list them so)."""
    right = correct(two_objects())
    corner = [(name, Box(0.0, 0.0, 1.0, 1.0)) for name, _ in right]
    rollout, example = rolled(right, right, right[::-1], corner, corner)
    codec = small.fresh().codec
    (pair,) = pairs.pairs_of(rollout, codec, Divpo(name="divpo"), "canonical", 0)
    assert (pair.example, pair.samples) == (example, 5)
    assert (pair.chosen.tokens, pair.chosen.reward, pair.chosen.samples) == (rollout.samples[0][2].tokens, 1.0, 1)
    assert (pair.rejected.tokens, pair.rejected.reward, pair.rejected.samples) == (rollout.samples[0][3].tokens, 0.0, 4)


@pytest.mark.parametrize("targets", ["canonical", "random"])
def test_dpo_of_what_a_model_said(targets: str) -> None:
    """Two of the equivalence set over the two different samples that are worse: nothing, and one object."""
    example = two_objects()
    right = correct(example)
    rollout, _ = rolled(right, right[:1], [], right[:1])
    codec = small.fresh().codec
    made = pairs.pairs_of(rollout, codec, Dpo(name="dpo", pairs_per_image=3), targets, 7)
    assert [pair.chosen.tokens for pair in made] == members(example, codec, targets, 7, 0, 3)[:2]
    assert [pair.rejected.tokens for pair in made] == [rollout.samples[0][2].tokens, rollout.samples[0][1].tokens]
    assert [pair.rejected.samples for pair in made] == [1, 2]
    canonical = target(example, codec, "canonical")
    same = [s for s in rollout.samples[0] if s.tokens == canonical]  # whether reading order is the annotations' order
    if targets == "canonical":
        assert made[0].chosen.samples == len(same)
    assert [pair.chosen.reward for pair in made] == [1.0, 1.0]


# ---- the table -------------------------------------------------------------------------------------------------------


def table() -> tuple[pd.DataFrame, list[pairs.Pair]]:
    right = correct(two_objects())
    rollout, _ = rolled(right, right[:1], [])
    codec = small.fresh().codec
    made = pairs.pairs_of(rollout, codec, Dpo(name="dpo", pairs_per_image=2), "random", 0)
    return pairs.frame(made, codec), made


def test_the_table_in_a_file(tmp_path: Path) -> None:
    frame, made = table()
    assert tuple(frame.columns) == pairs.COLUMNS
    frame.to_parquet(tmp_path / "pairs.parquet", index=False)
    again = pairs.read(tmp_path / "pairs.parquet")
    assert pairs.sequences(again) == [(pair.chosen.tokens, pair.rejected.tokens) for pair in made]
    assert keys(again) == [pair.example.key for pair in made]
    first, pair = again.iloc[0], made[0]
    assert (first["samples"], first["chosen_reward"], first["rejected_reward"]) == (3, 1.0, 0.0)
    assert first["chosen_text"] == small.fresh().codec.text(pair.chosen.tokens)
    assert list(first["chosen_names"]) == [mention.name for mention in pair.chosen.parsed.mentions]
    boxes = [(m.box.x, m.box.y, m.box.w, m.box.h) for m in pair.chosen.parsed.mentions]
    assert np.array_equal(first["chosen_boxes"], np.ravel(boxes))
    assert len(first["rejected_names"]) == len(first["rejected_boxes"]) == 0


def test_what_an_image_is_asked_is_part_of_its_key() -> None:
    frame, _ = table()
    asked = frame.assign(asked=pd.Series([[4, 2]] * len(frame)))
    image = int(frame["image_id"].iloc[0])
    assert (keys(frame)[0], keys(asked)[0]) == ((image,), (image, 4, 2))


def test_files_that_are_no_pairs(tmp_path: Path) -> None:
    frame, _ = table()
    frame.drop(columns=["rejected_tokens", "samples"]).to_parquet(tmp_path / "columns.parquet")
    frame[:0].to_parquet(tmp_path / "empty.parquet")
    (tmp_path / "text.parquet").write_text("no")
    expected = {
        "columns": r"columns\.parquet: expected the pairs\.parquet of a cell; samples, rejected_tokens missing",
        "empty": "got one without a pair",
        "text": r"text\.parquet: expected the pairs\.parquet of a cell, got: ",
        "none": r"none\.parquet: expected the pairs\.parquet of a cell, got: ",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message):
            pairs.read(tmp_path / f"{name}.parquet")


def test_pairs_about_other_images_or_words(tmp_path: Path) -> None:
    frame, _ = table()
    path = tmp_path / "pairs.parquet"
    frame.to_parquet(path)
    examples = small.train_examples(24)
    assert pairs.problems(path, examples) == []
    (problem,) = pairs.problems(path, [e for e in examples if e.image_id != frame["image_id"][0]])
    assert "expected pairs about training images, got 1 others" in problem
    codec = small.fresh().codec
    pairs.require_vocabulary(frame, codec, path)
    for tokens in ([[2, 3]] * len(frame), [[10**9]] * len(frame), [[-(10**6)]] * len(frame)):
        with pytest.raises(ConfigError, match="expected pairs of a model with this vocabulary"):
            pairs.require_vocabulary(frame.assign(chosen_tokens=pd.Series(tokens)), codec, path)


# ---- a run -----------------------------------------------------------------------------------------------------------

BOTH: dict[str, Any] = {"dpo": {**DPO, "samples": 4}, "divpo": {**DIVPO, "temperature": 1.5, "images": 12}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two chains, from the shipped weights."""
    output = tmp_path_factory.mktemp("run")
    finished = runner.run(open_context(tiny(**BOTH), None, "cpu"), output, "*-d*po-*")
    assert [record.status for record in finished] == ["finished"] * 2
    return output


def cell_of(folder: Path, label: str) -> Path:
    (path,) = folder.glob(f"cells/open_flamingo-{label}-s0-*")
    return path


@pytest.mark.parametrize("label", ["dpo", "divpo"])
def test_the_cell_has_both_stages(folder: Path, label: str) -> None:
    table = {row.label: row for row in rows.table(load(folder))}
    assert (table[f"{label} after sft"].step, table[label].step) == (2, 5)
    record = read_record(cell_of(folder, label))
    assert record.files["pairs.parquet"] == sha256(cell_of(folder, label) / "pairs.parquet")
    preferring = [row for row in record.curve if "margin" in row]
    assert [row["step"] for row in preferring] == [3, 4, 5]
    assert preferring[-1]["margin"] > 0
    assert preferring[-1]["loss"] < preferring[0]["loss"]
    stored = pairs.read(cell_of(folder, label) / "pairs.parquet")
    assert {*pairs.COLUMNS, *pairs.REFERENCES} == {*stored.columns}
    for side in pairs.SIDES:
        assert list(stored[f"{side}_reference"].map(len)) == list(stored[f"{side}_tokens"].map(len))
        assert all(np.concatenate(list(stored[f"{side}_reference"])) <= 0)


def test_pairs_of_another_cell(folder: Path, tmp_path: Path) -> None:
    """The same pairs; what the model thinks of them, as this stage begins, is its own. Where the file lies does not
    matter to what the cell is."""
    path = cell_of(folder, "divpo") / "pairs.parquet"
    moved = Path(shutil.copy(path, tmp_path / "elsewhere.parquet"))
    sharing, same = (tiny(shared={**DPO, "pairs": str(place)}) for place in (path, moved))
    assert sharing.described(sharing.models[0], sharing.objectives[0]) == same.described(
        same.models[0], same.objectives[0]
    )
    assert sharing.described(sharing.models[0], sharing.objectives[0])["then"]["pairs"] == sha256(path)
    other = sharing.model_copy(update={"train": sharing.train.model_copy(update={"lr": 1e-2})})
    (record,) = runner.run(open_context(other, None, "cpu"), tmp_path / "out", "*-shared-*")
    assert record.status == "finished"
    given, copied = pairs.read(path), pairs.read(cell_of(tmp_path / "out", "shared") / "pairs.parquet")
    assert pairs.sequences(given) == pairs.sequences(copied)
    assert list(given["chosen_samples"]) == list(copied["chosen_samples"])
    before, now = (np.concatenate(list(frame["chosen_reference"])) for frame in (given, copied))
    assert not np.allclose(before, now)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["detmodes", "pairs", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_pairs_as_text(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, folder, "--only", "*-dpo-*", "--images", 2) == 0
    table = pairs.read(cell_of(folder, "dpo") / "pairs.parquet")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"open_flamingo dpo seed 0: {len(table)} pairs"
    assert len(lines) == 6
    assert lines[0] == f"image {table['image_id'][0]}"
    assert lines[1] == f"  chosen: reward 1.00, {table['chosen_samples'][0]}/4      {table['chosen_text'][0]}"
    assert table["rejected_text"][1] in lines[5]


def test_pairs_drawn(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes again; more images, more of a picture."""
    made = [tmp_path / f"{name}.png" for name in ("one", "again", "two")]
    for path, images in zip(made, (1, 1, 2), strict=True):
        assert command(monkeypatch, folder, "--only", "*-dpo-*", "--images", images, "--output", path) == 0
    one, two = (read_rgb(path) for path in (made[0], made[2]))
    assert one.width == two.width
    assert two.height > 1.5 * one.height
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_page_of_pairs_runs_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pairs.read

    def hostile(path: Path) -> pd.DataFrame:
        return original(path).assign(chosen_text="<script>alert(1)</script>\x1b[2J")

    monkeypatch.setattr(pairs, "read", hostile)
    assert command(monkeypatch, folder, "--output", tmp_path / "pairs.html", "--images", 1) == 0
    page = (tmp_path / "pairs.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert page.count("<h2>") == 2
    assert page.count("<img ") == page.count("<figure>") >= 2
    assert "\x1b" not in show(folder, None, 1, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nothing"), "--only 'nothing': matches none of: open_flamingo-dpo-s0, "),
        (("--output", "pairs.pdf"), "--output: expected a name that ends in .html or .png, got pairs.pdf"),
        (("--output", "pairs.png"), "pairs.png: expected one cell for a picture, got open_flamingo dpo seed 0, "),
    ],
)
def test_pairs_that_cannot_be_shown(
    folder: Path,
    arguments: tuple[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, folder, *arguments) == 2
    assert capsys.readouterr().err.startswith(f"detmodes: {message}")
    assert not list(tmp_path.iterdir())
