"""YAML files of this package: plain values from a text, strict where YAML 1.1 and its readers disagree.

PyYAML reads YAML 1.1, in which `no` is false, 1:30 is 90, 010 is 8 and 2026-12-01 is a date, while 3e-3 is a text.
Here 3e-3 is a number, and the others are refused with the line and what to write instead: each means something else in
YAML 1.2, and none is a value of a study. Keys are texts and written once. What would take long to read is refused, too:
deep nesting, files beyond a megabyte, aliases that multiply.
"""

import math
import re
from typing import Any

import yaml

from vqscale import storage
from vqscale.errors import StorageError, StudyError

LARGEST_FILE = 1_000_000
DEEPEST = 40
MOST_VALUES = 200_000
"""Values of a file with its aliases written out."""
LARGEST_INTEGER = 2**63 - 1
LONGEST_INTEGER = 64
_SHOWN = 60

_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_OTHER_BASE = re.compile(r"[-+]?(?:0[0-9_]+|0b[01_]+|[0-9_]+(?::[0-9_]+)+(?:\.[0-9_]*)?)$")
_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false", "null": "null"}


class _FaultError(Exception):
    """What is wrong, where, and in which keys."""

    def __init__(self, mark: Any, text: str) -> None:
        super().__init__(text)
        self.line, self.column = mark.line + 1, mark.column + 1
        self.keys: list[str] = []

    def __str__(self) -> str:
        key = f"{'.'.join(self.keys)}: " if self.keys else ""
        return f"line {self.line}, column {self.column}: {key}{self.args[0]}"


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._open: list[str] = []
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            raise _FaultError(
                event.start_mark, f"*{event.anchor} is a part of what &{event.anchor} names: it has no end"
            )
        if self._depth > DEEPEST:
            raise _FaultError(event.start_mark, f"nested deeper than {DEEPEST} levels")
        anchor = None if isinstance(event, yaml.AliasEvent) else event.anchor
        self._depth += 1
        self._open += [anchor] if anchor else []
        node = super().compose_node(parent, index)
        self._open = self._open[:-1] if anchor else self._open
        self._depth -= 1
        self._count(node, event.start_mark)
        return node

    def _count(self, node: yaml.Node | None, mark: yaml.Mark) -> None:
        """Note how many values `node` holds with its aliases written out."""
        if node is None or id(node) in self._sizes:
            return
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        self._sizes[id(node)] = size = 1 + sum(self._sizes.get(id(part), 1) for part in flat)
        if size > MOST_VALUES:
            raise _FaultError(mark, f"holds more than {MOST_VALUES:,} values with its aliases (*name) written out")

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS | {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"}:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise _FaultError(node.start_mark, f"the tag {tag} is not known. Write a plain value")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(self, node)
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _FaultError(node.start_mark, "is no mapping of keys to values")
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in values:
                raise _FaultError(key_node.start_mark, f"key {shown(key)} is written twice. Remove one of the two")
            try:
                values[key] = self.construct_object(value_node)
            except _FaultError as fault:
                fault.keys.insert(0, key)
                raise
        return values

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            kind = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
            raise _FaultError(node.start_mark, f"a {kind} is used as a key; a key is a text, such as `model`")
        if node.tag == "tag:yaml.org,2002:merge":
            raise _FaultError(node.start_mark, "`<<` is not supported. Write the keys out")
        if node.tag != "tag:yaml.org,2002:str":
            raise _FaultError(node.start_mark, f"key {shown(node.value)} is no text. Keys are names, such as `model`")
        return str(node.value)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """The value of one word. Raises _FaultError for a word that readers of YAML take for different values."""
    kind, word = node.tag.rpartition(":")[2], node.value
    found, quoted = shown(word), f"write '{shown(word).strip(chr(39))}' in quotes for a text"
    if kind == "timestamp":
        raise _FaultError(node.start_mark, f"{found} is a date in YAML; {quoted}")
    if kind == "bool" and word.lower() in {"yes", "no", "on", "off"}:
        raise _FaultError(node.start_mark, f"{found} is true or false in some YAML; write true or false, or {quoted}")
    if kind in {"int", "float"} and _OTHER_BASE.match(word):
        raise _FaultError(
            node.start_mark, f"{found} is of base 8, 2 or 60 in some YAML; write it in base 10, or {quoted}"
        )
    if kind == "int" and len(word) > LONGEST_INTEGER:
        raise _FaultError(node.start_mark, f"{found} is beyond the largest number, {LARGEST_INTEGER}")
    try:
        value = yaml.SafeLoader.construct_object(loader, node)
    except (ValueError, KeyError, yaml.constructor.ConstructorError) as error:
        raise _FaultError(node.start_mark, f"{found} is not {_KINDS.get(kind, kind)}") from error
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise _FaultError(node.start_mark, f"{found} is beyond the largest number, {LARGEST_INTEGER}")
    if isinstance(value, float) and not math.isfinite(value):
        raise _FaultError(node.start_mark, f"{found} is no finite number")
    return value


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def read_mapping(path: str, *, what: str = "study file") -> dict[str, Any]:
    """The plain values of a YAML file. Raises StudyError for a file that is absent, or no mapping in strict YAML.

    `what`: the kind of file that is asked for, in messages.
    """
    try:
        text = storage.read_text(path)
    except StorageError as error:
        raise StudyError(f"{error} Name a {what}.") from error
    if len(text) > LARGEST_FILE:
        raise StudyError(f"{path}: holds {len(text):,} characters; a {what} has at most {LARGEST_FILE:,}.")
    value = _parsed(text, path)
    if not isinstance(value, dict):
        held = {list: "a list", type(None): "nothing"}.get(type(value), f"the value {shown(value)}")
        raise StudyError(f"{path}: holds {held}, not a mapping of keys as in a {what}")
    return value


def _parsed(text: str, path: str) -> Any:
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except _FaultError as fault:
        raise StudyError(f"{path}: {fault}.") from fault
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reasons = ", ".join(part for part in (error.problem, error.context) if part)
        reasons += "; indent with spaces, not with tabs" if "'\\t'" in reasons else ""
        raise StudyError(f"{path}: {place}is not valid YAML ({reasons}).") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise StudyError(f"{path}: is not valid YAML ({' '.join(str(error).split())}).") from error


class _Dumper(yaml.SafeDumper):
    """Quotes whatever text the loader above would not read as that text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def dumped(values: dict[str, Any], *, width: int = 110) -> str:
    """`values` as YAML that `read_mapping` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
