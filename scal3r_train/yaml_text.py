"""YAML 1.2 as people write settings: read with limits, so that no text takes more time or memory than it is long.

Refused, with the line: more than MAX_BYTES or MAX_VALUES, values that are written once and named again and again until
they are more than that (an "alias bomb"), more than MAX_DEPTH levels, a value inside itself, lists and mappings as
keys, versions other than 1.1 and 1.2. Imports nothing of this project.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.events import AliasEvent, MappingStartEvent, SequenceStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.parser import Parser
from ruamel.yaml.tokens import DirectiveToken

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
MAX_DEPTH = 40
OTHER_KINDS = ("binary", "set", "omap", "pairs")
MAX_BITS = 63  # of a whole number
VERSIONS = ((1, 1), (1, 2))
LONGEST_PROBLEM, LONGEST_SHOWN = 200, 40


class YamlError(ValueError):
    """A text is no YAML, or beyond a limit; `line` counts from 1 and is None where it cannot be told."""

    def __init__(self, problem: str, line: int | None) -> None:
        self.problem, self.line = problem, line
        super().__init__(problem if line is None else f"line {line}: {problem}")


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document; None for an empty one.

    Raises:
        YamlError: malformed, repeated keys, unknown tags, or beyond a limit.
    """
    return _careful(text, lambda yaml: yaml.load(text))


def line_of(text: str, keys: Sequence[str], value: Any) -> int | None:
    """Return the line, from 1, at which keys lead to a value in a text that `parse_yaml` reads; None: it is not there.

    Args:
        text: of the file.
        keys: of mappings, and indices of lists.
        value: that must stand there, lest a line is blamed whose value was replaced by another.
    """
    found = _careful(text, lambda yaml: _walk(yaml, yaml.compose(text), keys))
    if found is None or json.dumps(found[1], default=str) != json.dumps(value, default=str):
        return None
    return found[0]


def dump_yaml_text(mapping: Mapping[str, Any]) -> str:
    """Return plain values as YAML in the style of recipes, in the order of the mapping."""
    stream = StringIO()
    _yaml().dump(dict(mapping), stream)
    return stream.getvalue()


class _Parser(Parser):
    def process_directives(self) -> Any:
        if self.scanner.check_token(DirectiveToken):
            token = self.scanner.peek_token()
            if token.name == "YAML" and tuple(token.value) not in VERSIONS:
                number = ".".join(map(str, token.value))[:LONGEST_SHOWN]
                _refuse(f"YAML {number} is unknown; write `%YAML 1.2`, or nothing", token)
        return super().process_directives()


class _Composer(Composer):
    """Counts what a document comes to when every alias is written out."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader=loader)
        self._num_values: dict[int, int] = {}  # by node, once it is complete
        self._num_before = 0
        self._level = 0

    def compose_node(self, parent: Any, index: Any) -> Node:
        event = self.parser.peek_event()
        if isinstance(parent, MappingNode) and index is None and _is_collection(event, self.anchors):
            _refuse("a list or mapping cannot be a key; write plain keys", event)
        self._level += 1
        if self._level > MAX_DEPTH:
            _refuse(f"more than {MAX_DEPTH} levels of lists and mappings in one another", event)
        before = self._num_before
        node: Node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(event, AliasEvent):
            if id(node) not in self._num_values:
                _refuse(f"'*{event.anchor}' is inside of what it names; write no value inside itself", event)
            self._num_before += self._num_values[id(node)]
        else:
            self._num_before += 1
            self._num_values[id(node)] = self._num_before - before
        if self._num_before > MAX_VALUES:
            _refuse(f"more than {MAX_VALUES} values, those counted that are named by `*`", event)
        return node


class _Constructor(SafeConstructor):
    """Names the line of a number or date that cannot be read."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  as ruamel calls it
        kind = str(node.tag).rpartition(":")[2]
        if kind in OTHER_KINDS:
            _refuse(
                f"a value of kind !!{kind}; write text, numbers, true, false, null, lists and mappings", node
            )
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int) and value.bit_length() > MAX_BITS:
                raise ValueError("it is too large")
            return value
        except YAMLError:
            raise
        except (ValueError, OverflowError, TypeError, AttributeError, LookupError) as error:
            given = repr(node.value[:LONGEST_SHOWN]) if isinstance(node, ScalarNode) else "this"
            _refuse(f"{given} cannot be read as {kind}: {error}", node)


def _refuse(problem: str, at: Any) -> NoReturn:
    raise MarkedYAMLError(problem=problem, problem_mark=None if at is None else at.start_mark)


def _is_collection(event: Any, anchors: Mapping[str, Node]) -> bool:
    if isinstance(event, AliasEvent):
        return not isinstance(anchors.get(event.anchor), ScalarNode | None)
    return isinstance(event, SequenceStartEvent | MappingStartEvent)


def _yaml() -> YAML:
    """Return a safe reader and writer of YAML 1.2. Not the C one: it speaks 1.1, where `no` is False."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Parser, yaml.Composer, yaml.Constructor = _Parser, _Composer, _Constructor
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel annotates it as None
    yaml.width = 110
    return yaml


def _careful(text: str, read: Any) -> Any:
    if len(text) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES >> 20} MiB; this is no file of settings", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            return read(_yaml())
    except MarkedYAMLError as error:
        problem = (error.problem or error.context or "malformed YAML").strip().splitlines()[0]
        mark = error.problem_mark or error.context_mark
        raise YamlError(problem[:LONGEST_PROBLEM], mark.line + 1 if mark else None) from None
    except (YAMLError, ValueError, RecursionError, AssertionError) as error:
        problem = " ".join(str(error).split()) or "malformed YAML"
        raise YamlError(problem[:LONGEST_PROBLEM], None) from None


def _walk(yaml: YAML, node: Any, keys: Sequence[str]) -> tuple[int, Any] | None:
    """Line at which keys lead to a value, and the value; None where they lead nowhere."""
    line = 0
    for key in keys:
        if isinstance(node, MappingNode):
            pairs = {str(name.value): (name, value) for name, value in node.value}
            if key not in pairs:
                return None
            name, node = pairs[key]
            line = name.start_mark.line + 1
        elif isinstance(node, SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            return None
    return (line, yaml.constructor.construct_document(node)) if line else None
