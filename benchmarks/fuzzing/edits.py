"""Hypothesis strategies that make wrong inputs of right ones: edits of bytes, of text, and of trees of values.

Each strategy draws the content of a file. `content_of` chooses by the file's name.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

from benchmarks.fuzzing.bombs import JSON_BOMBS, YAML_BOMBS, bombs_of

NUMBERS = (
    0,
    1,
    -1,
    2,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
WORDS = (
    "", "nan", "-inf", "inf", "1e400", "-1", "0", "-0.0", "1e-320", "99999999999999999999", "9" * 5000, "1_0", "0x10",
    "\u00b2", "\u0663", "null", "a b", '"', "'", "../../x", "/etc/passwd", "\x00", "\u00e9", "\u202e", "--", "True",
    "#", "%", ":", "\ufeff", "x" * 3000, "1,5", "=", "{", "[", "<a>", "\\", "\r",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e308, 1e-320, math.nan, math.inf, -math.inf, 10**30, 10**400,
    2**63, -(2**63), "", "x", "-1", "nan", "a\nb", "\0", "\u00e9" * 50, "../../../etc/passwd", "/dev/zero",
    "2020-01-01", "\u00b2", [], [[]], [None], [0], ["x"], [-1, 2], [1e30, math.nan], {}, {"a": None}, {"x": {"y": [1]}},
    [0] * 2000,
)  # fmt: skip
TREES = (".json", ".yaml", ".yml")
TEXTS = (".txt", ".csv", ".tum", ".camera", ".xml", ".jsonl", ".xacro", ".cfg", ".md", ".ac")
KEPT_SHARE = 256  # bytes at the start of a file, where headers are, that half of all edits go to


def content_of(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    """Draw wrong contents of a file with this name and right content."""
    lower = name.lower()
    choices = [edited_bytes(data)]
    if lower.endswith(TREES):
        choices = [edited_tree(data, lower), edited_tree(data, lower), edited_text(data), edited_bytes(data)]
    elif lower.endswith(TEXTS):
        choices = [edited_text(data), edited_text(data), edited_bytes(data)]
    elif lower.endswith(".png"):
        choices.append(edited_png(data))
    if bombs := bombs_of(lower, data):
        choices.append(st.sampled_from(bombs))
    return st.one_of(choices)


def edited_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw one to four edits of bytes, half of them near the start."""
    place = st.one_of(st.integers(0, KEPT_SHARE), st.integers(0, max(1, len(data))))
    edit = st.one_of(
        st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(
            st.just("number"), place, st.sampled_from(NUMBERS), st.sampled_from("<>"), st.sampled_from("BHIQ")
        ),
        st.tuples(st.just("cut"), place),
        st.tuples(st.just("drop"), place, st.integers(1, 64)),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=64)),
        st.tuples(st.just("repeat"), place, st.integers(1, 64), st.integers(2, 200)),
        st.tuples(st.just("append"), st.sampled_from([b"\0" * 4096, b"\xff" * 64, b"\n", data[:4096]])),
    )
    return st.lists(edit, min_size=1, max_size=4).map(lambda edits: _with_edits(data, edits))


