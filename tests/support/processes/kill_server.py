"""Runs `detmodes` again and again in processes of their own without importing everything anew: this process imports
the modules that its arguments name once, and forks for every line on its standard input. Each line and each answer is
one JSON object:

    {"arguments": [...], "stdout": PATH, "stderr": PATH, "after": SECONDS or null,
     "at": null or [MODULE, ATTRIBUTE, NTH, ACTION]}
    {"status": exit code, or minus the signal that ended the process, "seconds": ...}

after: the process is killed (SIGKILL) so long after its start. at: ACTION happens at the NTH call of that attribute
(which may be dotted): see ACTIONS.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from detmodes import main

SMALL_FILES = 1000


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # it has arrived


def limit_files() -> None:
    """From now on no file can grow beyond SMALL_FILES bytes: what a full disk is to whoever writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILES, SMALL_FILES))


BEFORE: dict[str, Callable[[], None]] = {
    "kill": functools.partial(send, signal.SIGKILL),
    "terminate": functools.partial(send, signal.SIGTERM),
    "interrupt": functools.partial(send, signal.SIGINT),
    "full": limit_files,
}
AFTER = {"kill-after": BEFORE["kill"]}
ACTIONS = (*BEFORE, *AFTER)


def patch(module: str, attribute: str, nth: int, action: str) -> None:
    """Before or after the nth call of `module.attribute` the action happens."""
    owner, _, name = attribute.rpartition(".")
    place: Any = attrgetter(owner)(sys.modules[module]) if owner else sys.modules[module]
    original, calls = getattr(place, name), 0

    @functools.wraps(original)
    def patched(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and action in BEFORE:
            BEFORE[action]()
        result = original(*arguments, **settings)
        if calls == nth and action in AFTER:
            AFTER[action]()
        return result

    setattr(place, name, patched)


def child(request: dict[str, Any]) -> int:
    """The program, as `python -m harness` runs it; its exit code."""
    for standard, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), standard)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell started in the background
    warnings.simplefilter("default")
    if request["at"]:
        patch(*request["at"])
    sys.argv = ["detmodes", *request["arguments"]]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Forks, waits, and kills if asked to."""
    started = time.monotonic()
    process = os.fork()
    if not process:
        code = 70
        try:
            code = child(request)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    timer = None
    if request["after"] is not None:
        timer = threading.Timer(request["after"], kill, [process])
        timer.start()
    _, status = os.waitpid(process, 0)
    if timer is not None:
        timer.cancel()
        timer.join()
    return {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    os.fsync = lambda fd: None  # a killed process is no power cut: what it has written stays
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), flush=True)
