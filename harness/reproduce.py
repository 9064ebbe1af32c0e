"""How to make a set of results again: which code, and which command."""

from __future__ import annotations

from harness.results import Results


def command(results: Results) -> str:
    """The lines to type: check out the commit, run the suite with the same seeds on the same kind of device."""
    made = next(iter([*results.records.values(), *results.failed.values()]), None)
    if made is None:
        return f"detmodes run {results.suite.suite}"
    seeds = ",".join(map(str, results.suite.seeds))
    commit = made.code.get("commit")
    checkout = f"git checkout {commit}" if commit else f"# {code_text(made.code)}"
    return f"{checkout}\ndetmodes run {results.suite.suite} --seeds {seeds} --device {made.device.get('type', 'auto')}"


def code_text(code: dict[str, object]) -> str:
    """ "detmodes 0.1.0, commit 0123456789ab (dirty)" """
    if code.get("commit") is None:
        return f"detmodes {code.get('version')}, no commit"
    dirty = " (dirty: tracked files differ from it)" if code.get("dirty") else ""
    return f"detmodes {code.get('version')}, commit {str(code['commit'])[:12]}{dirty}"
