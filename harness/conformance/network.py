"""Cuts a process off the network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Allows connections to this machine only, and yields the list of addresses that code tried to reach."""
    tried: list[str] = []
    connect = socket.socket.connect

    def refuse(host: object) -> NoReturn:
        tried.append(str(host))
        raise OSError(f"{host}: an adapter is checked without a network")

    def look_up(host: object, *rest: Any, **named: Any) -> NoReturn:
        del rest, named
        refuse(host)

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            refuse(address[0])
        connect(self, address)

    with (
        mock.patch.object(socket, "getaddrinfo", look_up),
        mock.patch.object(socket.socket, "connect", connect_here),
    ):
        yield tried
