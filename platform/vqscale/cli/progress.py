"""A progress bar on stderr for measurements in rounds."""

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vqscale.cli.console import make_console


class RoundsBar:
    """Appears with the first update and leaves nothing behind."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=make_console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> "RoundsBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def update(self, text: str, done: int, total: int) -> None:
        """`text` is measured next, after `done` of `total` rounds."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(text, total=total)
        self._progress.update(self._task, description=text, completed=done, total=total)

    def stop(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._task = None
