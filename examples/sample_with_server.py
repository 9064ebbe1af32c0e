"""Asks a vision-language model behind an OpenAI-compatible server (vLLM, SGLang, ...) K times about each image of an
annotation file, and writes the samples file that `detmodes measure` reads.

    python examples/sample_with_server.py --annotations val.json --images val --family qwen2_5_vl --output samples.jsonl
    detmodes measure samples.jsonl --annotations val.json

Prompt, coordinates and parser are those of a family of `vlm` that answers in JSON. Address, model and key of the server
come from the command line or from DETMODES_LLM_ADDRESS, DETMODES_LLM_MODEL and DETMODES_LLM_KEY (the key from there
alone), and are written nowhere. Answers that the file already has are not asked for again. It needs detmodes[train].
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.readers.annotations import load
from harness import images
from harness.errors import DataError, DetmodesError
from harness.sequence import Space
from harness.sequence.json_objects import ReadObject, read_objects
from harness.training.stages.chat import ADDRESS, KEY, MODEL, ChatServer
from harness.types import Category, Example
from model_zoo.vlm.family import Family
from model_zoo.vlm.qwen import QWEN2_5_VL, QWEN3_VL

FAMILIES = {"qwen2_5_vl": QWEN2_5_VL, "qwen3_vl": QWEN3_VL}
"""Those that answer in text: the location tokens of the others do not come back from a server."""
SIDE = 896
"""Pictures are squeezed to a square of this side, as `vlm` does. A multiple of 28 and of 32, the patches of Qwen2.5-VL
and Qwen3-VL, so that the server does not resize them again, and coordinates are of the picture that we sent."""


def main() -> None:
    """Asks for all answers that the file does not have yet, and appends each as it comes, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="images to sample, in COCO or LVIS format")
    parser.add_argument("--protocol", choices=("lvis", "coco"), default="lvis", help="style of the annotations")
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--output", type=Path, required=True, help="samples file")
    parser.add_argument("--family", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--samples", type=int, default=8, metavar="K")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--name-categories", action="store_true", help="ask about the categories by their names")
    parser.add_argument("--jobs", type=int, default=8, help="questions that are asked at the same time")
    parser.add_argument("--address", help=f"URL that /chat/completions is below; default: {ADDRESS}. Key: {KEY}")
    parser.add_argument("--model", help=f"default: {MODEL}")
    options = parser.parse_args()
    try:
        server = ChatServer.of(options.address, options.model)
        annotations = load(options.annotations, options.images, options.protocol)
        family = FAMILIES[options.family]
        question = question_of(family, annotations.categories if options.name_categories else ())
        finished = read_finished(options.output)
        settings = {"temperature": options.temperature, "max_tokens": options.max_tokens}
        with options.output.open("a") as stream, ThreadPoolExecutor(options.jobs) as pool:
            for number, example in enumerate(annotations.examples, start=1):
                missing = [k for k in range(options.samples) if (example.image_id, k) not in finished]
                if missing:
                    messages = messages_of(example, question)
                    requests = [pool.submit(server.complete, messages, seed=k, **settings) for k in missing]
                    for sample, request in zip(missing, requests, strict=True):
                        line = line_of(example, *request.result(), family.space(SIDE))
                        numbered = {"image_id": example.image_id, "sample": sample, "temperature": options.temperature}
                        stream.write(json.dumps({**numbered, **line}) + "\n")
                    stream.flush()
                print(f"\r{number} of {len(annotations.examples)} images", end="", file=sys.stderr)
        print(file=sys.stderr)
    except DetmodesError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def question_of(family: Family, categories: Sequence[Category]) -> str:
    """Returns the family's question: about everything, or about these categories."""
    if not categories:
        return family.question
    return family.asking.format(names=family.between.join(category.name for category in categories))


def messages_of(example: Example, question: str) -> list[dict[str, Any]]:
    """Returns what the server is sent: the picture, squeezed to a square, and the question."""
    picture, stream = images.read(example).resize((SIDE, SIDE), Image.Resampling.BICUBIC), io.BytesIO()
    picture.save(stream, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def line_of(example: Example, text: str, truncated: bool, space: Space) -> dict[str, Any]:
    """Reads an answer: its mentions with boxes in pixels of the image, and how many entries could not be read."""
    objects = read_objects(text, truncated)
    mentions = [mention for item in objects for mention in mentions_of(item, example, space)]
    lenient = sum(item is not None and item.lenient for item in objects)
    counts = {"malformed": len(objects) - len(mentions), "truncated": truncated, "lenient": lenient}
    return {"mentions": mentions, **{name: count for name, count in counts.items() if count}}


def mentions_of(item: ReadObject | None, example: Example, space: Space) -> Iterator[dict[str, Any]]:
    """Yields what an entry says; nothing where it cannot be read, or its box has no area."""
    if item is not None and len(item.numbers) == space.count:
        box = space.restore(item.numbers, example.width, example.height)
        if box is not None:
            yield {"name": item.label.strip(), "bbox": [box.x, box.y, box.w, box.h]}


def read_finished(path: Path) -> set[tuple[int, int]]:
    """Returns image and number of the samples that the file has; an unfinished last line is cut off."""
    if not path.exists():
        return set()
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        finished = {(line["image_id"], line["sample"]) for line in lines}
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{path}: expected a samples file to go on with") from None
    if whole != text:
        path.write_text(whole)
    return finished


if __name__ == "__main__":
    main()
