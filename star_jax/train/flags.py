"""A dataclass from a YAML file and flags, and back: one sentence for every mistake.

load(kind, argv) → kind(...)       help_text(kind) → every key with its meaning
to_yaml(config) → text             values(config) → dotted name → value
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import draccus
import yaml
from draccus.utils import DecodingError, ParsingError
from draccus.wrappers import docstring

T = TypeVar("T")
_ABSENT = object()


class _Loader(yaml.SafeLoader):
    """Of the words that YAML 1.1 takes for booleans true and false alone are: off is a word."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load(kind: type[T], argv: Sequence[str], under: Mapping[str, Any] | None = None) -> T:
    """`--config FILE` (at most one), and `--section.key value` or `--section.key=value`; `under`
    are nested values that either goes over."""
    flags = _pairs(argv)
    path = flags.pop("config", None)
    known, hints = dict(_leaves(kind)), dict(_hints(kind))
    raw: dict[str, Any] = {}
    places: dict[str, str] = {}  # where a value comes from, for what is said of it
    if path is not None:
        raw, places = _file(Path(path), known)
    raw = overlaid(under or {}, raw)
    for name, text in flags.items():
        _check_name(name, known, "--")
        _put(raw, name.split("."), _value(text, hints[name], f"--{name}"))
        places[name] = f"--{name}: "
    source = f"{path}: " if path is not None else ""
    for name, default in known.items():
        if default is dataclasses.MISSING and _get(raw, name.split(".")) is None:
            raise ValueError(f"{source}{name}: is missing: give --{name}, or put it in a --config")
    for section in sorted(_sections(known)):
        _put_default(raw, section)
    return decode(kind, raw, source, places)


def nested(kind: type[T], raw: Mapping[str, Any], where: str) -> T:
    """From nested values that stand somewhere else than in a file of their own."""
    known = dict(_leaves(kind))
    for name in _named(raw, ""):
        _check_name(name, known, where)
    whole = copy.deepcopy(dict(raw))
    for name, default in known.items():
        if default is dataclasses.MISSING and _get(whole, name.split(".")) is None:
            raise ValueError(f"{where}{name}: is missing: give it")
    for section in sorted(_sections(known)):
        _put_default(whole, section)
    return decode(kind, whole, where)


def _named(raw: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in raw.items():
        if isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def known_key(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """ValueError for the first key that is none of these."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
            raise ValueError(f"{where}: {name}: is unknown: {hint}")


def overlaid(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, where `over` has nothing those of `under`."""
    made = copy.deepcopy(dict(under))
    for name, value in over.items():
        below = made.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        made[name] = overlaid(below, value) if both else value
    return made


def take(argv: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of one flag, and the words without it."""
    rest = list(argv)
    for at, word in enumerate(rest):
        flag, sign, value = word.partition("=")
        if flag != f"--{name}":
            continue
        if not sign and at + 1 == len(rest):
            raise ValueError(f"--{name}: has no value: write --{name} value")
        found = value if sign else rest[at + 1]
        return found, rest[:at] + rest[at + (1 if sign else 2) :]
    return None, rest


def decode(
    kind: type[T],
    raw: Mapping[str, Any],
    source: str = "",
    places: Mapping[str, str] | None = None,
) -> T:
    """The dataclass that nested values make; `places` say where single ones come from."""
    places = {} if places is None else places
    fitted = copy.deepcopy(dict(raw))
    for name, hint in _hints(kind):
        value = _get(raw, name.split("."), default=_ABSENT)
        if value is not _ABSENT:
            where = places.get(name, f"{source}{name}: ")
            _put(fitted, name.split("."), _fit(value, hint, where))
    try:
        return draccus.decode(kind, fitted)
    except DecodingError as error:
        raise ValueError(f"{source}{error}") from error
    except ParsingError as error:
        said = str(_root(error))
        is_flag = places.get(said.partition(":")[0], "").startswith("--")
        raise ValueError(said if is_flag else f"{source}{said}") from error


def _root(error: BaseException) -> BaseException:
    """What a dataclass itself said, under what the library made of it."""
    inner = error.__cause__ or error.__context__
    is_made = type(error).__module__.partition(".")[0] == "draccus"
    return _root(inner) if is_made and inner is not None else error


def _pairs(argv: Sequence[str]) -> dict[str, str]:
    """--name value and --name=value, each name once."""
    found: dict[str, str] = {}
    rest = list(argv)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or len(flag) < 3:
            raise ValueError(f"{flag}: is no flag: write --section.key value")
        name, sign, text = flag[2:].partition("=")
        if not sign:
            if not rest:
                raise ValueError(f"{flag}: has no value: write {flag} value")
            text = rest.pop(0)
        if name in found:
            raise ValueError(f"--{name}: is given twice: leave one")
        found[name] = text
    return found


def _value(text: str, hint: Any, where: str) -> Any:
    """A flag's words are YAML, unless the field takes words: then 0012 and 1e3 are words too."""
    if _inner(hint) is str or typing.get_origin(_inner(hint)) is typing.Literal:
        return None if text == "null" else text
    try:
        return yaml.load(text, _Loader) if text.strip() else text
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: is {text!r}, which is no YAML value: quote it") from error


def _fit(value: Any, hint: Any, where: str) -> Any:
    """The value as the field takes it."""
    inner = _inner(hint)
    if value is None and inner is not hint:
        return None
    match typing.get_origin(inner) or inner:
        case typing.Literal if value in typing.get_args(inner):
            return value
        case builtin if builtin is tuple:
            items = [value] if isinstance(value, str) else value
            if isinstance(items, list) and all(isinstance(item, str) for item in items):
                return items
        case builtin if builtin is float and not isinstance(value, bool):
            try:
                return float(value)  # YAML 1.1 takes 1e-5 for a word
            except (TypeError, ValueError):
                pass
        case builtin if type(value) is builtin:
            return value
    raise ValueError(f"{where}is {value!r}: give {_wanted(inner)}{_or_null(hint)}")


def _inner(hint: Any) -> Any:
    """Of X | None, X."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(x for x in typing.get_args(hint) if x is not type(None))
    return hint


def _or_null(hint: Any) -> str:
    return "" if _inner(hint) is hint else ", or null"


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        *others, last = typing.get_args(hint)
        return f"{', '.join(others)} or {last}"
    if typing.get_origin(hint) is tuple:
        return "a list of words, as in [one, other]"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a text")


def _file(path: Path, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """→ what the file holds, and where of each key."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: check --config")
    try:
        text = path.read_text(encoding="utf-8")
        node, raw = yaml.compose(text, _Loader), yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)  # only some of PyYAML's errors know their line
        line = f":{place.line + 1}" if place else ""
        raise ValueError(f"{path}{line}: is no YAML: write one `key: value` a line") from error
    if raw is None:
        return {}, {}
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: is no mapping: write one `key: value` a line")
    places = {}
    for name, line, is_section in _keys(node, ""):
        _check_name(name, known, f"{path}:{line}: ", is_section)
        places[name] = f"{path}:{line}: {name}: "
    return raw, places


def _keys(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int, bool]]:
    """(dotted name, line, whether it is a section) of every key of a mapping."""
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        line = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield name, line, True
            yield from _keys(value, f"{name}.")
        else:
            yield name, line, False


