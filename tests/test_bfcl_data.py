"""Entries from files: the bundled miniature, a user's copy of BFCL, and every mistake in one."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from star_jax.evals import bfcl
from star_jax.evals.bfcl import categories, data, prompt
from star_jax.evals.bfcl.data import Entry
from star_jax.evals.bfcl.decode import Call, Version

SINGLE = categories.groups("v3")["single_turn"]


def literal(value: Any, category: str) -> Any:
    """An accepted value as a model would give it: source, where that is asked for."""
    language = "javascript" if "javascript" in category else "java" if "java" in category else ""
    if not language:
        return value
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value}f" if language == "java" else str(value)
        case int():
            return str(value) + {"java": "L", "javascript": "n"}[language] * (value > 2**31)
        case list() if language == "java" and all(isinstance(item, int) for item in value):
            return f"new int[]{{{', '.join(map(str, value))}}}"
        case list() if language == "java":
            return f"new ArrayList<>(Arrays.asList({json.dumps(value)[1:-1]}))"
        case dict() if language == "java":
            puts = (f'put("{key}", {json.dumps(item)});' for key, item in value.items())
            return f"new HashMap<>() {{{{ {' '.join(puts)} }}}}"
        case list() | dict():
            return json.dumps(value)
    return value


def chosen(options: Any) -> Any:
    """The first accepted value that is one; of a dict, of every key."""
    if not isinstance(options, list):
        return options  # an answer that is not of the usual form
    option = next((value for value in options if value != ""), "")
    match option:
        case dict():
            return {key: chosen(value) for key, value in option.items() if chosen(value) != ""}
        case [dict(), *_]:
            return [{key: chosen(value) for key, value in item.items()} for item in option]
    return option


def solved(entry: Entry) -> list[Call]:
    """Calls that an entry accepts, made from what it accepts."""
    calls: list[Call] = []
    for answer in entry.possible_answer or ():
        ((name, parameters),) = answer.items()
        arguments = {
            key: literal(chosen(options), entry.category)
            for key, options in parameters.items()
            if chosen(options) != ""
        }
        calls.append({"name": name, "arguments": arguments})
    return calls


def spoken(calls: list[Call]) -> str:
    return "".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>\n" for call in calls)


def verdict(entry: Entry, text: str, version: Version = "v3") -> bool:
    calls = bfcl.decode(text, version)
    tools = entry.tools
    return bfcl.check(calls, tools, entry.possible_answer, entry.category).valid


@pytest.mark.parametrize("category", SINGLE)
def test_the_miniature_can_be_solved_and_failed(category: str) -> None:
    entries = data.load(data.MINI, category)
    assert len(entries) == 5
    for entry in entries:
        text = spoken(solved(entry))
        if category == "live_relevance":
            text = '<tool_call>\n{"name": "any", "arguments": {}}\n</tool_call>'
        assert verdict(entry, f"<think>\nhm\n</think>\n\n{text}"), entry.id
        wrong = text + '<tool_call>\n{"name": "no", "arguments": {}}\n</tool_call>'
        assert not verdict(entry, "no idea" if category == "live_relevance" else wrong), entry.id
        if "relevance" not in category:
            assert not verdict(entry, "no idea"), entry.id


@pytest.mark.parametrize("category", SINGLE)
def test_every_entry_of_the_miniature_has_a_prompt(category: str) -> None:
    for entry in data.load(data.MINI, category):
        before = copy.deepcopy(entry.tools)
        text = prompt.render(entry.turns[0], prompt.hinted(entry.tools, category))
        assert entry.tools == before  # the checker gets them without hints
        assert text.endswith("<|im_start|>assistant\n")
        assert text.count("Note that the provided function is in") == len(entry.tools)
        if category in ("java", "javascript"):
            assert '"type": "string", "description"' in text
            assert "in string representation." in text


def test_prompts_escape_what_is_not_ascii() -> None:
    tool = {"name": "f", "description": "Größe", "parameters": {"type": "dict", "properties": {}}}
    text = prompt.render([{"role": "user", "content": "Größe?"}], [tool])
    assert '"description": "Gr\\u00f6\\u00dfe"' in text
    assert "<|im_start|>user\nGröße?<|im_end|>" in text


def test_categories_are_chosen_by_name_and_group() -> None:
    assert categories.chosen("live_simple, java ,live_simple") == ("java", "live_simple")
    assert categories.chosen("simple_java") == ("java",)
    assert categories.chosen("simple", "v4") == ("simple_python",)
    assert len(categories.chosen("single_turn")) == 13
    assert len(categories.chosen("all", "v4")) == 17
    for text, message in [
        ("liev", "'liev' is none of BFCL v3: give one of .*, or of the groups all, single_turn"),
        (" ,", "name one at least"),
        ("memory_kv", "'memory_kv' is none of BFCL v3"),
    ]:
        with pytest.raises(ValueError, match=message):
            categories.chosen(text)
    with pytest.raises(ValueError, match="needs a network or a judge"):
        categories.chosen("memory_kv", "v4")


@pytest.mark.parametrize(("version", "live"), [("v3", 2251), ("v4", 2251)])
def test_the_sizes_are_those_of_the_published_sets(version: Version, live: int) -> None:
    sizes, groups = categories.SIZES[version], categories.groups(version)
    assert sum(sizes[name] for name in groups["live"]) == live
    assert sum(sizes[name] for name in groups["single_turn"]) == 3641
    assert sum(sizes[name] for name in groups["all"]) == 4441
    # What was not evaluated is wrong in all of its entries.
    averages = bfcl.aggregate({"live_simple": (258, 258)}, version)
    weight = {"v3": 2251, "v4": 1351}[version]
    assert averages.live == pytest.approx(258 / weight, abs=1e-12)
    assert averages.tables["data_live"]["AST Summary"] is None


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"smiple": (1, 2)}, "category 'smiple' is none of BFCL v3: give one of simple,"),
        ({"simple": (3, 2)}, r"counts\['simple'\] is \(3, 2\)"),
        ({"java": (1, 2), "simple_java": (1, 2)}, "are the same category: give one"),
    ],
)
def test_counts_that_cannot_be(counts: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bfcl.aggregate(counts)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The miniature in a checkout's folders, for a test to damage."""
    folder = tmp_path / "gorilla/berkeley-function-call-leaderboard/bfcl_eval/data"
    shutil.copytree(data.MINI, folder)
    return folder


