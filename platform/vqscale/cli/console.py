"""The console of all commands: as wide as the terminal, and wide enough for a table where there is none."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Span, Text

WIDTH_WITHOUT_TERMINAL = 150


def make_console(*, stderr: bool = False) -> Console:
    """The console of every command. A text is printed as it is, whatever brackets or colons a name, a path or a
    question holds: styles come from `styled` only. In a file or a pipe, where rich would cut tables at 80 columns,
    lines are 150 long.
    """
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console


def styled(template: str, *values: object) -> Text:
    """Markup of our own, such as `[yellow]note[/yellow] {}`, in which each `{}` becomes a value that is never markup.

    Escaped values would not do: `[x` in one and `y]` in another make a tag together.
    """
    text = Text.from_markup(template, emoji=False)
    parts, texts = text.plain.split("{}"), [str(value) for value in values]
    assert len(parts) == len(texts) + 1, f"{template}: {len(parts) - 1} places for {len(texts)} values"
    places = [sum(len(part) for part in parts[: index + 1]) + 2 * index for index in range(len(texts))]

    def moved(position: int) -> int:
        return position + sum(len(value) - 2 for place, value in zip(places, texts, strict=True) if place < position)

    plain = parts[0] + "".join(value + part for value, part in zip(texts, parts[1:], strict=True))
    return Text(plain, spans=[Span(moved(one.start), moved(one.end), one.style) for one in text.spans])


def print_written(uris: Iterable[str]) -> None:
    """A line per file."""
    for uri in uris:
        make_console().print(f"wrote {uri}", soft_wrap=True)
