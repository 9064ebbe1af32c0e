"""Runs `detmodes new-adapter`: writes a skeleton of a model family's adapter as a separate package.

DIR/NAME.py         one class with the methods of harness.protocols.Adapter; each says what it must return
DIR/test_NAME.py    runs the conformance checks
DIR/pyproject.toml  registers it in the entry-point group detmodes.adapters
"""

from __future__ import annotations

import keyword
from pathlib import Path
from string import Template

from harness import registry
from harness.errors import ConfigError
from harness.system.files import write_text

MODULE = '''"""The model family ${name}. Check it with: detmodes check adapter ${name}"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness import settings as checks
from harness.errors import ConfigError, DataError
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.types import Category, Example, Sample
from model_zoo import checkpoint

# What `detmodes list models` shows, without importing this module: literals only (see harness.types.Card).
CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 1_000_000,  # of the whole model, within 10%
        "coordinates": "65 bins, y x y x",
        "licence": "say which: of the code, and of the weights",
        "weights": "say where they come from",
    },
]
SETTINGS = {"bins": checks.whole(2, default=65)}
"""Every setting that a suite file may give: its range and its default (see harness.settings)."""


class ${made_by}:
    """Tensor shapes: B images, L tokens, V entries of the vocabulary."""

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = {**checks.defaults(SETTINGS), **settings}
        bins = self.settings["bins"]
        # One token for each name, for a model that is trained from scratch. One with a tokenizer of its own takes
        # harness.sequence.TokenizerTokens, and the coordinate space and format that it was pretrained with.
        self.tokens = NameVocabulary(vocabulary_names(categories), bins)
        self.codec = Codec(categories, self.tokens, CoordinateSpace(bins))
        self.model = build(self.tokens.size)

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        """What is wrong with settings, one line each, without loading anything: unknown keys, types, ranges."""
        return checks.problems("${name}", settings, SETTINGS)

    @staticmethod
    def places(settings: Mapping[str, Any]) -> list[str]:
        """Which settings name files, folders or repositories to be read: see harness.protocols.NamesPlaces."""
        return []

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        # For example: harness.images.read(example).resize((64, 64)) for each, stacked, / 255. `read` gives an RGB
        # picture of PIL. Coordinates are relative to the picture, so boxes need no change.
        raise NotImplementedError("pixels: return float32 images [B, 3, H, W] on the CPU, as the model wants them")

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        # Tokens are the prompt (self.tokens.prompt), the target, then padding. No position may see what is after it.
        # Rows may be several times the images: encode each once, and repeat it for its neighbouring rows
        # (repeat_interleave).
        raise NotImplementedError("logits: return logits [B, L, V] for tokens [B, L]: each position's next token")

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        # Encode every image once, repeat it for its rows (repeat_interleave), and let harness.inference.decoding drive:
        #
        #     def begin(own, samples):  # these images, with so many rows each
        #         def step(tokens): ...  # new tokens [rows, n] (first the prompt, then one) -> logits [rows, V]
        #         return Steps(step)
        #     return sample_all(begin, self.codec, examples, temperatures, seed, max_tokens, grammar, device)
        raise NotImplementedError("generate: return for each example one Sample for each temperature (0 is greedy)")

    def describe(self) -> dict[str, object]:
        """What identifies the model in a record, JSON values only: give loaded weights a digest here."""
        return {"name": "${name}", **self.settings, "weights_digest": None}

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self.tokens.entries, path)

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self.tokens.entries:
            raise DataError(f"{path}: made for another vocabulary ({len(entries)} entries, not {self.tokens.size})")
        checkpoint.load(self.model, tensors)


def build(vocabulary: int) -> nn.Module:
    # What must not be fine-tuned gets requires_grad_(False).
    raise NotImplementedError("build: return the torch.nn.Module, with this many entries in its vocabulary")
'''

TEST = '''"""${name} keeps the contract of detmodes."""

from __future__ import annotations

from ${name} import ${made_by}

from harness import conformance


def test_conformance() -> None:
    outcomes = conformance.check(${made_by})
    assert [outcome for outcome in outcomes if outcome.state == "failed"] == []
'''

PACKAGE = """[project]
name = "${name}"
version = "0.1.0"
# detmodes is installed already. Named here, it would have pip refuse the pins of its own dependencies.
dependencies = []

[project.entry-points."detmodes.adapters"]
${name} = "${name}:${made_by}"

[tool.setuptools]
py-modules = ["${name}"]

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""


def write(name: str, folder: Path) -> list[Path]:
    """Writes the files and returns their paths. ConfigError, with nothing written, if Python cannot import the name
    or one of the files exists already."""
    if not (name.isidentifier() and class_name(name).isidentifier()) or keyword.iskeyword(name):
        raise ConfigError(f"new-adapter: expected a Python identifier such as my_detector, got {name!r}")
    if name in registry.names("model"):
        raise ConfigError(f"new-adapter: there is a model {name!r} already, choose another name")
    texts = {f"{name}.py": MODULE, f"test_{name}.py": TEST, "pyproject.toml": PACKAGE}
    taken = [folder / file for file in texts if (folder / file).exists()]
    if taken:
        raise ConfigError(*(f"{path}: exists already; nothing is replaced, choose another folder" for path in taken))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_text(folder / file, Template(text).substitute(name=name, made_by=class_name(name)))
    return [folder / file for file in texts]


def default_folder(name: str) -> Path:
    """Returns a folder whose name differs from the module: otherwise Python would import the folder when it is
    started beside it."""
    return Path(f"detmodes-{name}")


def class_name(name: str) -> str:
    """Converts my_detector to MyDetector."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