def damage(path: Path, line: int, **changes: Any) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[line - 1]) | changes
    lines[line - 1] = json.dumps({key: value for key, value in row.items() if value is not ...})
    path.write_text("\n".join(lines) + "\n")


def test_files_are_found_in_a_checkout_and_a_package(copied: Path) -> None:
    for path in (copied, copied.parent, copied.parents[1], copied.parents[2]):
        assert data.load(path, "multiple") == data.load(data.MINI, "multiple")
    with pytest.raises(ValueError, match="there is no such folder: give a checkout"):
        data.find(copied / "nowhere")
    with pytest.raises(
        ValueError, match=r"no files BFCL_v3_\*\.json .*pip install --no-deps bfcl-ev"
    ):
        data.find(copied.parents[3] / "gorilla/..")
    with pytest.raises(ValueError, match=r"no files BFCL_v4_\*\.json"):
        data.find(copied, "v4")


def test_the_names_tell_the_version(copied: Path) -> None:
    for file in ("BFCL_v3_java.json", "possible_answer/BFCL_v3_java.json"):
        target = (copied / file).with_name("BFCL_v4_simple_java.json")
        shutil.copy(copied / file, target)
    with pytest.raises(ValueError, match="holds v3 and v4: say which version to read"):
        data.find(copied)
    assert data.load(copied, "java", "v4")[0].category == "simple_java"
    assert data.load(copied, "simple_java", "v3")[0].category == "java"


