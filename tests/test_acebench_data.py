"""ACEBench's files, its prompts to the letter, and its averages to the third decimal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from star_jax.evals import acebench
from star_jax.evals.acebench.data import ATOM, MULTI_TURN, SINGLE_TURN, from_row
from tests.test_acebench import cases, spelled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose files may be broken."""
    shutil.copytree(acebench.MINI, tmp_path / "ace")
    return tmp_path / "ace"


def file(root: Path, category: str, answers: bool = False) -> Path:
    folder = root / "data_all" / "data_en"
    return (folder / "possible_answer" if answers else folder) / f"data_{category}.json"


# --- the files ---------------------------------------------------------------


def test_the_miniature_is_complete_and_can_be_won() -> None:
    entries = acebench.read(acebench.MINI)
    counts = {name: sum(entry.category == name for entry in entries) for name in acebench.NORMAL}
    assert counts == {name: 4 if name in MULTI_TURN else 3 for name in acebench.NORMAL}
    valid: dict[str, dict[str, bool]] = {name: {} for name in acebench.NORMAL}
    for entry in entries:
        answer = entry.possible_answer
        for alternative in answer if isinstance(answer, list) else [answer]:
            assert acebench.check(spelled(alternative), entry).valid, entry.id
        assert not acebench.check("[nothing(a=1)]", entry).valid
        assert entry.id not in valid[entry.category]
        valid[entry.category][entry.id] = True
    scores = acebench.aggregate(valid)
    assert scores.normal == scores.atom == scores.single_turn == scores.multi_turn == 1
    assert scores.answered["normal_multi_turn_user_switch"] == 4
    # Steps of two dialogues each, and every entry has either a time or a profile.
    assert {entry.id for entry in entries if entry.category == MULTI_TURN[0]} == {
        f"normal_multi_turn_user_switch_{dialogue}_{step}" for dialogue in (0, 1) for step in (0, 1)
    }
    assert all(bool(entry.profile) == (entry.category == "normal_preference") for entry in entries)


def test_some_categories_in_the_order_asked_for() -> None:
    entries = acebench.read(acebench.MINI, "en", ["normal_similar_api", "normal_atom_bool"])
    assert [entry.id for entry in entries] == [
        f"normal_{name}_{n}" for name in ("similar_api", "atom_bool") for n in range(3)
    ]
    assert [entry.line for entry in entries] == [1, 2, 3, 1, 2, 3]


def test_chinese_files_are_read(root: Path) -> None:
    (root / "data_all" / "data_en").rename(root / "data_all" / "data_zh")
    assert {entry.language for entry in acebench.read(root, "zh")} == {"zh"}
    with pytest.raises(ValueError, match=r"data_en: there is no such folder: give the root"):
        acebench.read(root, "en")


def put(path: Path, line: int, **fields: Any) -> None:
    rows = path.read_text("utf-8").splitlines()
    row = json.loads(rows[line - 1]) | fields
    rows[line - 1] = json.dumps({key: value for key, value in row.items() if value is not ...})
    path.write_text("\n".join(rows) + "\n", "utf-8")


BOOL = "normal_atom_bool"


@pytest.mark.parametrize(
    ("answers", "fields", "where"),
    [
        (False, {"id": ...}, "data_normal_atom_bool.json:2: id: is missing: make it a text"),
        (False, {"id": 7}, "data_normal_atom_bool.json:2: id: is 7: make it a text"),
        (
            False,
            {"id": "normal_atom_bool_0"},
            "data_normal_atom_bool.json:2: id: is 'normal_atom_bool_0' again, as on line 1: "
            "remove one",
        ),
        (False, {"question": ["x"]}, "json:2: question: is ['x']: make it a text"),
        (False, {"time": 12}, "json:2: time: is 12: make it a text"),
        (False, {"function": ...}, "json:2: function: is missing: make it a list of tools"),
        (False, {"function": [5]}, "json:2: function[0]: is 5: make it an object with a name"),
        (True, {"ground_truth": "f()"}, "possible_answer/data_normal_atom_bool.json:2: ground_"),
        (True, {"ground_truth": ...}, "json:2: ground_truth: is missing: make it an object of"),
        (
            True,
            {"id": "other"},
            "json:2: id: is 'other', its question's is 'normal_atom_bool_1': put both files in",
        ),
    ],
)
def test_a_bad_row_is_told_with_its_line(
    root: Path, answers: bool, fields: dict[str, Any], where: str
) -> None:
    put(file(root, BOOL, answers), 2, **fields)
    with pytest.raises(ValueError, match=re.escape(where)) as told:
        acebench.read(root, "en", [BOOL])
    assert "\n" not in str(told.value)


