"""Valid files, and what damages them at random: a mutation is a function of its seed, so that a failure
names the seed and `mutation(seed)` makes the files again."""

from __future__ import annotations

import copy
import io
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.evaluators import evaluator
from benchmarks.readers.annotations import Style
from tests.benchmarks.documents import annotation, category, coco_category, coco_image, document, image, result

IMAGES, CATEGORIES, OBJECTS, DETECTIONS = 6, 4, 20, 60
PROTOCOLS: dict[Style, tuple[evaluator.Protocol, ...]] = {"lvis": ("lvis", "lvis-fixed"), "coco": ("coco",)}

# ---- valid files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """The bytes of an annotation file and of a results file, and the results file's suffix."""

    style: Style
    protocol: evaluator.Protocol
    truth: bytes
    results: bytes
    suffix: str


def box(rng: random.Random) -> list[float]:
    return [round(rng.uniform(0, 300), 1), round(rng.uniform(0, 200), 1), *(rng.choice([20, 90, 250]) for _ in "wh")]


def truth(style: Style) -> Any:
    """Small, medium and large objects, federated fields, crowds; the same for every mutation."""
    rng = random.Random(0)
    ids, category_ids = range(1, IMAGES + 1), range(1, CATEGORIES + 1)
    objects = [annotation(k, rng.choice(ids), rng.choice(category_ids), *box(rng)) for k in range(1, OBJECTS + 1)]
    if style == "coco":
        crowded = [{**a, "iscrowd": int(rng.random() < 0.2)} for a in objects]
        return document([coco_image(i) for i in ids], crowded, [coco_category(c, f"c{c}") for c in category_ids])
    federated = [{"neg_category_ids": rng.sample(category_ids, 2), "not_exhaustive_category_ids": [4]} for _ in ids]
    images = [image(i, **fields) for i, fields in zip(ids, federated, strict=True)]
    names = [category(c, f"c{c}", f"also c{c}", frequency=rng.choice("rcf")) for c in category_ids]
    return document(images, objects, names)


def results(style: Style) -> Any:
    """Shifted objects and stray boxes."""
    rng = random.Random(1)
    objects = truth(style)["annotations"]
    near_objects = [
        result(a["image_id"], a["category_id"], round(rng.random(), 3), *(v + rng.choice([0, 3, 9]) for v in a["bbox"]))
        for a in objects
    ]
    ids = ((rng.randint(1, IMAGES), rng.randint(1, CATEGORIES)) for _ in range(DETECTIONS - len(near_objects)))
    return near_objects + [result(i, c, round(rng.random(), 3), *box(rng)) for i, c in ids]


def columns(rows: list[Any]) -> dict[str, Any]:
    boxes = np.array([row["bbox"] for row in rows])
    rest = {key: np.array([row[key] for row in rows]) for key in ("image_id", "category_id", "score")}
    return {**rest, **{key: boxes[:, k].copy() for k, key in enumerate("xywh")}}


def binary(suffix: str, content: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    if suffix == ".npz":
        np.savez(stream, **content)
    else:
        pq.write_table(pa.table({key: pa.array(values) for key, values in content.items()}), stream)
    return stream.getvalue()


# ---- mutations of a document -------------------------------------------------------------------------------------


VALUES: tuple[Any, ...] = (
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0, 0, 1, 2, -1, 3.0, 0.5, 2**53, 2**63, 10**400),
    *("", " ", "text", "two\nlines", "\ud800", "\u2028", "x" * 5000, "../..", "nul\0", "1", None, True, False),
    *([], {}, [[]], [{}], [0] * 5, {"id": 1}),
)


def containers(value: Any) -> Iterator[Any]:
    """Every non-empty list and object of a document, the document first."""
    if isinstance(value, dict | list) and value:
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from containers(child)


def keys(container: Any) -> list[Any]:
    return list(container) if isinstance(container, dict) else list(range(len(container)))


def replace(place: Any, key: Any, rng: random.Random) -> None:
    place[key] = copy.deepcopy(rng.choice(VALUES))


def perturb(place: Any, key: Any, rng: random.Random) -> None:
    """A number near by; anything else is replaced."""
    value = place[key]
    if type(value) is int:
        place[key] = value + rng.choice([-1, 1, 2])
    elif type(value) is float:
        place[key] = value * rng.choice([-1, 0, 1e-9, 0.5, 1.1, 1e9])
    else:
        replace(place, key, rng)


def delete(place: Any, key: Any, _: random.Random) -> None:
    del place[key]


def duplicate(place: Any, key: Any, rng: random.Random) -> None:
    """An element again; of an object, under another key of its."""
    if isinstance(place, list):
        place.insert(rng.randint(0, len(place)), copy.deepcopy(place[key]))
    else:
        place[rng.choice(keys(place))] = copy.deepcopy(place[key])