TOOL = {"name": "f", "description": "d", "parameters": {"properties": {}, "required": []}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ...}, r"BFCL_v3_simple.json:2: id: is missing: fetch the file again"),
        ({"id": 5}, r"simple.json:2: id: is no str"),
        ({"id": "simple_0"}, r"simple.json:2: id: is 'simple_0' again, as on line 1: remove one"),
        (
            {"id": "new"},
            r"2: id: is 'new', which possible_answer/BFCL_v3_simple.json does not have",
        ),
        ({"question": []}, r"simple.json:2: question: has another form: give \[\[\{role, content"),
        ({"question": [[{"role": "user"}]]}, r"simple.json:2: question: has another form"),
        ({"function": "f"}, r"simple.json:2: function: is no list"),
        ({"function": [TOOL, TOOL | {"name": 1}]}, r"simple.json:2: function\[1\]: has another"),
        ({"function": [{"name": "f"}]}, r"simple.json:2: function\[0\]: has another form"),
    ],
)
def test_a_mistake_in_a_question(copied: Path, changes: dict[str, Any], message: str) -> None:
    damage(copied / "BFCL_v3_simple.json", 2, **changes)
    with pytest.raises(ValueError, match=message) as error:
        data.load(copied, "simple")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ground_truth": ...}, r"possible_answer/BFCL_v3_java.json:3: ground_truth: is missing"),
        ({"ground_truth": []}, r"json:3: ground_truth: has another form: give a list of \{tool:"),
        ({"ground_truth": [{"f": {"x": 1}}]}, r"json:3: ground_truth: has another form"),
        ({"ground_truth": [{}]}, r"json:3: ground_truth: has another form"),
        ({"id": "java_0"}, r"json:3: id: is 'java_0' again, as on line 1"),
        ({"id": "new"}, r"BFCL_v3_java.json:3: id: is 'java_2', which possible_answer/"),
    ],
)
def test_a_mistake_in_an_answer(copied: Path, changes: dict[str, Any], message: str) -> None:
    damage(copied / "possible_answer/BFCL_v3_java.json", 3, **changes)
    with pytest.raises(ValueError, match=message):
        data.load(copied, "java")


def test_files_that_are_broken_or_absent(copied: Path) -> None:
    path = copied / "possible_answer/BFCL_v3_parallel.json"
    with path.open("a") as file:
        file.write('{"id": "spare", "ground_truth": [{"f": {}}]}\n')
    with pytest.raises(ValueError, match=r"json:6: id: is 'spare', which BFCL_v3_parallel.json do"):
        data.load(copied, "parallel")
    for text in ('{"id": ', "[" * 100_000, "\udcff"):
        path.write_text("\n" + text, errors="surrogateescape")
        with pytest.raises(ValueError, match=r"parallel.json:2: row: is not JSON \("):
            data.load(copied, "parallel")
    path.write_text("5")
    with pytest.raises(ValueError, match=r"parallel.json:1: row: is no object"):
        data.load(copied, "parallel")
    path.unlink()
    with pytest.raises(ValueError, match=r"parallel.json: there is no such file: take the whole"):
        data.load(copied, "parallel")
    with pytest.raises(ValueError, match="'smiple' is none of BFCL v3"):
        data.load(copied, "smiple")


def score(entries: list[Entry], version: Version = "v3") -> tuple[int, float]:
    """How many of the entries' own answers are right, and the seconds for prompts and verdicts."""
    texts = [spoken(solved(entry)) for entry in entries]
    started = time.perf_counter()
    right = 0
    for entry, text in zip(entries, texts, strict=True):
        prompt.render(entry.turns[0], prompt.hinted(entry.tools, entry.category))
        right += verdict(entry, text, version)
    return right, time.perf_counter() - started


def test_as_many_entries_as_bfcl_has_take_seconds() -> None:
    bundled = [entry for category in SINGLE for entry in data.load(data.MINI, category)]
    entries = [bundled[index % len(bundled)] for index in range(3641)]
    right, seconds = score(entries)
    assert right == 3641 - sum(entry.category == "live_relevance" for entry in entries)
    assert seconds < 10


@pytest.mark.skipif("STAR_JAX_BFCL" not in os.environ, reason="STAR_JAX_BFCL names no BFCL data")
def test_a_users_copy_of_bfcl_is_scored_in_seconds() -> None:
    path = os.environ["STAR_JAX_BFCL"]
    version = data.find(path).version
    names = categories.groups(version)["single_turn"]
    entries = [entry for category in names for entry in data.load(path, category)]
    assert len(entries) == sum(categories.SIZES[version][name] for name in names) == 3641
    right, seconds = score(entries, version)
    # Made from the answers by the simple rules above, some fail; a model's do, too.
    assert right > 3200
    assert seconds < 10
