"""Nothing that is printed drives the terminal: names come from files that may be anyone's."""

from __future__ import annotations

import io
import sys

import pytest
from rich.table import Table

from harness.commands.app import main
from harness.system.terminal import escape_controls, make_console, tell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sofa", "sofa"),
        ("café 猫", "café 猫"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\x07\x7f", r"a\rb\x07\x7f"),
        ("\x9b1mold", r"\x9b1mold"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2066a\u2069\u200b", r"\u2066a\u2069\u200b"),
        ("\u2028line", r"\u2028line"),
        ("half\ud800", r"half\ud800"),
    ],
)
def test_what_drives_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_tables_show_it_escaped_and_keep_their_own_colours() -> None:
    stream = io.StringIO()
    console = make_console(file=stream, force_terminal=True, width=60, color_system="standard")
    table = Table(title="x\x1b]0;owned\x07")
    table.add_column("name")
    table.add_row("a\x1b[2Jb\u202e")
    table.add_row("[red]own[/red]")
    console.print(table)
    console.print("line \x1b[1A", soft_wrap=True)
    printed = stream.getvalue()
    for sequence in ("\x1b]0;", "\x1b[2J", "\x1b[1A", "\u202e", "\x07"):
        assert sequence not in printed
    assert r"a\x1b[2Jb\u202e" in printed
    assert "\x1b[31mown" in printed


def test_messages_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell("bad \x1b[31m\nname")
    assert capsys.readouterr().err == "detmodes: bad \\x1b[31m name\n"


def test_a_file_name_cannot_drive_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--annotations", "x\x1b[2J.json", "--detections", "[/b]\u202e.json"]
    monkeypatch.setattr(sys, "argv", ["detmodes", "evaluate", *files])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert r"x\x1b[2J.json" in capsys.readouterr().err
