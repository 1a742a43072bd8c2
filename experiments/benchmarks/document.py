"""The facts that every committed benchmark states, and the writing of its files."""

import datetime

import pandas as pd
import torch
from rich.console import Console
from rich.markdown import Markdown

from vqscale import storage
from vqscale.provenance import git_commit, machine, versions


def facts(command: str) -> list[str]:
    """Lines of Markdown: everything needed to repeat a measurement."""
    found = {
        "machine": machine(),
        "threads": str(torch.get_num_threads()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git_commit() or "unknown (no checkout)",
        "command": f"`{command}`",
    }
    return [f"- {name}: {value}" for name, value in found.items()]


def publish(folder: str, name: str, tables: dict[str, pd.DataFrame], text: str) -> None:
    """Write the text and each table as CSV, named `name` and the table's own ending, and show the text."""
    for ending, table in tables.items():
        storage.write_text(storage.join(folder, f"{name}{ending}.csv"), table.to_csv(index=False))
    storage.write_text(storage.join(folder, f"{name}.md"), text)
    Console().print(Markdown(text))
