"""Two processes in one gloo group, kept for all distributed tests of a session: starting them takes seconds of imports.

Tests take them from the fixture `two_ranks` of `tests/conftest.py`. The processes import torch; this module does not.
"""

import importlib.util
import inspect
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Self

WORLD = 2
COLLECTIVE_SECONDS = 60
"""A rank whose peer is lost stops waiting for it after this time; gloo's own limit is half an hour."""
ANSWER_SECONDS = 3 * COLLECTIVE_SECONDS


class TwoRanks:
    """`run(function, *arguments)` calls `function(rank, *arguments)` on both ranks and returns both results.

    The function stands at the top of a test file, which each rank loads by its path; arguments and results are
    pickled. The processes start at the first call. A failure on either rank ends both, since the group is then in an
    unknown state; the next call starts them again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ranks: list[tuple[Any, Connection]] = []
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        if not self._ranks:
            self._start()
        request = pickle.dumps((inspect.getfile(function), function.__name__, arguments))
        try:
            for _, connection in self._ranks:
                connection.send_bytes(request)
            return self._answers()
        except BaseException:
            self._end(kill=True)
            raise

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._started += 1
        meeting = f"file://{self._folder}/meeting-{self._started}"
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs, meeting), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._ranks.append((process, ours))

    def _answers(self) -> list[Any]:
        """In the order of ranks; the first failure is raised at once, as the other rank would wait for its peer."""
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._ranks)}
        answers: dict[int, Any] = {}
        while waiting:
            ready = wait(waiting, ANSWER_SECONDS)
            if not ready:
                raise TimeoutError(f"ranks {sorted(waiting.values())} gave no answer within {ANSWER_SECONDS} s")
            for connection in ready:
                rank = waiting.pop(connection)
                succeeded, answers[rank] = pickle.loads(connection.recv_bytes())
                if not succeeded:
                    raise RuntimeError(f"rank {rank} failed:\n{answers[rank]}")
        return [answers[rank] for rank in range(WORLD)]

    def _end(self, *, kill: bool = False) -> None:
        for process, connection in self._ranks:
            if kill:
                process.kill()
            connection.close()
        for process, _ in self._ranks:
            process.join(COLLECTIVE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._ranks.clear()


def _serve(rank: int, connection: Connection, meeting: str) -> None:
    """What a rank does until the other end of its pipe closes."""
    import torch
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it; a launcher sets it
    torch.set_num_threads(1)
    limit = timedelta(seconds=COLLECTIVE_SECONDS)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=limit)
    modules: dict[str, ModuleType] = {}
    while True:
        try:
            file, name, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        try:
            answer = True, getattr(_module(file, modules), name)(rank, *arguments)
        except Exception:
            answer = False, traceback.format_exc()
        connection.send_bytes(pickle.dumps(answer))
    dist.barrier()  # a rank that leaves while the other one still talks to it may abort
    dist.destroy_process_group()
    os._exit(0)  # taking down what torch loaded takes another second


def _module(file: str, known: dict[str, ModuleType]) -> ModuleType:
    """The test file as a module, loaded once; `tests/` is no package, so it has no name to be imported by."""
    if file not in known:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        known[file] = module
    return known[file]
