"""Defines the interface of a model family's tokenizer, and two that have it: one token per name, and any Hugging Face
tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from harness.errors import ConfigError, DataError

Ids = tuple[int, ...]
NAMES = "{names}"
"""Placeholder for the names of categories in a prompt that asks about them."""


class Tokens(Protocol):
    """The interface of a model family's tokenizer. Every id is below `size`."""

    @property
    def size(self) -> int: ...

    @property
    def pad(self) -> int: ...

    @property
    def separator(self) -> int:
        """Returns the token between two entries, unless the format has another separator."""
        ...

    @property
    def end(self) -> int: ...

    @property
    def prompt(self) -> Ids: ...

    @property
    def locations(self) -> Ids:
        """Returns one token for each bin of the coordinate space; none where numbers are written as text."""
        ...

    def encode_name(self, name: str) -> Ids:
        """Returns the ids of a category name; never empty, never a location, separator or end token."""
        ...

    def decode_name(self, ids: Sequence[int]) -> str:
        """Returns a readable text for ids, also where they are no known name (the codec knows which name they are)."""
        ...


@runtime_checkable
class Asks(Protocol):
    """Tokens with a prompt that names categories, so that a suite may have `prompt: {kind: categories}`."""

    def ask(self, names: Sequence[str]) -> Ids:
        """Returns the prompt that asks about these category names only; ConfigError where the model has no such
        prompt."""
        ...


class TextTokens(Tokens, Protocol):
    """Tokens of a tokenizer that reads and writes any text."""

    def encode_text(self, text: str) -> Ids: ...

    def decode_text(self, ids: Sequence[int]) -> str: ...

    def piece(self, token: int) -> str:
        """Returns the text that a token adds to a longer text, leading space included."""
        ...


class NameVocabulary:
    """Closed vocabulary with one token per category name, for models trained from scratch.

    `entries` is the order of the embedding rows: special tokens, locations, names in the order given. The open prompt
    is `<image> <detect>`; one that names categories is `<image> sofa ; lamp <detect>`: either way an answer follows
    `<detect>`.
    """

    SPECIAL = ("<pad>", "<image>", "<detect>", ";", "<|endofchunk|>")

    def __init__(self, names: Iterable[str], bins: int) -> None:
        self.entries = (*self.SPECIAL, *(f"<loc{bin}>" for bin in range(bins)), *self._words(names))
        self.ids = {entry: index for index, entry in enumerate(self.entries)}
        if len(self.ids) != len(self.entries):
            raise DataError("category names: expected each name once, and none that is a special token")
        self.size = len(self.entries)
        self.pad, self.image, self.detect, self.separator, self.end = range(len(self.SPECIAL))
        self.prompt: Ids = (self.image, self.detect)
        self.locations = tuple(range(len(self.SPECIAL), len(self.SPECIAL) + bins))

    @staticmethod
    def _words(names: Iterable[str]) -> Iterable[str]:
        """Returns the entries that names are written with."""
        return names

    def encode_name(self, name: str) -> Ids:
        return (self.ids[name],)

    def ask(self, names: Sequence[str]) -> Ids:
        listed = [token for name in names for token in (self.separator, *self.encode_name(name))]
        return (self.image, *listed[1:], self.detect)

    def decode_name(self, ids: Sequence[int]) -> str:
        return " ".join(self.entries[index] for index in ids)


class PieceVocabulary(NameVocabulary):
    """Closed vocabulary of pieces of names, see `pieces`: `crimson_disc` is `crim` `son` `_disc`.

    Names share pieces, so that a small advantage at the first piece of a name goes on along it, as with a tokenizer of
    text.
    """

    @staticmethod
    def _words(names: Iterable[str]) -> Iterable[str]:
        return dict.fromkeys(piece for name in names for piece in pieces(name))

    def encode_name(self, name: str) -> Ids:
        return tuple(self.ids[piece] for piece in pieces(name))

    def decode_name(self, ids: Sequence[int]) -> str:
        return "".join(self.entries[index] for index in ids)


def pieces(name: str) -> list[str]:
    """Splits each word of a name (words are apart by underscores) of more than four letters into two halves, the first
    the longer one; the underscore belongs to the word that it stands before. Joined, they are the name again."""
    parts = []
    for word in re.findall(r"_*[^_]*", name)[:-1]:
        letters = len(word.lstrip("_"))
        half = len(word) - letters // 2
        parts += [word[:half], word[half:]] if letters > 4 else [word]
    return parts


