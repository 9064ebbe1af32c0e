"""Shows the answers of a model to an image: the greedy answer, K samples, and a drawing of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from harness import records, registry
from harness.errors import ConfigError, DataError, unknown
from harness.evaluation.answers import join_answers, read_sample
from harness.images import read_rgb
from harness.inference.confidence import score
from harness.protocols import Adapter, Predictor
from harness.run.task import experts_of
from harness.sequence import Codec, for_task
from harness.sequence.experts import asked_of
from harness.sequence.prompts import about
from harness.suite.permissions import NOTHING, Permissions, permit_record
from harness.system.files import as_url
from harness.types import Category, Example, Mention, Parsed

HOME_BENCHMARK = "shapes"
"""The benchmark with the categories of a model that is given by name: its shipped base was trained on it."""
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")
MIN_SIDE = 320
MAX_TOKENS = 256
MIXTURE = "mixture"
"""The objective whose models have experts."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Greedy answer (with category scores) and samples for one image."""

    example: Example
    greedy: Parsed
    scores: tuple[float, ...]
    samples: tuple[Parsed, ...]


def predict(
    images: Sequence[Path],
    model: str,
    samples: int,
    temperature: float,
    seed: int,
    permissions: Permissions = NOTHING,
) -> Iterator[Seen]:
    """Yields the answers for each image in order. `model`: a name (its shipped base) or the folder of a cell."""
    for path in images:
        if (url := as_url(path)) and not path.exists():
            raise DataError(f"{url}: expected a picture on this machine, a URL is not read here; download it first")
    examples = [_example(index, path) for index, path in enumerate(images)]
    predictor, chunk = open_model(model, permissions), _chunk(model)
    temperatures = [0.0, *[temperature] * samples]
    for example in examples:
        asked = [example] if chunk is None else _about_all(example, predictor.codec, chunk)
        emitted = predictor.generate(asked, temperatures, seed, MAX_TOKENS)
        answers = [
            [read_sample(predictor.codec, question, s) for s in of_question]
            for question, of_question in zip(asked, emitted, strict=True)
        ]
        first = [of_question[0] for of_question in answers]
        scores = score(
            predictor,
            [asked_of(question, answer.sample) for question, answer in zip(asked, first, strict=True)],
            [answer.sample.tokens for answer in first],
            [answer.parsed for answer in first],
            log_probs=[answer.sample.log_probs for answer in first],
        )
        greedy, *drawn = (join_answers(parts).parsed for parts in zip(*answers, strict=True))
        yield Seen(
            example,
            greedy,
            tuple(item.of("category") for of_question in scores for item in of_question),
            tuple(drawn),
        )


def _chunk(model: str) -> int | None:
    """Returns how many categories the prompts of a cell name at a time; None where they name none, as for a shipped
    base."""
    if not (Path(model) / records.RECORD).is_file():
        return None
    prompt = records.read_record(Path(model)).cell.prompt
    return None if prompt is None else int(prompt["chunk"])


def _about_all(example: Example, codec: Codec, chunk: int) -> list[Example]:
    """Asks about every category, because nothing is known of the picture."""
    return about(example, codec.names_of, codec.categories, chunk)


def open_model(reference: str, permissions: Permissions = NOTHING) -> Adapter:
    """Opens a trained adapter from a cell's folder, or a shipped base by the model's name.

    ConfigError where a cell's record names what lies elsewhere, or runs code, and the permissions do not say so.
    """
    folder = Path(reference)
    if (folder / records.RECORD).is_file():
        made = _from_cell(folder, permissions)
    elif reference in registry.names("model"):
        categories = registry.benchmark(HOME_BENCHMARK, {}, None).categories
        made = registry.model(reference, categories, {})
    else:
        raise ConfigError(unknown("model", reference, registry.names("model")) + "; or the folder of a cell")
    if not isinstance(made, Adapter):
        raise ConfigError(f"model {reference!r} reads the ground truth: it cannot predict on an image alone")
    made.model.eval()
    return made


