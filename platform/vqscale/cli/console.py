"""The console of all commands: as wide as the terminal, and wide enough for a table where there is none."""

from collections.abc import Iterable

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 150


def make_console(*, stderr: bool = False) -> Console:
    """A console for text. In a file or a pipe, where rich would cut tables at 80 columns, lines are 150 long."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def print_written(uris: Iterable[str]) -> None:
    """A line per file."""
    for uri in uris:
        make_console().print(f"wrote {uri}", soft_wrap=True, highlight=False, markup=False)
