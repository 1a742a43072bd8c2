"""The generators and the loaders of labelled examples by name."""

from typing import Final

from vqscale.data.tasks.generator import Generator
from vqscale.data.tasks.listops import ListOps

GENERATORS: Final[dict[str, type[Generator]]] = {kind.name: kind for kind in (ListOps,)}
