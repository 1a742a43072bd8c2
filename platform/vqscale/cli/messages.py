"""Messages of the workflow on a console, where nothing else of a run is shown."""

from rich.console import Console

from vqscale.sweep.events import Level, StudyEvents


class Messages(StudyEvents):
    def __init__(self, console: Console) -> None:
        self._console = console

    def message(self, text: str, level: Level = "info") -> None:
        style = "yellow" if level == "warning" else None
        self._console.print(text, style=style, markup=False, highlight=False)
