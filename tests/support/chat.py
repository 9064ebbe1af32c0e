"""A server on this machine that speaks OpenAI's chat completions: answers as a test says, and keeps what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Conversation:
    """What was asked (path, headers, content), and where."""

    address: str = ""
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    @property
    def questions(self) -> list[str]:
        return [content["messages"][-1]["content"] for *_, content in self.asked]


Reply = Callable[[str], str]
"""From the question to the text of the answer."""


@contextmanager
def chat_server(
    reply: Reply, status: int = 200, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Iterator[Conversation]:
    """Serves until the block ends. body: instead of a completion."""
    conversation = Conversation()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            conversation.asked.append((self.path, dict(self.headers), content))
            text = reply(content["messages"][-1]["content"])
            made = body if body is not None else json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(made)

        def do_GET(self) -> None:
            conversation.asked.append((self.path, dict(self.headers), {"messages": [{"content": ""}]}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        conversation.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield conversation
        finally:
            server.shutdown()
            thread.join()
