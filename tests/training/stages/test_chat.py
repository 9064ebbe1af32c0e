"""Asking a language model: what is sent, what is taken for an answer, and that nobody else gets the key."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError, DetmodesError
from harness.training.stages.chat import ADDRESS, KEY, LARGEST, MODEL, ChatServer
from tests.support.chat import chat_server


def test_a_question_and_its_answer() -> None:
    with chat_server(lambda question: question.upper()) as there:
        server = ChatServer.of(environment={ADDRESS: there.address + "/", MODEL: "small", KEY: "secret"})
        assert server.ask("Be loud.", "who?") == "WHO?"
    ((path, headers, content),) = there.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (content["model"], content["temperature"]) == ("small", 0)
    assert [message["role"] for message in content["messages"]] == ["system", "user"]
    assert content["messages"][0]["content"] == "Be loud."


def test_the_command_line_comes_before_the_environment() -> None:
    server = ChatServer.of("https://one/v1", "a", {ADDRESS: "https://two", MODEL: "b"})
    assert (server.address, server.model, server.key) == ("https://one/v1", "a", "")


def test_without_a_key_none_is_sent() -> None:
    with chat_server(str) as there:
        ChatServer(there.address, "small").ask("", "?")
    assert "Authorization" not in there.asked[0][1]


def test_what_is_missing_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        ChatServer.of(environment={})
    assert len(raised.value.problems) == 2
    assert all("expected in the environment" in problem for problem in raised.value.problems)
    with pytest.raises(ConfigError, match="expected a URL that begins with https://"):
        ChatServer.of("file:///etc/passwd", "small", {})


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(ChatServer("https://here", "small", "secret"))


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (401, b"{}", "HTTP status 401"),
        (200, b"no JSON", "something else"),
        (200, b'{"choices": []}', "something else"),
        (200, b'{"choices": [{"message": {"content": null}}]}', "something else"),
        (200, b"[" * 100_000, "something else"),
        (200, b'"' + b"x" * (2 * LARGEST) + b'"', "something else"),
    ],
)
def test_no_answer_is_one_line_without_address_and_key(status: int, body: bytes, problem: str) -> None:
    with chat_server(str, status, body) as there:
        server = ChatServer(there.address, "small", "secret")
        with pytest.raises(DetmodesError, match=rf"expected a chat completion .*, got {problem}$") as raised:
            server.ask("", "?")
    assert there.address not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_nobody_there_is_one_line() -> None:
    with chat_server(str) as gone:
        pass
    with pytest.raises(DetmodesError, match="expected a chat completion"):
        ChatServer(gone.address, "small").ask("", "?")


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirection_is_not_followed(status: int) -> None:
    """It would take the key, or the question, to another server."""
    with chat_server(str) as other, chat_server(str, status, b"", {"Location": other.address}) as there:
        with pytest.raises(DetmodesError, match=f"HTTP status {status}"):
            ChatServer(there.address, "small", "secret").ask("", "?")
        assert not other.asked
