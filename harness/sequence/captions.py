"""Writes and reads captions: an image's objects as a sentence, alone or before their boxes.

    caption        A red disc and a blue box.<end>
    caption+boxes  A red disc and a blue box. ; red disc <loc3> ... <end>

In a vocabulary of names only, a caption is a list of names, and the token that ends the prompt precedes the boxes:
`red_disc ; blue_box <detect> red_disc <loc3> ... <end>`. So captions need no other vocabulary than boxes do.

A caption mentions the objects whose names it contains; all other words are neither right nor wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, cast

from harness.errors import ConfigError
from harness.sequence.codec import Codec
from harness.sequence.formats import NAME, SEPARATOR
from harness.sequence.tokens import Ids, NameVocabulary, PieceVocabulary, TextTokens
from harness.types import Box, Mention, Parsed

Task = Literal["boxes", "caption", "caption+boxes"]
"""The task of a model, which determines what its sequences are."""

TEMPLATES = ("{}.", "There is {}.", "We see {}.")
"""Templates of captions, filled with the objects in an order, each with its article. The first one is canonical."""
NOTHING = "Nothing."
"""The caption of an image without objects."""


class Found(NamedTuple):
    """A name of the vocabulary in a caption, and its token positions `[start, end)`."""

    name: str
    start: int
    end: int


class Writing(Protocol):
    """How captions are written in a vocabulary."""

    templates: int
    """Number of sentences for the same names in the same order."""

    @property
    def before_boxes(self) -> int:
        """Returns the token between a caption and its boxes; it never occurs in a caption."""
        ...

    def write(self, names: Sequence[str], template: int) -> Ids: ...

    def find_names(self, caption: Ids) -> list[Found]:
        """Lists the names in a caption, in order."""
        ...

    def malformed(self, caption: Ids, truncated: bool) -> int:
        """Counts the parts of a caption that cannot be read."""
        ...

    def text(self, caption: Ids) -> str:
        """Writes a caption as a person reads it."""
        ...


class CaptionCodec(Codec):
    """A codec whose sequences are captions, followed by the boxes of the mentioned objects if `boxed`.

    Without boxes, a mention's box is the whole image.
    """

    def __init__(self, codec: Codec, boxed: bool) -> None:
        if codec.noise_objects:
            raise ConfigError("noise_objects: expected 0 with captions, which have no noise")
        vars(self).update(vars(codec))  # everything but the methods below is that of `codec`
        self.boxed = boxed
        self.writing = _writing(codec)
        self._before_boxes = self.writing.before_boxes if boxed else None

    def encode(self, objects: Sequence[tuple[str, Box]], width: int, height: int, template: int = 0) -> Ids:
        """Encodes a caption of these objects, in their order, with one of `writing.templates`, and their boxes if
        `boxed`."""
        return self._joined(self.writing.write([name for name, _ in objects], template), objects, width, height)

    def encode_given(self, caption: str, objects: Sequence[tuple[str, Box]], width: int, height: int) -> Ids:
        """Encodes a caption that a person wrote, and the boxes of these objects if `boxed`."""
        assert isinstance(self.writing, Prose), "only who writes text can write given captions"
        return self._joined(self.writing.given(caption), objects, width, height)

    def decode(self, tokens: Sequence[int], width: int, height: int) -> Parsed:
        """Reads the objects that a caption mentions, in order; if `boxed`, those whose boxes follow it. An answer
        without the token between a caption and its boxes is read as boxes without a caption."""
        caption, rest = self._cut(tokens)
        if self.boxed:
            parsed = super().decode(rest, width, height)
            start = len(tokens) - len(rest)
            return replace(parsed, mentions=tuple(mention.moved(start) for mention in parsed.mentions))
        truncated = self.tokens.end not in rest
        whole = Box(0, 0, width, height)
        mentions = [
            Mention(name, self.category_of[name], whole, start, end, end, end)
            for name, start, end in self.writing.find_names(caption)
        ]
        return Parsed(tuple(mentions), self.writing.malformed(caption, truncated), truncated)

    @property
    def writes_text(self) -> bool:
        """Tells whether it can encode captions that people wrote."""
        return isinstance(self.writing, Prose)

    def names_in(self, caption: str) -> list[str]:
        """Lists the names in such a caption, in order."""
        assert isinstance(self.writing, Prose)
        return [name for name, _, _ in self.writing.mentioned(caption)]

    def kinds(self, tokens: Sequence[int]) -> list[int]:
        """Returns the index in KINDS of each token; words of a caption that are no names count as separators."""
        caption, rest = self._cut(tokens)
        kinds = [SEPARATOR] * (len(tokens) - len(rest))
        for _, start, end in self.writing.find_names(caption):
            kinds[start:end] = [NAME] * (end - start)
        return [*kinds, *super().kinds(rest)]

    def text(self, tokens: Sequence[int]) -> str:
        """Writes the sequence as a person reads it, with `|` between a caption and its boxes."""
        caption, rest = self._cut(tokens)
        between = "|" if len(caption) + len(rest) < len(tokens) else ""
        return " ".join(part for part in (self.writing.text(caption), between, super().text(rest).strip()) if part)

    def _joined(self, caption: Ids, objects: Sequence[tuple[str, Box]], width: int, height: int) -> Ids:
        if self._before_boxes is None:
            return (*caption, self.tokens.end)
        return (*caption, self._before_boxes, *super().encode(objects, width, height))

    def _cut(self, tokens: Sequence[int]) -> tuple[Ids, Ids]:
        """Splits a sequence into the caption, and the rest: the boxes, and the end token if there is one."""
        whole = tuple(tokens)
        stop = whole.index(self.tokens.end) if self.tokens.end in whole else len(whole)
        if not self.boxed:
            return whole[:stop], whole[stop:]
        if self._before_boxes not in whole[:stop]:
            return (), whole
        cut = whole.index(self._before_boxes)
        return whole[:cut], whole[cut + 1 :]


def for_task(codec: Codec, task: Task) -> Codec:
    """Returns the codec of a model for this task. ConfigError where its vocabulary cannot write captions."""
    return codec if task == "boxes" else CaptionCodec(codec, boxed=task == "caption+boxes")


def _writing(codec: Codec) -> Writing:
    if isinstance(codec.tokens, NameVocabulary) and not isinstance(codec.tokens, PieceVocabulary):
        return Names(codec.tokens, codec.name_ids)
    if hasattr(codec.tokens, "encode_text"):
        return Prose(cast(TextTokens, codec.tokens), codec.name_ids)
    kind = type(codec.tokens).__name__
    raise ConfigError(f"task: captions need a tokenizer of text or a NameVocabulary, this model has {kind}")


# ---- a vocabulary of names ---------------------------------------------------------------------------------------


class Names:
    """Captions that are lists of names. The part between two separators mentions the one name in it, whatever other
    tokens it has (such as a box, from a model that has learnt to give boxes); without a name, or with several, it is
    malformed."""

    templates = 1

    def __init__(self, tokens: NameVocabulary, name_ids: Mapping[str, Ids]) -> None:
        self._tokens, self._ids = tokens, name_ids
        self._name_of = {token: name for name, (token,) in name_ids.items()}

    @property
    def before_boxes(self) -> int:
        return self._tokens.detect

    def write(self, names: Sequence[str], template: int) -> Ids:
        del template
        listed = [token for name in names for token in (self._tokens.separator, *self._ids[name])]
        return tuple(listed[1:])

    def find_names(self, caption: Ids) -> list[Found]:
        return [readings[0] for readings in self._entries(caption) if len(readings) == 1]

    def malformed(self, caption: Ids, truncated: bool) -> int:
        readable = [len(readings) == 1 for readings in self._entries(caption)]
        excused = truncated and readable[-1:] == [False]
        return readable.count(False) - excused

    def _entries(self, caption: Ids) -> list[list[Found]]:
        """Yields the names between separators."""
        entries: list[list[Found]] = [[]] if caption else []
        for position, token in enumerate(caption):
            if token == self._tokens.separator:
                entries.append([])
            elif (name := self._name_of.get(token)) is not None:
                entries[-1].append(Found(name, position, position + 1))
        return entries

    def text(self, caption: Ids) -> str:
        return self._tokens.decode_name(caption)


# ---- text --------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
_RESERVED = re.compile(r"[<>|;\s]+")
"""Characters that special tokens, the separator and white space are written with."""


class Prose:
    """Captions that are sentences. A name is recognised at word boundaries, in upper or lower case, with its last
    word in singular or plural (-s, -es); of several that begin at a word, the longest counts. No text is malformed."""

    templates = len(TEMPLATES)

    def __init__(self, tokens: TextTokens, names: Iterable[str]) -> None:
        self._tokens = tokens
        self._names = {_words(name): name for name in reversed([*names])}  # of two names with the same words the first
        self._longest = max(map(len, self._names), default=0)
        self._check()

    @property
    def before_boxes(self) -> int:
        return self._tokens.separator

    def write(self, names: Sequence[str], template: int) -> Ids:
        return self._encoded(sentence(names, template))

    def given(self, caption: str) -> Ids:
        """Encodes a text in one line, without characters that could be taken for a special token or the beginning of
        the boxes."""
        return self._encoded(_RESERVED.sub(" ", caption).strip())

    def mentioned(self, text: str) -> list[tuple[str, int, int]]:
        """Lists each name in a text with the positions of its characters, `[start, end)`."""
        words = [(word[0].lower(), *word.span()) for word in _WORD.finditer(text)]
        names, at = [], 0
        while at < len(words):
            name, count = self._at([word for word, _, _ in words[at : at + self._longest]])
            if name is not None:
                names.append((name, words[at][1], words[at + count - 1][2]))
            at += max(count, 1)
        return names

    def find_names(self, caption: Ids) -> list[Found]:
        pieces = [self._tokens.piece(token) for token in caption]
        owners = [token for token, piece in enumerate(pieces) for _ in piece]  # of each character
        return [Found(name, owners[start], owners[end - 1] + 1) for name, start, end in self.mentioned("".join(pieces))]

    def malformed(self, caption: Ids, truncated: bool) -> int:
        del caption, truncated
        return 0

    def text(self, caption: Ids) -> str:
        return self._tokens.decode_text(caption).strip()

    def _encoded(self, text: str) -> Ids:
        return self._tokens.encode_name(text)  # with the text that this tokenizer needs before an answer

    def _at(self, words: Sequence[str]) -> tuple[str | None, int]:
        """Returns the longest name that these words begin with, and its number of words."""
        for count in range(len(words), 0, -1):
            *first, last = words[:count]
            for form in (last, *(last.removesuffix(plural) for plural in ("s", "es") if last.endswith(plural))):
                if (name := self._names.get((*first, form))) is not None:
                    return name, count
        return None, 0

    def _check(self) -> None:
        """Raises ConfigError where words of the templates are names, or the tokenizer changes them."""
        words = " ".join([NOTHING, *(text.format("a, an and") for text in TEMPLATES)])
        if clash := [name for name, _, _ in self.mentioned(words)]:
            raise ConfigError(f"task: category names: expected none that is a word of every caption, got {clash}")
        if self.text(self._encoded(words)).split() != words.split():
            raise ConfigError(f"tokenizer: expected one that can write captions, {words!r} does not survive it")


def sentence(names: Sequence[str], template: int) -> str:
    """Writes a sentence with the names in this order: "A red disc, a blue box and an orange." for the first of
    TEMPLATES."""
    if not names:
        return NOTHING
    spoken = [name.replace("_", " ") for name in names]
    objects = [f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}" for name in spoken]
    listed = " and ".join(part for part in (", ".join(objects[:-1]), objects[-1]) if part)
    text = TEMPLATES[template].format(listed)
    return text[0].upper() + text[1:]


def _words(name: str) -> tuple[str, ...]:
    """Splits a text into words to look for names: lower case, spaces for underscores, each sign one word."""
    return tuple(word.lower() for word in _WORD.findall(name.replace("_", " ")))
