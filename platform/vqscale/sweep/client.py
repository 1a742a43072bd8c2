"""The study's end of the Ray driver: a child process in a session of its own, and the events it sends.

Ray can crash the process it lives in while it shuts down, its daemons share that process's group (a terminal's Ctrl-C
reaches them), and it takes seconds to import. So it never enters the process of a study: a child talks to it, and what
counts is what that child has reported and the records that the trials left, not how it ended.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO, Any

from vqscale import errors
from vqscale.errors import StudyInterruptedError, UserError, WorkFailedError
from vqscale.study.frozen import Frozen
from vqscale.study.spec import Resources
from vqscale.sweep.processes import end_session
from vqscale.sweep.protocol import DRIVER, Close, Connect, Request, Stage, Stop
from vqscale.sweep.reachable import require_listener

Event = dict[str, Any]
STOP_SECONDS = 60.0
"""How long the driver may take to stop its trials before it is ended."""
CLOSE_SECONDS = 15.0
"""How long Ray may take to shut down before its processes are ended."""
STOPPED_SECONDS = 1.0
"""The same after a stop: checkpoints are written, and a user waits."""
LAST_LINES = 12
"""Of the driver's own output, shown when it ended unexpectedly."""
WIDTH = 200
"""Characters of such a line."""


class DriverDiedError(WorkFailedError):
    """The driver process ended without being asked to; what its trials recorded is kept."""


class RayDriver:
    """A driver process, which trains the stages of one study one after another. A context, or `open` and `close`."""

    def __init__(self, address: str | None, resources: Resources, withheld: Iterable[str] = ()) -> None:
        """`withheld`: environment variables that Ray and its trials do not get, beside those of MLflow, which they
        never talk to."""
        self._connect = Connect(address=address, resources=resources)
        self._withheld = set(withheld)
        self._closing_seconds = CLOSE_SECONDS
        self._writing = threading.Lock()

    def open(self) -> "RayDriver":
        """Start the process and connect it.

        Raises ClusterError when the cluster cannot be reached or is too small, before anything is trained.
        """
        if address := self._connect.address or os.environ.get("RAY_ADDRESS"):
            require_listener(address)
        self._log = tempfile.TemporaryFile(prefix="vqscale-driver-")  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", DRIVER],  # -P: a ray.py beside the study must not shadow Ray
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # a terminal's signals reach neither the driver nor Ray's daemons
            encoding="utf-8",
            bufsize=1,
            env=self._environment(),
        )
        try:
            for _ in self._exchange(self._connect, "connected"):
                pass
        except BaseException:
            self.close(seconds=0.0)  # nothing trains yet: there is nothing to wait for
            raise
        return self

    def _environment(self) -> dict[str, str]:
        kept = {name for name in os.environ if not name.startswith("MLFLOW_")} - self._withheld
        return {name: os.environ[name] for name in kept}

    def __enter__(self) -> "RayDriver":
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def train(self, stage: Stage) -> Iterator[Event]:
        """Events of a stage, the last of kind `trained`.

        Raises DriverDiedError when the driver ended by itself, and the driver's own UserError.
        """
        yield from self._exchange(stage, "trained")

    def stop(self) -> None:
        """Let the driver stop the stage that it trains, and wait until its trials have written their checkpoints.

        Ctrl-C meanwhile ends it at once, and so does the end of `STOP_SECONDS`.
        """
        self.ask_to_stop()
        limit = threading.Timer(STOP_SECONDS, self._kill)
        limit.start()
        try:
            for event in self._events():
                if event["kind"] in ("interrupted", "error", "trained"):
                    return
        except KeyboardInterrupt:
            self._kill()
        finally:
            limit.cancel()

    def ask_to_stop(self) -> None:
        """As `stop`, from any thread and without waiting: the stage ends in a StudyInterruptedError."""
        self._closing_seconds = STOPPED_SECONDS
        self._send(Stop())

    def _exchange(self, request: Frozen, last: str) -> Iterator[Event]:
        self._send(request)
        for event in self._events():
            if event["kind"] == "error":
                raise self._error(event)
            if event["kind"] == "interrupted":
                raise StudyInterruptedError("The process that talks to Ray was interrupted.")
            yield event
            if event["kind"] == last:
                return
        raise DriverDiedError(self._last_words())

    def _send(self, request: Frozen) -> None:
        assert self._process.stdin is not None
        line = Request.model_validate({"request": request}).model_dump_json()
        with contextlib.suppress(BrokenPipeError, ValueError), self._writing:  # it died; reading its events says so
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _events(self) -> Iterator[Event]:
        stream: IO[str] | None = self._process.stdout
        assert stream is not None
        for line in stream:
            try:
                event: Event = json.loads(line)
            except json.JSONDecodeError:  # cut off by a death, or by Ctrl-C while it was read
                continue
            yield event

    def close(self, seconds: float | None = None) -> None:
        """Let Ray shut down for at most `seconds`, then end whatever is left."""
        self._send(Close())
        try:
            self._process.wait(self._closing_seconds if seconds is None else seconds)
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

    def _error(self, event: Event) -> Exception:
        """The driver's own error where it is one of ours; anything else says no more than a death does."""
        kind = getattr(errors, event["type"], None)
        if isinstance(kind, type) and issubclass(kind, UserError | StudyInterruptedError):
            return kind(event["message"])
        what = f"the process that talks to Ray failed: {event['message']}"
        return DriverDiedError("\n".join([what, *self._log_end()]))

    def _last_words(self) -> str:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return "the process that talks to Ray closed its output and did not end."
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return "\n".join([f"the process that talks to Ray ended unexpectedly ({how}).", *self._log_end()])

    def _log_end(self) -> list[str]:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return [line[:WIDTH] for line in lines if not line.startswith("Extension modules:")][-LAST_LINES:]
