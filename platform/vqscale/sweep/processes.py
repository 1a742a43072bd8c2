"""Ending the processes that Ray has started."""

import contextlib
import os
import signal

import psutil


def end_session(leader: int) -> None:
    """Kill every process of the session that `leader` leads, the caller's own last.

    Not by process group, because raylet gives its workers groups of their own; and not by descent, because the workers
    of a raylet that has died are children of init.
    """
    own = os.getpid()
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if process.pid != own and os.getsid(process.pid) == leader:
                os.kill(process.pid, signal.SIGKILL)
    if os.getsid(own) == leader:
        os.kill(own, signal.SIGKILL)