def test_a_file_that_is_none(root: Path) -> None:
    path = file(root, BOOL)
    text = path.read_text("utf-8")
    path.write_text(text + "\n\n", "utf-8")  # empty lines do no harm
    assert len(acebench.read(root, "en", [BOOL])) == 3
    path.write_text(text + "{", "utf-8")
    with pytest.raises(ValueError, match=r"bool\.json:4: is no JSON \(Expecting .*: fetch the"):
        acebench.read(root, "en", [BOOL])
    path.write_text("[1]\n" + text, "utf-8")
    with pytest.raises(ValueError, match=r"bool\.json:1: is no JSON object: write one object on"):
        acebench.read(root, "en", [BOOL])
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match=r"bool\.json:1: is no JSON \("):
        acebench.read(root, "en", [BOOL])
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(ValueError, match=r"bool\.json:1: is no JSON \("):
        acebench.read(root, "en", [BOOL])
    path.write_text(text.splitlines()[0], "utf-8")
    with pytest.raises(ValueError, match=r"bool\.json: has 3 rows, data_.*\.json has 1: fetch"):
        acebench.read(root, "en", [BOOL])
    path.unlink()
    with pytest.raises(ValueError, match=r"bool\.json: there is no such file: give the root of"):
        acebench.read(root, "en", [BOOL])


def test_a_step_has_to_name_its_dialogue(root: Path) -> None:
    for answers in (False, True):
        put(file(root, MULTI_TURN[0], answers), 2, id="seven")
    with pytest.raises(ValueError, match="'seven' names no dialogue: it should end in _<dialogue>"):
        acebench.read(root, "en", [MULTI_TURN[0]])


def test_what_is_no_category_or_language() -> None:
    with pytest.raises(ValueError, match="category 'atom_bool' is none of normal_single_turn_"):
        acebench.read(acebench.MINI, "en", ["atom_bool"])
    with pytest.raises(ValueError, match="language is 'de': use 'en' or 'zh'"):
        acebench.read(acebench.MINI, "de")  # ty: ignore[invalid-argument-type]


# --- the prompts -------------------------------------------------------------


def test_prompts_are_the_official_ones(shared: Path) -> None:
    rows = cases(shared, "acebench_prompt_cases.jsonl")
    assert len(rows) == 10
    for row in rows:
        assert acebench.messages(from_row(row | {"possible_answer": {}})) == row["messages"]


def test_a_prompt_holds_what_the_entry_says() -> None:
    first, *_, last = acebench.read(acebench.MINI, "en", ["normal_atom_enum", "normal_preference"])
    system, user = acebench.messages(first)
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"].endswith(f"\nAPI Specifications:\n{first.tools!r}")
    assert user["content"] == f"Conversation history 1..t:\n{first.question}"
    system, _ = acebench.messages(last)
    assert f"\nCharacter Profile:\n{last.profile}\n" in system["content"]
    assert system["content"].endswith(f"\nAPI Description:\n{last.tools!r}")


TEMPLATES = '''
import os
os.mkdir("ran")
OTHER = 5
SYSTEM_PROMPT_FOR_NORMAL_DATA_ZH = """常 {time} {function}"""
SYSTEM_PROMPT_FOR_PREFERENCE_DATA_ZH = """好 {profile} {function}"""
USER_PROMPT_ZH = """史 {question}"""
'''


def test_chinese_prompts_come_from_a_checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "data_all" / "data_en").rename(root / "data_all" / "data_zh")
    first, *_, last = acebench.read(root, "zh", ["normal_atom_enum", "normal_preference"])
    with pytest.raises(ValueError, match=r"the prompts in 'zh' do not come along: pass templates="):
        acebench.messages(first)
    monkeypatch.chdir(root)
    path = root / "model_inference" / "prompt_zh.py"
    with pytest.raises(ValueError, match=r"prompt_zh\.py: there is no such file: give the root of"):
        acebench.read_templates(root, "zh")
    path.parent.mkdir()
    path.write_text(TEMPLATES, "utf-8")
    chinese = acebench.read_templates(root, "zh")
    assert not (root / "ran").exists()
    system, user = acebench.messages(first, chinese)
    assert system["content"] == f"常 {first.time} {first.tools}"
    assert user["content"] == f"史 {first.question}"
    assert acebench.messages(last, chinese)[0]["content"] == f"好 {last.profile} {last.tools}"
    with pytest.raises(ValueError, match="is in 'en', the templates in 'zh': read those of 'en'"):
        acebench.messages(acebench.read(acebench.MINI)[0], chinese)
    path.write_text(TEMPLATES.replace("USER_", "SUER_"), "utf-8")
    with pytest.raises(ValueError, match=r"prompt_zh\.py: does not define USER_PROMPT_ZH: fetch"):
        acebench.read_templates(root, "zh")
    path.write_text("(", "utf-8")
    with pytest.raises(ValueError, match=r"prompt_zh\.py: is no Python \("):
        acebench.read_templates(root, "zh")


def test_the_prompts_carry_their_licence() -> None:
    folder = acebench.MINI.parent
    texts = json.loads((folder / "prompt_en.json").read_text("utf-8"))
    licence = "\n".join(texts["license"])
    assert "MIT License" in licence
    assert "Copyright (c) Microsoft Corporation." in licence
    assert "The above copyright notice and this permission notice shall be included" in licence