def _check_name(name: str, known: Mapping[str, Any], where: str, is_section: bool = False) -> None:
    sections = {leaf.rpartition(".")[0] for leaf in known} - {""}
    sections |= {section.rpartition(".")[0] for section in sections} - {""}
    if (is_section and name in sections) or (not is_section and name in known):
        return
    if name in sections:
        keys = ", ".join(leaf for leaf in known if leaf.startswith(f"{name}."))
        raise ValueError(f"{where}{name}: is a section: its keys are {keys}")
    if name in known:
        raise ValueError(f"{where}{name}: is one value, not a section: write {name}: value")
    near = difflib.get_close_matches(name, [*known, *sections], n=1, cutoff=0.4)
    same = [leaf for leaf in known if leaf.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = f"did you mean {(same or near)[0]}?" if same or near else "see --help for all keys"
    raise ValueError(f"{where}{name}: is unknown: {hint}")


def _sections(known: Mapping[str, Any]) -> set[str]:
    inner = {leaf.rpartition(".")[0] for leaf in known}
    return (inner | {section.rpartition(".")[0] for section in inner}) - {""}


def _put_default(raw: dict[str, Any], section: str) -> None:
    """An empty section where there is none, so that what it lacks is said by the section itself."""
    if _get(raw, section.split(".")) is None:
        _put(raw, section.split("."), {})


def _put(raw: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
    raw[keys[-1]] = value


def _get(raw: Any, keys: Sequence[str], default: Any = None) -> Any:
    for key in keys:
        if not isinstance(raw, Mapping) or key not in raw:
            return default
        raw = raw[key]
    return raw


def _leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, default or MISSING) of every field that is no section."""
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[one.name]):
            yield from _leaves(hints[one.name], f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", one.default


def _hints(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of the same."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _hints(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def help_text(kind: Any, *, is_dry: bool = True) -> str:
    """Every key: name, default, meaning."""
    lines = [
        f"  {'--config FILE':<34} the same keys in a YAML file; flags go over it",
    ]
    if is_dry:
        lines.append(f"  {'--dry-run':<34} say what would be done, with its memory, and do nothing")
    for name, default in _leaves(kind):
        owner = kind
        for section in name.split(".")[:-1]:
            owner = typing.get_type_hints(owner)[section]
        meaning = docstring.get_attribute_docstring(owner, name.rpartition(".")[2]).comment_inline
        shown = "required" if default is dataclasses.MISSING else _shown(default)
        lines.append(f"  --{name:<32} {meaning} [{shown}]")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def to_yaml(config: Any) -> str:
    """The whole configuration, which `load` reads back."""
    return yaml.safe_dump(draccus.encode(config), sort_keys=False, allow_unicode=True)


def values_of(kind: Any) -> list[str]:
    """The dotted names of all keys."""
    return [name for name, _ in _leaves(kind)]


def values(config: Any) -> dict[str, Any]:
    """Dotted name → value of everything in a configuration."""
    return {
        name: _get(draccus.encode(config), name.split(".")) for name, _ in _leaves(type(config))
    }
