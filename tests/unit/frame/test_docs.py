"""The reference pages know every key, column and command, with its default, and none that does not exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

from vqscale.cli.main import app
from vqscale.costing.presets import PRESETS
from vqscale.laws.io import schema as record
from vqscale.laws.io.export import json_schema
from vqscale.results import Result
from vqscale.study.design import CodebookDesign, ContextDesign, IsoflopDesign, LadderDesign
from vqscale.study.frozen import Frozen
from vqscale.study.model import ModelConfig
from vqscale.study.recipe import Recipe, RecipeLaw, RecipePower, RecipeReference, RecipeRule
from vqscale.study.spec import (
    AutotuneSpec,
    DataSpec,
    FitSpec,
    Resources,
    RunOptions,
    Study,
    ThroughputSpec,
    Tracking,
    integers,
)
from vqscale.study.throughput_study import CellSettings, ThroughputStudy
from vqscale.study.trial import TrainConfig

FITS = {
    name: kind
    for name, kind in vars(record).items()
    if isinstance(kind, type) and issubclass(kind, Frozen) and kind is not Frozen
}
ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs" / "reference"
SECTIONS = {
    "Study": Study,
    "data": DataSpec,
    "model": ModelConfig,
    "train": TrainConfig,
    "recipe": Recipe,
    "Recipe rule": RecipeRule,
    "Recipe law": RecipeLaw,
    "Recipe power": RecipePower,
    "Recipe reference": RecipeReference,
    "isoflop": IsoflopDesign,
    "ladder": LadderDesign,
    "context": ContextDesign,
    "codebook": CodebookDesign,
    "resources": Resources,
    "run": RunOptions,
    "fit": FitSpec,
    "throughput": ThroughputSpec,
    "autotune": AutotuneSpec,
    "tracking": Tracking,
    "Throughput study": ThroughputStudy,
    "Cell": CellSettings,
}


def section(page: str, title: str, level: int = 2) -> str:
    """The text of one section of a reference page, up to the next heading of its level or above."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    pattern = rf"^{'#' * level} {re.escape(title)}\n(.*?)(?=^#{{1,{level}}} |\Z)"
    found = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title!r}"
    return found[1]


def first_table(text: str) -> dict[str, list[str]]:
    """The rows of the first table in `text` by the name in their first column."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0].strip("`")] = cells
    return rows


def documented_default(cell: str) -> Any:
    """The value that a default cell shows in backticks."""
    value = yaml.safe_load(cell.strip("`"))
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9.]+e-?[0-9]+", value) else value


def keys_of(model: type[BaseModel]) -> set[str]:
    """The keys that a person writes: `preset` is explained in words, and a study has `seeds`, a trial one seed."""
    fields = set(model.model_fields)
    return fields - {"seed"} | {"seeds"} if model is TrainConfig else fields


@pytest.mark.parametrize("title", SECTIONS)
def test_study_file_page_lists_exactly_the_keys_of_each_section(title: str) -> None:
    assert set(first_table(section("study-file.md", title))) == keys_of(SECTIONS[title])


@pytest.mark.parametrize("title", SECTIONS)
def test_study_file_page_gives_the_defaults_of_each_section(title: str) -> None:
    rows = first_table(section("study-file.md", title))
    for name, field in SECTIONS[title].model_fields.items():
        default = field.get_default(call_default_factory=True)
        if name == "seed" or isinstance(default, BaseModel):
            continue
        shown = rows[name][2]
        if shown in ("required", "preset"):
            assert default in (PydanticUndefined, None), f"{title}.{name} has the default {default!r}"
        elif shown == "none":
            assert default is None, f"{title}.{name} has the default {default!r}"
        else:
            assert integers(documented_default(shown)) == default, f"{title}.{name} has the default {default!r}"


def test_results_page_lists_exactly_the_columns_of_the_table() -> None:
    assert set(first_table(section("results-table.md", "Columns"))) == set(Result.model_fields)


def test_fits_page_lists_exactly_the_records_of_the_file() -> None:
    text = (REFERENCE / "fits.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", text, re.MULTILINE)) == set(FITS)


@pytest.mark.parametrize("name", FITS)
def test_fits_page_lists_exactly_the_fields_of_each_record(name: str) -> None:
    assert set(first_table(section("fits.md", name))) == set(FITS[name].model_fields)


def test_schema_of_fits_is_that_of_the_code() -> None:
    kept = (REFERENCE / "fits.schema.json").read_text(encoding="utf-8")
    remedy = "write it again: python -c 'from vqscale.laws.io.export import json_schema as s; print(s(), end=\"\")'"
    assert kept == json_schema(), f"docs/reference/fits.schema.json: {remedy} > docs/reference/fits.schema.json"


def test_presets_page_lists_every_preset() -> None:
    text = section("study-file.md", "model")
    presets = first_table(text[text.index("Presets (") :])
    assert {name: [int(cell) for cell in cells[1:6]] for name, cells in presets.items()} == {
        name: list(preset) for name, preset in PRESETS.items()
    }


def leaves(command: Any, path: str) -> dict[str, Any]:
    """Every command without sub-commands, by what a user types. A group may load its commands only when asked."""
    if not isinstance(command, TyperGroup):
        return {path: command}
    context = typer.Context(command)
    below = {word: command.get_command(context, word) for word in command.list_commands(context)}
    return {name: leaf for word, sub in below.items() for name, leaf in leaves(sub, f"{path} {word}").items()}


COMMANDS = leaves(typer.main.get_command(app), "vqscale")


def test_commands_page_has_a_section_for_every_command_and_no_other() -> None:
    text = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `(vqscale [^`]+)`$", text, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_page_lists_exactly_the_options_of_each_command(name: str) -> None:
    text = section("commands.md", f"`{name}`")
    options = [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]
    known = {option for parameter in options for option in parameter.opts if option.startswith("--")}
    listed = set(re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE))
    assert listed == known


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "cluster/README.md"])
def test_links_of_a_page_outside_docs_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)", text)
    broken = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert broken == []