def edited_text(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw one to three edits of words and lines."""
    lines = data.decode("utf-8", "replace").split("\n")
    line, word = st.integers(0, max(0, len(lines) - 1)), st.integers(0, 40)
    edit = st.one_of(
        st.tuples(st.just("word"), line, word, st.sampled_from(WORDS)),
        st.tuples(st.just("word"), line, word, st.sampled_from(WORDS)),
        st.tuples(st.just("line"), line, st.sampled_from(WORDS)),
        st.tuples(st.just("without"), line),
        st.tuples(st.just("twice"), line),
        st.tuples(st.just("swap"), line, line),
        st.tuples(st.just("cut"), line, word),
    )
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: _with_text_edits(lines, edits))


def edited_tree(data: bytes, name: str) -> st.SearchStrategy[bytes]:
    """Draw one or two values of a JSON or YAML document that become others, or are left out, renamed or added."""
    is_yaml = not name.endswith(".json")
    tree = YAML(typ="safe", pure=True).load(data.decode("utf-8", "replace")) if is_yaml else json.loads(data)
    places = list(_places(tree, ()))
    write = _yaml_text if is_yaml else lambda value: json.dumps(value)
    edit = st.tuples(
        st.sampled_from(["value", "value", "value", "drop", "rename", "add"]),
        st.sampled_from(places),
        st.sampled_from(VALUES),
    )
    changed = st.lists(edit, min_size=1, max_size=2).map(
        lambda edits: write(_with_values(tree, edits)).encode()
    )
    whole = st.sampled_from([bomb.encode() for bomb in (YAML_BOMBS if is_yaml else JSON_BOMBS)])
    return st.one_of(changed, changed, changed, whole)


def edited_png(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw other sizes, depths and colour types in a PNG header, its checksum made right again."""
    side = st.sampled_from([0, 1, 2, 7, 160, 4096, 30000, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1])
    kind = st.sampled_from(
        [(8, 0), (8, 2), (8, 3), (8, 4), (8, 6), (16, 0), (16, 2), (1, 0), (16, 6), (3, 9)]
    )
    return st.tuples(side, side, kind).map(lambda drawn: _with_png_size(data, *drawn))


def settings_words(keys: list[str]) -> st.SearchStrategy[bytes]:
    """Draw one to three lines `key=value` of known keys, their parts, and others."""
    key = st.one_of(
        st.sampled_from(keys), st.sampled_from(["", ".", "a..b", "task", "extends", "x" * 500, "model.0"])
    )
    value = st.one_of(
        st.sampled_from([_yaml_text(value).strip() for value in VALUES]),
        st.sampled_from([word for word in WORDS if "\x00" not in word]),
        st.sampled_from(YAML_BOMBS),
        st.integers(-(2**70), 2**70).map(str),
        st.floats().map(repr),
    )
    line = st.tuples(key, value).map(lambda drawn: f"{drawn[0]}={drawn[1]}".replace("\n", " "))
    return st.lists(line, min_size=1, max_size=3).map(lambda lines: "\n".join(lines).encode())


def _with_edits(data: bytes, edits: list[tuple]) -> bytes:
    for edit in edits:
        at = min(edit[1], len(data)) if isinstance(edit[1], int) else 0
        match edit:
            case ("put", _, new):
                data = data[:at] + new + data[at + len(new) :]
            case ("number", _, value, order, size):
                new = struct.pack(order + size, value % 256 ** struct.calcsize(size))
                data = data[:at] + new + data[at + len(new) :]
            case ("cut", _):
                data = data[:at]
            case ("drop", _, num):
                data = data[:at] + data[at + num :]
            case ("insert", _, new):
                data = data[:at] + new + data[at:]
            case ("repeat", _, num, times):
                data = data[:at] + data[at : at + num] * times + data[at + num :]
            case ("append", new):
                data += new
    return data


def _with_text_edits(lines: list[str], edits: list[tuple]) -> bytes:
    lines = list(lines)
    for edit in edits:
        at = min(edit[1], len(lines) - 1)
        if at < 0:
            break
        match edit:
            case ("word", _, place, new):
                words = lines[at].split(" ")
                words[place % len(words)] = new
                lines[at] = " ".join(words)
            case ("line", _, new):
                lines[at] = new
            case ("without", _):
                del lines[at]
            case ("twice", _):
                lines.insert(at, lines[at])
            case ("swap", _, other):
                other = min(other, len(lines) - 1)
                lines[at], lines[other] = lines[other], lines[at]
            case ("cut", _, place):
                lines = [*lines[:at], lines[at][:place]]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _places(node: Any, above: tuple) -> Any:
    yield above
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for number, (key, value) in enumerate(items):
        if number >= 200:
            break
        yield from _places(value, (*above, key))


def _with_values(tree: Any, edits: list[tuple[str, tuple, Any]]) -> Any:
    tree = _copy(tree)
    for kind, place, value in edits:
        if not place:
            tree = value if kind == "value" else tree
            continue
        node = tree
        for key in place[:-1]:
            node = _below(node, key)
        key = place[-1]
        if _below(node, key) is _MISSING:
            continue
        if kind == "value":
            node[key] = value
        elif kind == "drop":
            del node[key]
        elif isinstance(node, dict):
            held = node.pop(key) if kind == "rename" else value
            node[f"{key}x"] = held
        else:
            node.append(value)
    return tree


_MISSING = object()


def _below(node: Any, key: Any) -> Any:
    try:
        return node[key] if isinstance(node, dict | list) else _MISSING
    except (KeyError, IndexError, TypeError):
        return _MISSING


def _copy(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copy(value) for key, value in node.items()}
    return [_copy(value) for value in node] if isinstance(node, list) else node


def _yaml_text(value: Any) -> str:
    """JSON is YAML, but for its numbers that are not finite."""
    text = json.dumps(value, default=str)
    return text.replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")


def _with_png_size(data: bytes, width: int, height: int, kind: tuple[int, int]) -> bytes:
    header = b"IHDR" + struct.pack(">IIBB", width, height, *kind) + data[26:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
