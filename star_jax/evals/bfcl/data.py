"""BFCL's files as entries: a checkout of gorilla, an installed or unpacked `bfcl-eval`, or `mini`.

    path, category → Entry, ...

    BFCL_v3_<category>.json                    {"id", "question", "function"} a line
    possible_answer/BFCL_v3_<category>.json    {"id", "ground_truth"} a line, the same ids

The version, v3 or v4, is read from the files' names. A mistake in a file is one sentence: file,
line, field, remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, get_args

from star_jax.evals.bfcl.categories import is_multi_turn, named
from star_jax.evals.bfcl.decode import Version

MINI = Path(__file__).parent / "mini"  # entries of our own, a few for every category
# Where the files lie in a package, in an unpacked wheel, in a new and in an old checkout.
FOLDERS = (
    ".",
    "data",
    "bfcl_eval/data",
    "berkeley-function-call-leaderboard/bfcl_eval/data",
    "berkeley-function-call-leaderboard/data",
)
NAME = re.compile(r"BFCL_(v\d+)_\w+\.json")


@dataclass(frozen=True)
class Entry:
    """One question: what is asked in every turn, the tools on offer, and what is accepted.

    `possible_answer` is None in the categories of (ir)relevance. A multi-turn entry has no tools of
    its own: its answer is a list of calls for every turn, and `raw` says which classes it involves.
    """

    id: str
    category: str
    turns: tuple[tuple[Mapping[str, Any], ...], ...]  # messages
    tools: tuple[Mapping[str, Any], ...]
    possible_answer: tuple[Any, ...] | None
    raw: Mapping[str, Any] = field(compare=False, repr=False)  # the line of the file, as it is
    line: int = field(compare=False, repr=False, default=0)


@dataclass(frozen=True)
class Source:
    """A folder of BFCL's files, of one version."""

    folder: Path
    version: Version

    def path(self, category: str) -> Path:
        return self.folder / f"BFCL_{self.version}_{named(category, self.version)}.json"

    def answers_path(self, category: str) -> Path:
        return self.folder / "possible_answer" / self.path(category).name


def find(path: str | Path, version: Version | None = None) -> Source:
    """Where BFCL's files are, at or under a path that a user gave; which version they are of."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such folder: give a checkout, a wheel or its data")
    for folder in (path / name for name in FOLDERS):
        names = (file.name for file in folder.glob("BFCL_v*.json"))
        found = {match[1] for match in map(NAME.fullmatch, names) if match}
        known = [name for name in get_args(Version) if name in found and version in (None, name)]
        if len(known) > 1:
            raise ValueError(f"{folder}: holds {' and '.join(known)}: say which version to read")
        if known:
            return Source(folder, known[0])
    files = f"BFCL_{version or 'v3'}_*.json"
    remedy = "pip install --no-deps bfcl-eval==2025.8.6.2 has v3, ==2026.3.23 has v4"
    raise ValueError(f"{path}: there are no files {files} in it or its data folders: {remedy}")


def load(path: str | Path, category: str, version: Version | None = None) -> tuple[Entry, ...]:
    """The entries of one category, in the file's order, with what they accept."""
    source = find(path, version)
    category = named(category, source.version)
    answers = None if "relevance" in category else _answers(source.answers_path(category), category)
    file = source.path(category)
    entries: dict[str, Entry] = {}
    for line, row in _rows(file):
        entry = _entry(file, line, row, category, answers)
        if entry.id in entries:
            first = entries[entry.id].line
            _refuse(file, line, "id", f"is {entry.id!r} again, as on line {first}", "remove one")
        entries[entry.id] = entry
    if answers is not None and (spare := answers.keys() - entries.keys()):
        answer_id = min(spare, key=lambda name: answers[name][0])
        where = source.answers_path(category)
        what = f"is {answer_id!r}, which {file.name} does not have"
        _refuse(where, answers[answer_id][0], "id", what, "take both files from one version")
    return tuple(entries.values())


Answers = dict[str, tuple[int, tuple[Any, ...]]]  # id → line and accepted calls


def _answers(path: Path, category: str) -> Answers:
    check = _is_multi_turn_answer if is_multi_turn(category) else _is_answer
    found: Answers = {}
    for line, row in _rows(path):
        answer_id = _id(path, line, row)
        if answer_id in found:
            what = f"is {answer_id!r} again, as on line {found[answer_id][0]}"
            _refuse(path, line, "id", what, "remove one")
        truth = _of_type(path, line, row, "ground_truth", list)
        if not truth or not all(check(item) for item in truth):
            form = "[call, ...] of every turn" if is_multi_turn(category) else _ANSWER_FORM
            _refuse(path, line, "ground_truth", "has another form", f"give a list of {form}")
        found[answer_id] = line, tuple(truth)
    return found


_ANSWER_FORM = "{tool: {parameter: [accepted values]}}"


def _is_answer(item: Any) -> bool:
    if not isinstance(item, dict) or len(item) != 1:
        return False
    (parameters,) = item.values()
    return isinstance(parameters, dict) and all(isinstance(v, list) for v in parameters.values())


def _is_multi_turn_answer(item: Any) -> bool:
    return isinstance(item, list) and all(isinstance(call, str) for call in item)


def _entry(
    path: Path, line: int, row: Mapping[str, Any], category: str, answers: Answers | None
) -> Entry:
    entry_id = _id(path, line, row)
    turns = _of_type(path, line, row, "question", list)
    if not turns or not all(_is_turn(turn) for turn in turns):
        _refuse(path, line, "question", "has another form", "give [[{role, content}, ...], ...]")
    tools = [] if is_multi_turn(category) else _of_type(path, line, row, "function", list)
    for index, tool in enumerate(tools):
        if not _is_tool(tool):
            remedy = "give {name, description, parameters: {properties, required}}"
            _refuse(path, line, f"function[{index}]", "has another form", remedy)
    if answers is not None and entry_id not in answers:
        what = f"is {entry_id!r}, which possible_answer/{path.name} does not have"
        _refuse(path, line, "id", what, "take both files from one version")
    accepted = None if answers is None else answers[entry_id][1]
    return Entry(
        entry_id, category, tuple(tuple(turn) for turn in turns), tuple(tools), accepted, row, line
    )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in turn
    )


def _is_tool(tool: Any) -> bool:
    if not isinstance(tool, dict) or not isinstance(schema := tool.get("parameters"), dict):
        return False
    properties = schema.get("properties")
    return (
        all(isinstance(tool.get(name), str) for name in ("name", "description"))
        and isinstance(properties, dict)
        and all(isinstance(item, dict) and "type" in item for item in properties.values())
        and isinstance(schema.get("required"), list)
    )


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: take the whole folder of one version")
    with path.open("rb") as file:
        for line, data in enumerate(file, 1):
            if not data.strip():
                continue
            try:
                row = json.loads(data)
            except (ValueError, RecursionError) as error:
                _refuse(path, line, "row", f"is not JSON ({error})", "fetch the file again")
            if not isinstance(row, dict):
                _refuse(path, line, "row", "is no object", "give one JSON object per line")
            yield line, row


def _id(path: Path, line: int, row: Mapping[str, Any]) -> str:
    return _of_type(path, line, row, "id", str)


def _of_type(path: Path, line: int, row: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(row.get(name), kind):
        what = "is missing" if name not in row else f"is no {kind.__name__}"
        _refuse(path, line, name, what, "fetch the file again")
    return row[name]


def _refuse(path: Path, line: int, name: str, what: str, remedy: str) -> NoReturn:
    raise ValueError(f"{path}:{line}: {name}: {what}: {remedy}")
