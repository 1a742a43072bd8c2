"""`python -m vqscale.sweep.driver`: requests on standard input, events on standard output, one JSON object per line.

Started by `vqscale.sweep.client` in a session of its own; of no use by hand.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from vqscale.errors import StudyInterruptedError, UserError
from vqscale.sweep.processes import end_session
from vqscale.sweep.protocol import Close, Connect, Request, Stage, Stop


class Pipe:
    """The two ends that lead to the study's process."""

    def __init__(self) -> None:
        # Ray and its workers print to standard output; events get a descriptor of their own, the rest goes to the log.
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._in = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self.stopping = threading.Event()
        """Set when the study asks the stage to end; no further stage comes then."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._in:
                request = Request.model_validate_json(line)
                if isinstance(request.request, Stop):
                    self.stopping.set()
                    continue
                self._requests.put(request)
                if isinstance(request.request, Close):
                    return
        except Exception:  # a request that cannot be read would be waited for without end
            traceback.print_exc()
        # End of input without `Close`: the study's process has died, and nobody would read what is trained from here.
        end_session(os.getsid(0))

    def next(self) -> Request:
        return self._requests.get()

    def emit(self, event: dict[str, Any]) -> None:
        with self._writing:
            self._out.write(json.dumps(event) + "\n")


def main() -> None:
    """Serve one study until it closes the connection."""
    if os.getsid(0) != os.getpid():  # it ends its whole session when the study's process dies
        sys.exit("vqscale.sweep.driver is started by `vqscale run`, in a session of its own")
    pipe = Pipe()  # before Ray is imported: what that prints is no event
    from vqscale.sweep.driver import cluster
    from vqscale.sweep.driver.tuning import train

    with _reported(pipe):
        first = pipe.next().request
        assert isinstance(first, Connect), "the first request connects"
        with cluster.connected(first.address):
            cluster.require_room(first.resources)
            pipe.emit({"kind": "connected"})
            while not isinstance(request := pipe.next().request, Close):
                assert isinstance(request, Stage), "connected already"
                with _reported(pipe):
                    train(request, pipe.emit, pipe.stopping)
                    pipe.emit({"kind": "trained"})


@contextlib.contextmanager
def _reported(pipe: Pipe) -> Iterator[None]:
    """Turn what is raised into an event: the other process decides what it means for the study."""
    try:
        yield
    except StudyInterruptedError:
        pipe.emit({"kind": "interrupted"})
    except UserError as error:
        pipe.emit({"kind": "error", "type": type(error).__name__, "message": str(error)})
    except Exception as error:
        traceback.print_exc()
        pipe.emit({"kind": "error", "type": type(error).__name__, "message": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
