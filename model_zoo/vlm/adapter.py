"""Adapts the vision-language models of transformers; what differs between families is declared in
model_zoo.vlm.families.

A toy of every family is made from its configuration class, with random weights and a tokenizer trained on the names:
nothing is downloaded. Real weights come from a local folder or from a pinned revision (see vlm_loading).

Every picture is squeezed to a square, and logits include those at the positions of the image.

Shape legend: B images   K samples   R rows   L tokens   S image side   V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness import images
from harness.errors import ConfigError, DataError
from harness.inference.decoding import Steps, sample_all
from harness.inference.outline import NetworkShape, makes_outlines
from harness.inference.pixels import read_pixels
from harness.protocols import Follow
from harness.sequence import Codec, vocabulary_names
from harness.types import Category, Example, Sample, TokenTrees
from model_zoo import checkpoint
from model_zoo.cache_name import CACHE, cache_of
from model_zoo.settings import vlm as checks
from model_zoo.settings.sources import SavedModel, find_saved
from model_zoo.shapes import vlm as vlm_shape
from model_zoo.vlm import loading
from model_zoo.vlm.families import FAMILIES

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 860_000,
        "coordinates": "1,024 bins, y x y x",
        "licence": "Apache-2.0 (transformers); weights: Gemma",
        "weights": "random (a toy); a folder; hub:google/paligemma-*",
    },
    {
        "settings": {"family": "paligemma2"},
        "parameters": 860_000,
        "coordinates": "1,024 bins, y x y x",
        "licence": "Apache-2.0 (transformers); weights: Gemma",
        "weights": "random (a toy); a folder; hub:google/paligemma2-*",
    },
    {
        "settings": {"family": "kosmos2"},
        "parameters": 910_000,
        "coordinates": "32 x 32 patches, two a box",
        "licence": "Apache-2.0 (transformers); weights: MIT",
        "weights": "random (a toy); a folder; hub:microsoft/kosmos-2-patch14-224",
    },
    {
        "settings": {"family": "florence2"},
        "parameters": 1_730_000,
        "coordinates": "1,000 bins, x y x y",
        "licence": "Apache-2.0 (transformers); weights: MIT",
        "weights": "random (a toy); a folder; hub:florence-community/Florence-2-*",
    },
    {
        "settings": {"family": "idefics"},
        "parameters": 1_410_000,
        "coordinates": "1,000 bins, y x y x",
        "licence": "Apache-2.0 (transformers); weights: LLaMA (non-commercial)",
        "weights": "random (a toy); a folder; hub:HuggingFaceM4/idefics-*",
    },
    {
        "settings": {"family": "qwen2_5_vl"},
        "parameters": 1_070_000,
        "coordinates": "pixels as resized, x y x y",
        "licence": "Apache-2.0 (transformers); weights: Apache-2.0 or Qwen, by size",
        "weights": "random (a toy); a folder; hub:Qwen/Qwen2.5-VL-*",
    },
    {
        "settings": {"family": "qwen3_vl"},
        "parameters": 1_340_000,
        "coordinates": "0 to 1,000, x y x y",
        "licence": "Apache-2.0 (transformers); weights: Apache-2.0",
        "weights": "random (a toy); a folder; hub:Qwen/Qwen3-VL-*",
    },
]


class Vlm:
    """The Adapter protocol over an image-text-to-text model of transformers.

    Settings: `family` (a name in FAMILIES), `weights` ("random" for a toy, a folder that `from_pretrained` reads,
    hub:OWNER/NAME@REVISION, or the folder of a cell that fine-tuned one of these), `trains` ("all"; "decoder":
    everything but the image encoder; "lora": low-rank changes of its attention, and the token embeddings where no
    pretraining has seen them), `lora` ({rank: 16, alpha: 32, targets: [...]}: the low-rank changes; targets: how the
    names of the linear maps end, by default those of the attention), `image_size` (pixels of a side; the family's by
    default, and open to some alone), `question` (what the prompt asks; the family's by default; with {names} in it, it
    asks about categories).
    """

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = {**checks.DEFAULTS, **settings}
        self.family = FAMILIES[self.settings["family"]]
        with FAMILIES.blaming(self.settings["family"], "making a model of it"):
            self._make(categories)

    def _make(self, categories: Sequence[Category]) -> None:
        """Loads or builds what the settings name."""
        saved = find_saved(self.settings["weights"])
        folder = loading.weights_folder(self.settings["weights"] if saved is None else _before(saved))
        tokenizer = loading.tokenizer(folder, vocabulary_names(categories))
        config = loading.config(folder, self.family, tokenizer)
        self.side = loading.image_side(config, self.family, self.settings["image_size"], toy=folder is None)
        question = self.settings["question"]
        self.tokens, self.prompt = loading.prompt(tokenizer, self.family, config, self.side, question)
        self.codec = Codec(categories, self.tokens, self.family.space(self.side), self.family.form(self.tokens))
        self.model: Any = loading.build(config, folder, self.family, self.tokens.size)
        self.weights_digest = None if folder is None or makes_outlines() else loading.digest(folder)
        new = folder is None or not self.family.native
        loading.choose_trained(self.model, self.family, self.settings, new)
        self._image = tokenizer.convert_tokens_to_ids(self.family.image)
        if saved is not None and not makes_outlines():
            tensors, entries = checkpoint.read(saved.file)
            if entries[:1] != self._entries()[:1]:
                raise DataError(f"{saved.file}: made for a vocabulary of {entries[0]} tokens, not {self.tokens.size}")
            checkpoint.load_parts(self.model, tensors, saved.file)
            self.weights_digest = " ".join(filter(None, (self.weights_digest, checkpoint.sha256(saved.file))))

    problems = staticmethod(checks.problems)
    places = staticmethod(checks.places)
    places_behind = staticmethod(checks.places_behind)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Returns [B, 3, S, S] float32 on the CPU, normalised as in the family's processor; the image is squeezed to
        a square."""
        sides = (self.side, self.side)
        squares = [images.read(example).resize(sides, Image.Resampling.BICUBIC) for example in examples]
        raw = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))  # [B, S, S, 3] uint8
        mean, std = torch.tensor(self.family.mean), torch.tensor(self.family.std)
        return ((raw.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Returns logits [R, L, V]. One image may serve several rows: R must be a multiple of B; it is repeated for
        transformers."""
        pixels = pixels.repeat_interleave(len(tokens) // len(pixels), dim=0)
        after = len(self.tokens.prompt) if self.family.answer is not None else self.prompt.start + self.prompt.images
        inputs = self.family.first(self.model, self.prompt, pixels, self._quiet(tokens, after))
        logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits

    @property
    def follows_trees(self) -> bool:
        implementation = self.model.config.get_text_config()._attn_implementation
        return self.family.tree is not None and implementation == "sdpa"  # others take another kind of mask

    def read_prompts(self, pixels: Tensor, prompts: Tensor) -> tuple[Tensor, Follow]:
        """As logits, but image and prompt are read once for any number of rows that follow."""
        reading = PromptReading(self, pixels, prompts)
        return reading.logits, reading.follow

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        return sample_all(self._begin, self.codec, examples, temperatures, seed, max_tokens, grammar, self.device)

    def _begin(self, examples: Sequence[Example], samples: int) -> Steps:
        decoding = PromptDecoding(self, read_pixels(self, examples).to(self.device), samples)
        return Steps(decoding.step, decoding.keep)

    def _quiet(self, tokens: Tensor, start: int) -> Tensor:
        """Replaces image tokens that a model emits by padding, as transformers refuses a text with more of them than
        the images have. start: position after the image."""
        emitted = torch.arange(tokens.shape[1], device=tokens.device) >= start
        return tokens.masked_fill((tokens == self._image) & emitted, self.tokens.pad)

    @property
    def context_length(self) -> int | None:
        """Returns the number of positions of the decoder; with a single decoder they include the prompt's image."""
        places: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return places

    def network_shape(self) -> NetworkShape:
        return vlm_shape.network_shape(self.model, self.family.vision, self.side, self.tokens.size)

    def checkpoint_gradients(self) -> None:
        name = "activation_checkpointing_enable"  # older versions of transformers have only the other name
        enable = getattr(self.model, name, None) or self.model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def describe(self) -> dict[str, object]:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        sizes = {"image_side": self.side, "prompt_tokens": len(self.prompt.ids), "parameters": parameters}
        return {"name": "vlm", **self.settings, "sizes": sizes, "weights_digest": self.weights_digest}

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self._entries(), path, self._saved())

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self._entries():
            raise DataError(f"{path}: made for another vocabulary than that of {self.settings['family']}")
        checkpoint.load(self.model, tensors, self._saved())

    def _saved(self) -> set[str] | None:
        """Returns the tensors that training may change: the others are read from `weights` again. For a toy, which is
        random, all tensors."""
        if self.weights_digest is None:
            return None
        return {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def _entries(self) -> tuple[str, ...]:
        """Returns entries that identify the vocabulary: its size, and the tokens of every name."""
        names = (f"{name} {' '.join(map(str, ids))}" for name, ids in self.codec.name_ids.items())
        return (str(self.tokens.size), *names)


def _before(saved: SavedModel) -> str:
    """Returns the `weights` that a model was fine-tuned from. ConfigError if that model was fine-tuned itself."""
    weights = str(saved.settings.get("weights", "random"))
    if find_saved(weights) is not None:
        raise ConfigError(
            f"vlm.weights: {saved.file} was fine-tuned from {weights}, itself fine-tuned; one step is read"
        )
    return weights


class PromptReading:
    """Prompts [B, n] with their images [B, 3, S, S], read once. logits [B, V]: of what follows each; what is in the
    model's own key-value cache serves any number of rows."""

    def __init__(self, adapter: Vlm, pixels: Tensor, prompts: Tensor) -> None:
        self._adapter, model = adapter, adapter.model
        output = model(**adapter.family.first(model, adapter.prompt, pixels, prompts), use_cache=True)
        self.logits: Tensor = output.logits[:, -1]
        self._cache, self._image_states = cache_of(output), adapter.family.image_states(model, output)

    def follow(self, images: Tensor, tokens: Tensor | TokenTrees) -> Tensor:
        """Logits [R, L, V] of tokens [R, L] that follow the prompts of these images [R]."""
        adapter, model = self._adapter, self._adapter.model
        cache = deepcopy(self._cache)
        cache.batch_select_indices(images)
        states = {name: tensor[images] for name, tensor in self._image_states.items()}
        past, prompt = cache.get_seq_length(), adapter.prompt
        plain = adapter._quiet(tokens.tokens if isinstance(tokens, TokenTrees) else tokens, 0)
        inputs = adapter.family.next(model, prompt, states, plain, past)
        if isinstance(tokens, TokenTrees):
            assert adapter.family.tree is not None
            sees = F.pad(tokens.sees, (past, 0), value=True)[:, None]
            inputs |= adapter.family.tree(prompt, tokens.places, sees)
        logits: Tensor = model(**inputs, **{CACHE: cache}, use_cache=True).logits
        return logits


class PromptDecoding:
    """Decodes token by token with the model's key-value cache. The prompt and its image are read once for each image
    of pixels [B, 3, S, S], not once for each of `samples` rows.

    Rows that have ended are dropped, and no others take their places (harness.protocols.Refills): caches of
    transformers select and repeat rows, but have no operation that joins two caches or pads one, layers with a sliding
    window keep the last positions alone, and only families with a `tree` take masks and positions for each row."""

    def __init__(self, adapter: Vlm, pixels: Tensor, samples: int) -> None:
        self._adapter, self._pixels, self._samples = adapter, pixels, samples
        self._cache: Any = None
        self._image_states: dict[str, Tensor] = {}

    def step(self, tokens: Tensor) -> Tensor:
        if self._cache is None:
            return self._begin(tokens[:: self._samples])
        adapter, model = self._adapter, self._adapter.model
        past = self._cache.get_seq_length()
        inputs = adapter.family.next(model, adapter.prompt, self._image_states, adapter._quiet(tokens, 0), past)
        logits: Tensor = model(**inputs, **{CACHE: self._cache}, use_cache=True).logits
        return logits[:, -1]

    def _begin(self, prompts: Tensor) -> Tensor:
        adapter, model = self._adapter, self._adapter.model
        output = model(**adapter.family.first(model, adapter.prompt, self._pixels, prompts), use_cache=True)
        self._cache = cache_of(output)
        self._cache.batch_repeat_interleave(self._samples)
        states = adapter.family.image_states(model, output).items()
        self._image_states = {name: tensor.repeat_interleave(self._samples, dim=0) for name, tensor in states}
        return output.logits[:, -1].repeat_interleave(self._samples, dim=0)  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._image_states = {name: tensor[rows] for name, tensor in self._image_states.items()}
