"""The decoder of Pix2Seq: a pre-norm transformer over tokens that reads an image's features by cross-attention.

In: features of images and tokens, in rows or as trees (harness.types.TokenTrees), at once or one after the other with
what was computed before. Out: hidden states.

Shape legend: B images   R rows (B times samples)   L tokens   n image tokens   D width   H heads   V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
"""Each [R, H, length, D / H]."""


class Decoder(nn.Module):
    """A causal transformer over tokens, with cross-attention to the image in every layer."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        for rows in (self.embedding, self.output):  # as in GPT-2; with torch's default it learns more slowly
            nn.init.normal_(rows.weight, std=0.02)

    def look(self, memory: Tensor, samples: int) -> list[KeysValues]:
        """Returns what each layer reads of the image [B, n, D], computed once per image for `samples` rows each."""
        keys_values = [layer.cross.keys_values(memory) for layer in self._layers()]
        return [(k.repeat_interleave(samples, dim=0), v.repeat_interleave(samples, dim=0)) for k, v in keys_values]

    def forward(
        self,
        tokens: Tensor,
        image: Sequence[KeysValues],
        past: Sequence[KeysValues] = (),
        places: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Returns states [R, L, D] of tokens [R, L] that follow `past`, and the past for the next tokens.

        With a past there is one token at a time. places [R, L], sees [R, L, past + L]: where the tokens stand and what
        they see, if not in a row.
        """
        before = past[0][0].shape[2] if past else 0
        length, width = tokens.shape[1], self.embedding.embedding_dim
        if places is None:
            encoding = sequence_encoding(before, length, width).to(tokens.device)
        else:
            encoding = sequence_encoding(0, before + length, width).to(tokens.device)[places]
        x = self.embedding(tokens) + encoding
        mask = None if sees is None else sees[:, None]  # the same for every head
        passed = []
        for index, layer in enumerate(self._layers()):
            x, present = layer(x, image[index], past[index] if past else None, mask)
            passed.append(present)
        return self.norm(x), passed

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]


class Layer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each after a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, image: KeysValues, past: KeysValues | None, sees: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        first, second, third = self.norms
        normed = first(x)
        keys, values = self.own.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = x + self.own(normed, (keys, values), sees, causal=past is None and sees is None)
        x = x + self.cross(second(x), image)
        return x + self.feed_forward(third(x)), (keys, values)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be cached."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def keys_values(self, source: Tensor) -> KeysValues:
        """Returns keys and values [R, H, length, D / H] of source [R, length, D]."""
        keys, values = self.key_value(source).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys_values: KeysValues, sees: Tensor | None = None, causal: bool = False) -> Tensor:
        """sees: a mask [R, 1, L, L], True where a token attends to another; causal: tokens attend to earlier ones."""
        queries = self._split(self.query(x))
        read = F.scaled_dot_product_attention(queries, *keys_values, attn_mask=sees, is_causal=causal)
        joined: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class MemoryDecoding:
    """Decodes token by token over memory [B, n, D], each image serving `samples` rows, with key-value caches.

    Rows that have come to different lengths end in the same column of the cache.
    """

    def __init__(self, decoder: Decoder, memory: Tensor, samples: int) -> None:
        self._decoder, self._samples = decoder, samples
        self._image = decoder.look(memory, samples)
        self._past: list[KeysValues] = []
        self._before: Tensor | None = None  # [R, 1] tokens of each row in the cache, where they are not equally many

    def step(self, tokens: Tensor) -> Tensor:
        before = self._before
        if before is None:
            hidden, self._past = self._decoder(tokens, self._image, self._past)
        else:
            columns = torch.arange(self._past[0][0].shape[2], -1, -1, device=tokens.device)  # how far back each is
            sees = (columns <= before)[:, None]
            hidden, self._past = self._decoder(tokens, self._image, self._past, before, sees)
            self._before = before + 1
        logits: Tensor = self._decoder.output(hidden[:, -1])
        return logits

    def add(self, memory: Tensor, prompts: Tensor) -> Tensor:
        """Lets rows of more images begin, with these prompts [rows, n]; logits [rows, V] of what follows them."""
        new = MemoryDecoding(self._decoder, memory, self._samples)
        logits = new.step(prompts)
        before = self._before
        if before is None:
            before = torch.full_like(self._past[0][0][:, 0, :1, 0], self._past[0][0].shape[2], dtype=torch.long)
        self._before = torch.cat([before, torch.full_like(prompts[:, :1], prompts.shape[1])])
        self._image = _joined(self._image, new._image)
        self._past = _joined(self._past, new._past)
        return logits

    def keep(self, rows: Tensor) -> None:
        length = 0
        if self._before is not None:
            self._before = self._before[rows]
            length = int(self._before.max()) if len(rows) else 1
        self._image = [(keys[rows], values[rows]) for keys, values in self._image]
        self._past = [(keys[rows, :, -length:], values[rows, :, -length:]) for keys, values in self._past]


def _joined(rows: Sequence[KeysValues], others: Sequence[KeysValues]) -> list[KeysValues]:
    """Keys and values [R, H, L, D / H] of each layer, for both; what is shorter has nothing before it."""

    def join(one: Tensor, other: Tensor) -> Tensor:
        length = max(one.shape[2], other.shape[2])
        return torch.cat([F.pad(part, (0, 0, length - part.shape[2], 0)) for part in (one, other)])

    return [(join(keys, more), join(values, added)) for (keys, values), (more, added) in zip(rows, others, strict=True)]


def sequence_encoding(start: int, length: int, channels: int) -> Tensor:
    """Returns sines and cosines of the positions start, ..., start + length - 1 of a sequence, [length, channels];
    wavelengths from 2 pi to 20,000 pi tokens (Vaswani et al., 2017)."""
    place = torch.arange(start, start + length)[:, None]
    angle = place * 10_000 ** (-torch.arange(0, channels, 2) / channels)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
