"""examples/sample_with_server.py against a server of our own: what is sent, what is written, and going on."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.readers.annotations import load
from detmodes import measure
from tests.benchmarks.documents import annotation, category, document, image, write
from tests.support.chat import Conversation, chat_server

ROOT = Path(__file__).parents[2]
KEY = "secret-of-the-server"
# A square of 896: a couch in the left half of the picture, a box without area, and an entry that cannot be read.
ANSWER = '[{"bbox_2d": [0, 0, 448, 896], "label": "sofa"}, {"bbox_2d": [5, 5, 5, 5], "label": "dog"}, {"bbox_2d": "?"}]'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pictures with a couch in the left half of each."""
    objects = [annotation(k, k, 1, 0, 0, 320, 480) for k in (1, 2)]
    categories = [category(1, "couch", "sofa"), category(2, "dog")]
    write(tmp_path / "val.json", document([image(1), image(2)], objects, categories))
    (tmp_path / "images").mkdir()
    for k in (1, 2):
        Image.new("RGB", (640, 480), (k, 0, 0)).save(tmp_path / "images" / f"{k}.jpg")
    return tmp_path


def ask(data: Path, conversation: Conversation, *further: str, family: str = "qwen2_5_vl") -> Any:
    files = ("--annotations", "val.json", "--images", "images", "--output", "samples.jsonl")
    server = {"DETMODES_LLM_ADDRESS": conversation.address, "DETMODES_LLM_MODEL": "qwen", "DETMODES_LLM_KEY": KEY}
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "sample_with_server.py", *files, "--family", family, *further],
        cwd=data,
        env={**os.environ, **server, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def lines(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]


def test_every_image_is_asked_about_k_times_and_measured(data: Path) -> None:
    with chat_server(lambda question: ANSWER) as conversation:
        done = ask(data, conversation, "--samples", "3", "--temperature", "0.7")
    assert done.returncode == 0, done.stderr
    assert len(conversation.asked) == 6
    for path, headers, content in conversation.asked:
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert (content["model"], content["temperature"], content["max_tokens"]) == ("qwen", 0.7, 1024)
        picture, question = content["messages"][0]["content"]
        assert "Locate every object" in question["text"]
        sent = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
        assert sent.size == (896, 896)
    assert sorted(content["seed"] for *_, content in conversation.asked) == [0, 0, 1, 1, 2, 2]
    written = lines(data)
    assert [(line["image_id"], line["sample"]) for line in written] == [(i, k) for i in (1, 2) for k in range(3)]
    # 448 of 896 is half of the width of 640. Two of three entries are malformed.
    expected = {"mentions": [{"name": "sofa", "bbox": [0.0, 0.0, 320.0, 480.0]}], "malformed": 2}
    assert all({key: line[key] for key in expected} == expected for line in written)
    assert KEY not in (data / "samples.jsonl").read_text() + done.stdout + done.stderr
    (measured,) = measure(data / "samples.jsonl", data / "val.json")["temperatures"]
    assert measured["figures"]["recall"] == 1.0
    assert measured["figures"]["name_diversity"] == 0.0
    assert load(data / "val.json", data / "images").categories[0].names == ("couch", "sofa")


def test_it_goes_on_where_it_was_stopped(data: Path) -> None:
    with chat_server(lambda question: "[]") as conversation:
        assert ask(data, conversation, "--samples", "2").returncode == 0
        before = lines(data)
        path = data / "samples.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]) + '{"image_id": 2, "sam')
        assert ask(data, conversation, "--samples", "2").returncode == 0
    assert lines(data) == before
    assert len(conversation.asked) == 4 + 1


def test_categories_by_name_and_thousandths(data: Path) -> None:
    """Qwen3-VL's numbers are thousandths of the sides."""
    answer = '[{"bbox_2d": [0, 0, 500, 1000], "label": "couch"}]'
    with chat_server(lambda question: answer) as conversation:
        assert ask(data, conversation, "--samples", "1", "--name-categories", family="qwen3_vl").returncode == 0
    assert '"couch, dog"' in conversation.asked[0][2]["messages"][0]["content"][1]["text"]
    (mention,) = lines(data)[0]["mentions"]
    assert mention["bbox"] == pytest.approx([0, 0, 320, 480], abs=1)


def test_an_answer_that_was_cut_off_is_truncated(data: Path) -> None:
    cut = '[{"bbox_2d": [0, 0, 448, 896], "label": "sofa"}, {"bbox_2d": [5, '
    body = json.dumps({"choices": [{"message": {"content": cut}, "finish_reason": "length"}]}).encode()
    with chat_server(lambda question: "", body=body) as conversation:
        assert ask(data, conversation, "--samples", "1").returncode == 0
    assert [line["truncated"] for line in lines(data)] == [True, True]
    assert [line["mentions"][0]["name"] for line in lines(data)] == ["sofa", "sofa"]


def test_a_server_that_fails_is_one_line(data: Path) -> None:
    with chat_server(lambda question: "", status=500) as conversation:
        done = ask(data, conversation)
    assert done.returncode == 2
    assert "HTTP status 500" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert KEY not in done.stderr