class Tokenizer(Protocol):
    """The few methods of a Hugging Face tokenizer (fast or slow) that are used here."""

    @property
    def pad_token_id(self) -> int | None: ...

    @property
    def eos_token_id(self) -> int | None: ...

    def get_vocab(self) -> dict[str, int]: ...

    def add_tokens(self, new_tokens: list[str], special_tokens: bool = False) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(
        self, token_ids: list[int], skip_special_tokens: bool = False, *, clean_up_tokenization_spaces: bool
    ) -> str | list[str]: ...


class NameQuestion(NamedTuple):
    """A prompt that asks about some categories only: its text, with NAMES in the place of their names, and the text
    between two names."""

    text: str
    between: str = "; "


class TokenizerTokens:
    """`TextTokens` over a Hugging Face tokenizer, which gets the tokens that it lacks.

    locations   the location tokens in order, e.g. `<loc0000>` ...; none where numbers are written as text
    added       other tokens that the prompt or the format is made of, e.g. `<image>`
    prompt      text before every answer; a beginning-of-sequence token only if it is written out here
    end         the token that ends an answer; the tokenizer's end token if None
    before      stands before every name, always the same, so that a name always has the same tokens: a space, or
                nothing for a tokenizer that puts a space before any text itself, and for JSON
    asking      the prompt that asks about some categories only; without one, a suite cannot use such prompts
    room        rows of the model's embedding, where it cannot grow; None if it can

    A name is written with spaces for its underscores. Padding falls back to the end
    token: it stands only where nothing is read.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        locations: Sequence[str] = (),
        *,
        added: Sequence[str] = (),
        prompt: str = "",
        end: str | None = None,
        before: str = " ",
        asking: NameQuestion | None = None,
        room: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._before = before
        self._asking = asking
        self._pieces: dict[int, str] = {}
        vocabulary = _extend(tokenizer, [*locations, *added, *([] if end is None else [end])])
        self.size = max(vocabulary.values()) + 1
        if room is not None and self.size > room:
            raise ConfigError(
                f"tokenizer: {self.size} entries with the location tokens, the model has room for {room}; "
                "use fewer bins, or location tokens that the tokenizer has"
            )
        self.locations: Ids = tuple(vocabulary[location] for location in locations)
        self.end = _end(tokenizer, vocabulary, end)
        self.pad = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.prompt = self.encode_text(prompt)

    @property
    def separator(self) -> int:
        """Returns the token of `;`, without a space that is a separate token; ConfigError where there is none."""
        ids = self.encode_text(f"{self._before};")
        if not ids or self.piece(ids[-1]).strip() != ";":
            raise ConfigError("tokenizer: it has no token for ';'; give the format a separator that it has")
        return ids[-1]

    def encode_name(self, name: str) -> Ids:
        return self.encode_text(self._before + _spaced(name))

    def ask(self, names: Sequence[str]) -> Ids:
        if self._asking is None or NAMES not in self._asking.text:
            raise ConfigError(
                f"prompt: kind: categories: this model's prompt has no place for names ({NAMES}); use kind: open"
            )
        written = self._asking.between.join(map(_spaced, names))
        return self.encode_text(self._asking.text.replace(NAMES, written))

    def decode_name(self, ids: Sequence[int]) -> str:
        return self.decode_text(ids).strip()

    def encode_text(self, text: str) -> Ids:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False)) if text else ()

    def decode_text(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def piece(self, token: int) -> str:
        if token not in self._pieces:
            # After something: at the start of a text, tokenizers leave a leading space out.
            anchor = self.encode_text("a")
            self._pieces[token] = self.decode_text((*anchor, token))[len(self.decode_text(anchor)) :]
        return self._pieces[token]


def _spaced(name: str) -> str:
    """Writes a name with spaces, as language models have learnt it."""
    return name.replace("_", " ")


def _extend(tokenizer: Tokenizer, wanted: Sequence[str]) -> dict[str, int]:
    """Adds the wanted tokens and returns the tokenizer's vocabulary; ConfigError where it accepts none."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in dict.fromkeys(wanted) if token not in vocabulary]
    if not missing:
        return vocabulary
    fixed = ConfigError(
        f"tokenizer: expected room for {len(missing)} tokens such as {missing[0]!r}, its vocabulary is fixed; "
        "use location tokens that it has, or a tokenizer that takes new ones"
    )
    try:
        tokenizer.add_tokens(missing, special_tokens=True)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise fixed from error
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() >= set(missing):  # some tokenizers ignore the token silently
        raise fixed
    return vocabulary


def _end(tokenizer: Tokenizer, vocabulary: dict[str, int], end: str | None) -> int:
    token = tokenizer.eos_token_id if end is None else vocabulary[end]
    if token is None:
        raise ConfigError("tokenizer: it has no end token; say which token ends an answer (end=...)")
    return token
