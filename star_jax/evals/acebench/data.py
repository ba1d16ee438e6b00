"""The entries of a checkout of ACEBench, or of the miniature that comes along.

    root/data_all/data_{en,zh}/data_<category>.json                   {id, question, function, time}
    root/data_all/data_{en,zh}/possible_answer/data_<category>.json   {id, ground_truth}

Lines of JSON; the two files of a category have the same ids in the same order. `preference` has a
`profile` instead of a `time`. The entries of the multi-turn categories are steps of dialogues:
their ids end in _<dialogue>_<step>, and the steps of a dialogue stand together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Language = Literal["en", "zh"]

MINI = Path(__file__).parent / "mini"  # three entries or so of each category, in English

ATOM = (
    "normal_atom_bool",
    "normal_atom_enum",
    "normal_atom_number",
    "normal_atom_list",
    "normal_atom_object_deep",
    "normal_atom_object_short",
)
SINGLE_TURN = (
    "normal_single_turn_single_function",
    "normal_single_turn_parallel_function",
)
MULTI_TURN = ("normal_multi_turn_user_switch", "normal_multi_turn_user_adjust")
# In the order in which the official mean adds them up.
NORMAL = (*SINGLE_TURN, *MULTI_TURN, "normal_similar_api", "normal_preference", *ATOM)


@dataclass(frozen=True)
class Entry:
    """One question, the tools on offer, and what should be called."""

    id: str
    category: str
    language: str
    question: str  # the conversation so far, as text
    tools: list[dict[str, Any]]
    possible_answer: dict[str, Any] | list[dict[str, Any]]  # a list holds alternatives
    time: str = ""
    profile: str = ""
    line: int = field(default=0, compare=False)  # where it stands in its file, from 1


def read(
    root: str | Path, language: Language = "en", categories: Sequence[str] = NORMAL
) -> list[Entry]:
    """The entries of these categories, in order. `root` is a checkout of ACEBench, or MINI."""
    if language not in ("en", "zh"):
        raise ValueError(f"language is {language!r}: use 'en' or 'zh'")
    for category in categories:
        if category not in NORMAL:
            raise ValueError(
                f"category {category!r} is none of {', '.join(NORMAL)}: use one of these"
            )
    folder = Path(root) / "data_all" / f"data_{language}"
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: there is no such folder: give the root of a checkout of ACEBench"
        )
    return [entry for category in categories for entry in _category(folder, language, category)]


def from_row(row: Mapping[str, Any]) -> Entry:
    """An entry from a mapping, spelled as Entry is or as ACEBench's files are."""
    tools: Any = row["tools"] if "tools" in row else row.get("function")
    answer: Any = row["possible_answer"] if "possible_answer" in row else row.get("ground_truth")
    fault = _tools_fault(tools) or _answer_fault(answer)
    if fault:
        raise ValueError(f"entry {row.get('id', '')}: {fault}")
    return Entry(
        id=str(row.get("id") or ""),
        category=str(row.get("category") or ""),
        language=str(row.get("language") or "en"),
        question=str(row.get("question") or ""),
        tools=tools,
        possible_answer=answer,
        time=str(row.get("time") or ""),
        profile=str(row.get("profile") or ""),
    )


def dialogue(entry_id: str) -> str:
    """Which dialogue a step belongs to: `7` of normal_multi_turn_user_switch_7_0."""
    parts = entry_id.split("_")
    if len(parts) < 2:
        raise ValueError(f"id {entry_id!r} names no dialogue: it should end in _<dialogue>_<step>")
    return parts[-2]


def _category(folder: Path, language: str, category: str) -> Iterator[Entry]:
    questions = folder / f"data_{category}.json"
    answers = folder / "possible_answer" / f"data_{category}.json"
    rows, right = list(_rows(questions)), list(_rows(answers))
    if len(rows) != len(right):
        raise ValueError(
            f"{answers}: has {len(right)} rows, {questions.name} has {len(rows)}: fetch both again"
        )
    seen: dict[str, int] = {}
    for (line, row), (answer_line, answer) in zip(rows, right, strict=True):
        here, there = f"{questions}:{line}", f"{answers}:{answer_line}"
        entry_id = _text(here, row, "id")
        if seen.setdefault(entry_id, line) != line:
            raise ValueError(
                f"{here}: id: is {entry_id!r} again, as on line {seen[entry_id]}: remove one"
            )
        if answer.get("id") != entry_id:
            raise ValueError(
                f"{there}: id: is {answer.get('id')!r}, its question's is {entry_id!r}: "
                "put both files in one order"
            )
        if fault := _tools_fault(row.get("function")):
            raise ValueError(f"{here}: {fault}")
        if fault := _answer_fault(answer.get("ground_truth")):
            raise ValueError(f"{there}: {fault}")
        if category in MULTI_TURN:
            dialogue(entry_id)
        yield Entry(
            id=entry_id,
            category=category,
            language=language,
            question=_text(here, row, "question"),
            tools=row["function"],
            possible_answer=answer["ground_truth"],
            time=_text(here, row, "time", ""),
            profile=_text(here, row, "profile", ""),
            line=line,
        )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: give the root of a checkout of ACEBench")
    with open(path, "rb") as file:
        for line, data in enumerate(file, 1):
            if not data.strip():
                continue
            try:
                row = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}:{line}: is no JSON ({error}): fetch the file again"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{line}: is no JSON object: write one object on each line")
            yield line, row


def _text(where: str, row: dict[str, Any], name: str, absent: str | None = None) -> str:
    value = row.get(name, absent)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name}: is {_shown(value)}: make it a text")
    return value


def _tools_fault(tools: Any) -> str | None:
    if not isinstance(tools, list):
        return f"function: is {_shown(tools)}: make it a list of tools"
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            return f"function[{index}]: is {_shown(tool)}: make it an object with a name"
    return None


def _answer_fault(answer: Any) -> str | None:
    alternatives = answer if isinstance(answer, list) else [answer]
    if alternatives and all(isinstance(one, dict) for one in alternatives):
        return None
    return (
        f"ground_truth: is {_shown(answer)}: make it an object of calls, "
        "or a list of such alternatives"
    )


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