def _from_cell(folder: Path, permissions: Permissions) -> Predictor:
    record = records.read_record(folder)
    if record.status != "finished":
        raise DataError(f"{folder}: this cell failed ({record.error}); run it again first")
    task = record.cell.benchmark.get("task", "boxes")
    if task == "caption":
        raise ConfigError(f"{folder}: its model writes captions; predict needs a cell whose task has boxes")
    categories = [Category(info.id, info.names, info.frequency) for info in record.categories]
    name = str(record.model.get("name"))
    described = {key: value for key, value in record.model.items() if key not in ("name", "sizes", "weights_digest")}
    made = registry.model(name, categories, permit_record(folder, name, described, permissions))
    made.codec = for_task(made.codec, task)
    objective, settings = _split(record.cell.objective)
    if objective == MIXTURE:
        made.codec.experts = experts_of(made, objective, settings)
    if record.role == "trained" and isinstance(made, Adapter):
        records.verify_files(record, folder, ["model.safetensors"])
        made.load(folder / "model.safetensors")
    return made


def _split(objective: Mapping[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
    """Returns the name of a cell's objective, and its settings."""
    settings = dict(objective or {})
    return settings.pop("name", None), settings


def _example(index: int, path: Path) -> Example:
    width, height = read_rgb(path).size
    return Example(index, path, width, height, ())


def as_text(prediction: Seen) -> str:
    """Writes one line per greedy mention, then one per sample."""
    lines = [f"{prediction.example.path} ({prediction.example.width}x{prediction.example.height})"]
    for mention, value in zip(prediction.greedy.mentions, prediction.scores, strict=True):
        x, y, w, h = (round(side, 1) for side in (mention.box.x, mention.box.y, mention.box.w, mention.box.h))
        lines.append(f"  {value:.2f}  {mention.name:<24} x {x:g}  y {y:g}  w {w:g}  h {h:g}")
    if not prediction.greedy.mentions:
        lines.append("  nothing")
    lines += [f"  greedy: {trouble}" for trouble in _troubles(prediction.greedy)]
    for index, parsed in enumerate(prediction.samples, 1):
        names = "; ".join(mention.name for mention in parsed.mentions) or "nothing"
        lines.append(f"  sample {index}: {' | '.join([names, *_troubles(parsed)])}")
    return "\n".join(lines)


def _troubles(parsed: Parsed) -> list[str]:
    troubles = [f"{parsed.malformed} malformed"] if parsed.malformed else []
    troubles += [f"{parsed.lenient} read leniently"] if parsed.lenient else []
    return [*troubles, "truncated"] if parsed.truncated else troubles


def draw(prediction: Seen, folder: Path) -> Path:
    """Draws the image with the greedy boxes, and beside it one panel per sample; small images are enlarged."""
    folder.mkdir(parents=True, exist_ok=True)
    image = read_rgb(prediction.example.path)
    scale = max(1.0, MIN_SIDE / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    enlarged = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    panels = [("greedy", prediction.greedy), *((f"sample {i}", s) for i, s in enumerate(prediction.samples, 1))]
    every = [_kind(mention) for _, parsed in panels for mention in parsed.mentions]
    colour_of = {kind: number for number, kind in enumerate(dict.fromkeys(every))}
    caption = 20
    sheet = Image.new("RGB", ((size[0] + 8) * len(panels) - 8, size[1] + caption), "white")
    for column, (title, parsed) in enumerate(panels):
        left = column * (size[0] + 8)
        sheet.paste(_annotated(enlarged, parsed.mentions, scale, colour_of), (left, caption))
        ImageDraw.Draw(sheet).text((left + 2, 3), title, fill="black", font=ImageFont.load_default(13))
    path = folder / f"{prediction.example.image_id:03d}-{prediction.example.path.stem}.png"
    sheet.save(path)
    return path


def _kind(mention: Mention) -> int | str:
    """Returns what gives a mention its colour: the category, or the name where the vocabulary has no such name."""
    return mention.name if mention.category_id is None else mention.category_id


def _annotated(
    image: Image.Image, mentions: Sequence[Mention], scale: float, colour_of: Mapping[int | str, int]
) -> Image.Image:
    """Draws the boxes of one answer; a category has one colour in every panel."""
    copy = image.copy()
    pen = ImageDraw.Draw(copy)
    font = ImageFont.load_default(12)
    for mention in mentions:
        colour = COLOURS[colour_of[_kind(mention)] % len(COLOURS)]
        x0, y0, x1, y1 = (side * scale for side in mention.box.corners)
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
        text = pen.textbbox((0, 0), mention.name, font=font)
        left = min(max(0.0, x0), max(0.0, copy.width - text[2] - 4))
        top = y0 - text[3] - 3 if y0 > text[3] + 3 else y0 + 2
        pen.rectangle((left, top, left + text[2] + 4, top + text[3] + 3), fill="black")
        pen.text((left + 2, top), mention.name, fill=colour, font=font)
    return copy
