"""Results as JSON, CSV and one Markdown page, with what is needed to repeat them."""

import csv
import datetime
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, Any]


def facts(device: torch.device, command: str) -> dict[str, str]:
    """Machine, versions, date, commit and command."""
    import triton

    return {
        "device": _device(device),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "command": command,
    }


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device.type}: Triton's interpreter, whose times mean nothing"
    found = torch.cuda.get_device_properties(device)
    memory = f"{found.total_memory / 2**30:.0f} GiB"
    return f"{found.name}, {memory}, {found.multi_processor_count} multiprocessors, sm_{found.major}{found.minor}"


def _commit() -> str:
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown (no checkout)"
    return found.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def write(folder: Path, about: Mapping[str, str], tables: Mapping[str, Sequence[Row]], notes: Sequence[str]) -> str:
    """Write gpu_check.json, one CSV per table and gpu_check.md; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "about": dict(about),
        "notes": list(notes),
        **{name: [dict(row) for row in rows] for name, rows in tables.items()},
    }
    (folder / "gpu_check.json").write_text(json.dumps(whole, indent=1, default=str) + "\n", encoding="utf-8")
    for name, rows in tables.items():
        if rows:
            _write_csv(folder / f"gpu_check_{name}.csv", rows)
    page = _page(about, tables, notes)
    (folder / "gpu_check.md").write_text(page, encoding="utf-8")
    return page


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _page(about: Mapping[str, str], tables: Mapping[str, Sequence[Row]], notes: Sequence[str]) -> str:
    lines = ["# VQ attention on a GPU: checks and measurements", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", *notes, ""]
    for name, title in _TITLES.items():
        rows = tables.get(name, ())
        rows = _worst(rows) if name == "checks" else rows
        if rows:
            lines += [f"## {title}", "", *_table([_shown(row, name) for row in rows]), ""]
    return "\n".join(lines)


_TITLES = {
    "checks": "Checks: the worst of each case and configuration",
    "layers": "Attention layers",
    "decode": "Decoding, batch 1",
    "configurations": "Configurations other than the default",
}


def _worst(checks: Sequence[Row]) -> list[Row]:
    """Of each case, precision and configuration: how many checks passed, and the one that came nearest its limit."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for check in checks:
        groups.setdefault((check["case"], check["dtype"], check["config"]), []).append(check)
    found: list[Row] = []
    for (case, dtype, config), rows in groups.items():
        worst = max(rows, key=lambda row: (not row["passed"], row["error"] / max(row["allowed"], 1e-300)))
        passed = f"{sum(row['passed'] for row in rows)} of {len(rows)}"
        names = ("what", "error", "reference_error", "allowed")
        about = {"case": case, "dtype": dtype, "config": config, "passed": passed}
        found.append(about | {name: worst[name] for name in names})
    return found


def _shown(row: Row, table: str) -> Row:
    """The columns of a row that fit on a page."""
    if table == "layers":
        names: Sequence[str] = (
            "layer",
            "T",
            "batch",
            "pass",
            "contender",
            "ms",
            "tflops",
            "share_of_roofline",
            "peak_bytes",
            "over_vq",
        )
        if row["status"] != "ok":
            return {name: row.get(name, "") for name in names} | {"ms": row["status"]}
    else:
        names = tuple(row)
    return {name: row.get(name, "") for name in names}


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 1e6 else str(value)
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")
