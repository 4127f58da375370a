"""Ctrl-C and SIGTERM as a flag that is looked at between calls of compiled code."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Signals:
    """What has come."""

    name = ""  # of the first signal, as people say it


@contextlib.contextmanager
def listening(*, both: bool) -> Iterator[Signals]:
    """Turn the first Ctrl-C, and the first SIGTERM if `both`, into a flag; the second one acts as usual. A SIGTERM is
    raised once more when the block has ended: who sent it wants the process to end."""
    found = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.getsignal(number) for number in (NAMES if both else [signal.SIGINT])}
    # who has told this process to ignore one, or listens to it outside of Python, goes on doing so
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        found.name = NAMES[signal.Signals(number)]
        put_back()

    for number in before:
        signal.signal(number, note)
    try:
        yield found
    finally:
        put_back()
        if found.name == NAMES[signal.SIGTERM]:
            signal.raise_signal(signal.SIGTERM)
