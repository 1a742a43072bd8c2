"""A polite request to end, as `kill`, Slurm, Kubernetes, `vqscale stop` and a closed terminal send it, is one to stop
in order.
"""

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType

REQUESTS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP do what Ctrl-C does: trials stop, the table is written, the exit code is 130.

    A signal that is ignored stays so: `nohup` runs on without its terminal.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    handled = [number for number in REQUESTS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
    raise KeyboardInterrupt


def _leave_terminal() -> None:
    """What is printed from here on goes nowhere: writing to a terminal that is gone would fail the stop."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # isatty says no of a terminal that is gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