# --- the averages ------------------------------------------------------------


def verdicts(category: str, right: int, answered: int) -> dict[str, bool]:
    return {f"{category}_{n}": n < right for n in range(answered)}


def dialogues(category: str, *steps: str) -> dict[str, bool]:
    """One text per dialogue: + is a right step."""
    return {
        f"{category}_{d}_{s}": sign == "+"
        for d, text in enumerate(steps)
        for s, sign in enumerate(text)
    }


def test_a_dialogue_is_right_where_all_its_steps_are() -> None:
    switch, adjust = MULTI_TURN
    scores = acebench.aggregate(
        {switch: dialogues(switch, "++", "+-+", "-", "+"), adjust: dialogues(adjust, "-+", "++-")}
    )
    assert scores.accuracy == {switch: 0.5, adjust: 0.0}
    # (1 + 0.667 + 0 + 1) / 4: each dialogue's share is rounded before the mean.
    assert scores.process_accuracy == {switch: 0.667, adjust: 0.584}
    assert scores.multi_turn == 0.25
    assert scores.right == {switch: 5, adjust: 3}
    assert scores.answered == {switch: 7, adjust: 5}


def test_a_dialogue_ends_where_another_begins() -> None:
    switch = MULTI_TURN[0]
    ids = ("x_0_0", "x_1_0", "x_0_1")  # officially, the steps of a dialogue stand together
    assert acebench.aggregate({switch: dict.fromkeys(ids, True) | {"x_0_1": False}}).accuracy == {
        switch: 0.667
    }


def test_normal_is_the_unweighted_mean_of_twelve() -> None:
    valid = {name: verdicts(name, 1, 3) for name in acebench.NORMAL if name not in MULTI_TURN}
    valid |= {name: dialogues(name, "+", "-") for name in MULTI_TURN}
    scores = acebench.aggregate(valid)
    assert set(scores.accuracy.values()) == {0.333, 0.5}
    assert scores.normal == round((10 * 0.333 + 2 * 0.5) / 12, 3) == 0.361
    assert (scores.atom, scores.single_turn, scores.multi_turn) == (0.333, 0.333, 0.5)
    assert scores.overall == round(0.578 * 0.361, 3)
    assert len(acebench.NORMAL) == 12
    assert len(ATOM) == 6
    assert len(SINGLE_TURN) == 2


def added(shares: list[float]) -> float:
    total = 0.0
    for share in shares:
        total += share
    return round(total / 12, 3)


def test_the_sum_is_taken_in_the_official_order() -> None:
    # The mean is 0.6475: which way it is rounded hangs on the order of the sum.
    order = [*SINGLE_TURN, *MULTI_TURN, "normal_similar_api", "normal_preference"]
    order += [f"normal_atom_{name}" for name in ("bool", "enum", "number", "list")]
    order += ["normal_atom_object_deep", "normal_atom_object_short"]
    right = [66, 49, 41, 58, 67, 89, 66, 95, 47, 42, 78, 79]
    valid = {
        name: dialogues(name, *("+" * n + "-" * (100 - n)))
        if name in MULTI_TURN
        else verdicts(name, n, 100)
        for name, n in zip(order, right, strict=True)
    }
    shares = [n / 100 for n in right]
    assert added(shares) == 0.647
    for other in (shares[::-1], sorted(shares), shares[6:] + shares[:6]):
        assert added(other) == 0.648
    for given in (valid, dict(reversed(valid.items()))):
        assert acebench.aggregate(given).normal == 0.647


def test_overall_and_what_is_missing() -> None:
    special = dict.fromkeys(("special_incomplete", "special_error_param"), 0.8)
    scores = acebench.aggregate(
        {"normal_similar_api": verdicts("s", 1, 2)}, special, {"agent_multi_step": 0.5}
    )
    assert (scores.special, scores.normal, scores.agent) == (0.533, 0.042, 0.25)
    assert scores.overall == round(0.533 * 0.2676 + 0.042 * 0.578 + 0.25 * 0.1545, 3)
    assert "normal_similar_api" not in scores.missing
    assert {"normal_preference", "special_irrelevant", "agent_multi_turn"} < set(scores.missing)
    assert len(scores.missing) == 13


def test_what_cannot_be_averaged() -> None:
    with pytest.raises(ValueError, match="category 'atom' is none of normal_single"):
        acebench.aggregate({"atom": {"x": True}})
    with pytest.raises(ValueError, match="category 'irrelevant' is none of special_incomplete"):
        acebench.aggregate({}, special={"irrelevant": 1.0})
    with pytest.raises(ValueError, match="normal_similar_api: no answer was judged: leave the"):
        acebench.aggregate({"normal_similar_api": {}})
    with pytest.raises(ValueError, match="id 'x' names no dialogue"):
        acebench.aggregate({MULTI_TURN[0]: {"x": True}})
