"""The study's end of the Ray driver: a child process in a session of its own, and the events it sends.

Ray can crash the process it lives in while it shuts down, its daemons share that process's group (a terminal's Ctrl-C
reaches them), and it takes seconds to import. So it never enters the process of a study: a child talks to it, and what
counts is what that child has reported and the records that the trials left, not how it ended.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

from vqscale import errors
from vqscale.errors import ClusterError, StudyInterruptedError, UserError, WorkFailedError
from vqscale.study.frozen import Frozen
from vqscale.study.spec import Resources
from vqscale.sweep.processes import end_session
from vqscale.sweep.protocol import DRIVER, Close, Connect, Request, Stage

Event = dict[str, Any]
CLOSE_SECONDS = 15.0
"""How long Ray may take to shut down before its processes are ended."""
LAST_LINES = 12
"""Of the driver's own output, shown when it ended unexpectedly."""
WIDTH = 200
"""Characters of such a line."""


class DriverDiedError(WorkFailedError):
    """The driver process ended without being asked to; what its trials recorded is kept."""


class RayDriver:
    """A connected driver process. Use it as a context; one at a time trains the stages of one study.

    Raises ClusterError when the cluster cannot be reached or is too small, before anything is trained.
    """

    def __init__(self, address: str | None, resources: Resources) -> None:
        self._connect = Connect(address=address, resources=resources)

    def __enter__(self) -> "RayDriver":
        self._log = tempfile.TemporaryFile(prefix="vqscale-driver-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # a terminal's signals reach neither the driver nor Ray's daemons
            text=True,
            bufsize=1,
        )
        try:
            for _ in self._exchange(self._connect, "connected"):
                pass
        except BaseException:
            self._end(seconds=0.0)  # nothing trains yet: there is nothing to wait for
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def train(self, stage: Stage) -> Iterator[Event]:
        """Events of a stage, the last of kind `trained`.

        Raises DriverDiedError when the driver ended by itself, and the driver's own UserError.
        """
        yield from self._exchange(stage, "trained")

    def stop(self) -> None:
        """Let the driver stop the stage that it trains, and wait until it has; Ctrl-C meanwhile ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            for event in self._events():
                if event["kind"] in ("interrupted", "error", "trained"):
                    return
        except KeyboardInterrupt:
            self._kill()

    def _exchange(self, request: Frozen, last: str) -> Iterator[Event]:
        self._send(request)
        for event in self._events():
            if event["kind"] == "error":
                raise _error(event)
            yield event
            if event["kind"] == last:
                return
        raise DriverDiedError(self._last_words())

    def _send(self, request: Frozen) -> None:
        assert self._process.stdin is not None
        line = Request.model_validate({"request": request}).model_dump_json()
        with contextlib.suppress(BrokenPipeError):  # it died; reading its events says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _events(self) -> Iterator[Event]:
        stream: IO[str] | None = self._process.stdout
        assert stream is not None
        for line in stream:
            if not line.endswith("\n"):
                return  # cut off in the middle of an event
            event: Event = json.loads(line)
            yield event

    def _end(self, seconds: float = CLOSE_SECONDS) -> None:
        self._send(Close())
        try:
            self._process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            self._kill()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._log.close()

    def _kill(self) -> None:
        """End the driver and what Ray started for it."""
        end_session(self._process.pid)
        self._process.wait()

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        last = [line[:WIDTH] for line in lines if not line.startswith("Extension modules:")][-LAST_LINES:]
        return "\n".join([f"the process that talks to Ray ended unexpectedly ({how}).", *last])


def _error(event: Event) -> Exception:
    """The driver's own error, as the class that it raised where that is one of ours."""
    kind = getattr(errors, event["type"], None)
    known = isinstance(kind, type) and issubclass(kind, UserError | StudyInterruptedError)
    return kind(event["message"]) if known else ClusterError(event["message"])  # type: ignore[misc]