def swap(place: Any, key: Any, rng: random.Random) -> None:
    other = rng.choice(keys(place))
    place[key], place[other] = place[other], place[key]


def insert(place: Any, key: Any, rng: random.Random) -> None:
    value = copy.deepcopy(rng.choice(VALUES))
    if isinstance(place, list):
        place.insert(key, value)
    else:
        place[f"{key}_"] = value


def rename(place: Any, key: Any, rng: random.Random) -> None:
    if isinstance(place, dict):
        place[rng.choice([key.upper(), f"{key}s", "", "neg_category_ids", "iscrowd", "ignore"])] = place.pop(key)
    else:
        place[key] = {"value": place[key]}


def empty(place: Any, key: Any, _: random.Random) -> None:
    place[key] = {} if isinstance(place[key], dict) else []


EDITS: tuple[Callable[[Any, Any, random.Random], None], ...] = (
    *(replace, replace, delete, duplicate, swap, insert, rename, empty),
    *(perturb,) * 8,  # the only one whose documents are valid as a rule
)


def edited(content: Any, rng: random.Random) -> bytes:
    """One or two edits at random places; every depth of the document is as likely."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2])):
        place = content
        while isinstance(place, dict | list) and place:
            key = rng.choice(keys(place))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.25:
                rng.choice(EDITS)(place, key, rng)
                break
            place = inner
    return json.dumps(content).encode()


# ---- mutations of bytes ------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Truncated, a flipped bit, a changed, doubled or missing slice."""
    a, b = sorted(rng.randrange(len(content)) for _ in "ab")
    b = min(b, a + 40)
    kind = rng.randrange(6)
    if kind == 0:
        return content[: rng.choice([0, 1, a, len(content) - 1])]
    if kind <= 2:
        return content[:a] + bytes([content[a] ^ 1 << rng.randrange(8)]) + content[a + 1 :]
    middle = (rng.randbytes(rng.randint(1, 8)), content[a:b] * 2, b"")[kind - 3]
    return content[:a] + middle + content[b:]


# ---- mutations that mean nothing ---------------------------------------------------------------------------------


def rewritten(content: Any, rng: random.Random) -> bytes:
    """The same document: keys in another order, unknown fields, other white space, other escapes."""
    content = copy.deepcopy(content)
    unknown = (1e308, "}, {", [{"a": [1]}, {"b": None}], {"id": 0, "bbox": []}, "\ud83d\ude00")
    for place in list(containers(content)):
        if isinstance(place, dict):
            items = list(place.items())
            rng.shuffle(items)
            place.clear()
            place.update(items)
            if rng.random() < 0.5:
                place["unknown"] = copy.deepcopy(rng.choice(unknown))
    separators = rng.choice([(",", ":"), (" , ", "\t:\n")])
    return json.dumps(content, indent=rng.choice([None, 0, 3]), separators=separators).encode()


# ---- files by their seed ------------------------------------------------------------------------------------------


def originals(style: Style, protocol: evaluator.Protocol, suffix: str = ".json") -> Files:
    rows = results(style)
    table = json.dumps(rows).encode() if suffix == ".json" else binary(suffix, columns(rows))
    return Files(style, protocol, json.dumps(truth(style)).encode(), table, suffix)


def mutation(seed: int) -> tuple[Files, bool]:
    """The files of a mutation, and whether it means nothing: the figures must stay as they are."""
    rng = random.Random(seed)
    style = rng.choice(get_args(Style))
    suffix = rng.choice([".json"] * 8 + [".npz", ".parquet"])
    files = originals(style, rng.choice(PROTOCOLS[style]), suffix)
    if suffix != ".json":
        return Files(style, files.protocol, files.truth, damaged_table(suffix, style, rng), suffix), False
    kind = rng.choices(["edited", "damaged", "rewritten"], [6, 3, 1])[0]
    new, old = files.truth, files.results
    if rng.random() < 0.6:
        new = change(kind, truth(style), rng)
    else:
        old = change(kind, results(style), rng)
    return Files(style, files.protocol, new, old, suffix), kind == "rewritten"


def change(kind: str, content: Any, rng: random.Random) -> bytes:
    if kind == "damaged":
        return damaged(json.dumps(content).encode(), rng)
    return (edited if kind == "edited" else rewritten)(content, rng)


def damaged_table(suffix: str, style: Style, rng: random.Random) -> bytes:
    """Half of the mutations change the file's bytes, half a value or a column."""
    content = columns(results(style))
    if rng.random() < 0.5:
        return damaged(binary(suffix, content), rng)
    key = rng.choice(list(content))
    if rng.random() < 0.3:
        del content[key]
    elif rng.random() < 0.3:
        content[key] = content[key].astype(rng.choice([np.float32, np.int16, bool, str]))
    else:
        content[key][rng.randrange(DETECTIONS)] = rng.choice([-1, 0, 2**31] + [math.nan, math.inf] * (key > "j"))
    return binary(suffix, content)
