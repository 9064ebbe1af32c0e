"""Asks a language model behind any server that speaks OpenAI's chat completions: a question in, a text out.

Where the server is, which model it has and the key come from the command line or the environment of the one who runs
the program, and from nowhere else: a suite or a record of somebody else cannot send anything anywhere. They are
written into no record and no message.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import ConfigError, DetmodesError

ADDRESS, MODEL, KEY = "DETMODES_LLM_ADDRESS", "DETMODES_LLM_MODEL", "DETMODES_LLM_KEY"
"""Variables of the environment: the URL that /chat/completions is below, the model's name, and the key, if any."""
TIMEOUT = 120.0
"""Seconds that an answer may take."""
LARGEST = 1 << 20
"""Bytes of an answer that are read."""


@dataclass(frozen=True, slots=True)
class ChatServer:
    """Where to ask, whom, and with which key; the key is not shown."""

    address: str
    model: str
    key: str = field(default="", repr=False)

    @classmethod
    def of(
        cls, address: str | None = None, model: str | None = None, environment: Mapping[str, str] = os.environ
    ) -> ChatServer:
        """Takes what the command line says, else the environment; the key is in the environment alone, where other
        users of the machine do not see it. ConfigError where one is missing, or the address is no URL."""
        address, model = address or environment.get(ADDRESS, ""), model or environment.get(MODEL, "")
        missing = [name for name, value in ((ADDRESS, address), (MODEL, model)) if not value]
        if missing:
            raise ConfigError(*(f"{name}: expected in the environment, to ask a language model" for name in missing))
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"{ADDRESS}: expected a URL that begins with https:// or http://")
        return cls(address.rstrip("/"), model, environment.get(KEY, ""))

    def ask(self, instruction: str, question: str) -> str:
        """Returns the model's answer at temperature 0. Raises DetmodesError, in one line, where there is none."""
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": question}]
        return self.complete(messages, temperature=0)[0]

    def complete(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> tuple[str, bool]:
        """Returns the model's answer, and whether it was cut off at its largest length. settings: of the request, such
        as temperature and max_tokens. Raises DetmodesError, in one line, where there is no answer."""
        body = json.dumps({"model": self.model, "messages": list(messages), **settings}).encode()
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.address}/chat/completions", body, headers)
        try:
            with _opener().open(request, timeout=TIMEOUT) as answer:
                return _answer(json.loads(answer.read(LARGEST)))
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code}"
            error.close()
        except (OSError, http.client.HTTPException) as error:
            problem = type(error).__name__
        except (ValueError, LookupError, TypeError, RecursionError):
            problem = "something else"
        raise DetmodesError(f"{ADDRESS}: expected a chat completion of an OpenAI-compatible server, got {problem}")


def _opener() -> urllib.request.OpenerDirector:
    """Follows no redirection, which would take the key to another server."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *request: Any) -> None:
            """Makes no other request: the answer is an error with its status."""
            del request

    return urllib.request.build_opener(Stay)


def _answer(answer: Any) -> tuple[str, bool]:
    """The content of the first choice, and whether it was cut off; LookupError, TypeError or ValueError where there is
    none."""
    choice = answer["choices"][0]
    content = choice["message"]["content"]
    if not isinstance(content, str):
        raise ValueError("no text")
    return content, choice.get("finish_reason") == "length"
