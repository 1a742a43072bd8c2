"""A command group that is imported when one of its commands is asked for: `--help` of the others stays fast."""

import importlib
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """The commands of `MODULE.app`."""

    MODULE: ClassVar[str]

    def _loaded(self) -> TyperGroup:
        group = typer.main.get_command(importlib.import_module(self.MODULE).app)
        assert isinstance(group, TyperGroup)
        return group

    def list_commands(self, ctx: Any) -> list[str]:
        return self._loaded().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._loaded().get_command(ctx, cmd_name)
