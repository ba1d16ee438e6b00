"""Multi-turn dialogues over the small source that comes along: verdicts, the loop, the files."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from star_jax.evals.bfcl import multi_turn
from star_jax.evals.bfcl.multi_turn import CATEGORIES, MINI, Sandbox, check, classes, loop
from star_jax.evals.verdict import Verdict


@pytest.fixture(scope="module")
def apis() -> Iterator[Sandbox]:
    with Sandbox(MINI) as sandbox:
        yield sandbox


def entry(name: str) -> dict[str, Any]:
    found = multi_turn.entries(multi_turn.find(MINI), name.rpartition("_")[0])
    return next(row for row in found if row["id"] == name)


ENTRIES = [row["id"] for name in CATEGORIES for row in multi_turn.entries(classes.find(MINI), name)]


def said(name: str, **arguments: object) -> str:
    """A call as a model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def as_v4(folder: Path) -> Path:
    """The small source under the names of v4."""
    shutil.copytree(MINI, folder)
    for file in folder.rglob("BFCL_v3_*"):
        file.rename(file.with_name(file.name.replace("_v3_", "_v4_")))
    return folder


# Verdicts.


@pytest.mark.parametrize("name", ENTRIES)
def test_an_answer_is_right_and_none_is_wrong(name: str, apis: Sandbox) -> None:
    row = entry(name)
    assert check([[turn] for turn in row["ground_truth"]], row, apis) == Verdict(valid=True)
    wrong = check([[] for _ in row["ground_truth"]], row, apis)
    assert wrong.error_type == "multi_turn:empty_turn_model_response"


ANSWER = [
    [["list_notes()"]],
    [["open_note(title='shopping')"], ["append_text(text=', butter')", "pin_note('shopping')"]],
    [["search(word='tent')"]],
]


def changed(turn: int, steps: list[list[str]]) -> list[list[list[str]]]:
    return [*ANSWER[:turn], steps, *ANSWER[turn + 1 :]]


@pytest.mark.parametrize(
    ("decoded", "error_type", "told"),
    [
        (ANSWER, None, ()),
        (ANSWER[:2], "force_terminated", ("2 turns, expected 3",)),
        ([*ANSWER, []], "force_terminated", ("4 turns, expected 3",)),
        (changed(2, []), "empty_turn_model_response", ("turn 2: no call, though one is due",)),
        (changed(2, [[]]), "empty_turn_model_response", ("turn 2: no call, though one is due",)),
        # Two empty steps are taken for an answer, and miss its results.
        (
            changed(2, [[], []]),
            "execution_response_mismatch",
            ("turn 2: no call so far returned trip",),
        ),
        (
            changed(1, [["open_note(title='shopping')", "pin_note('shopping')"]]),
            "instance_state_mismatch",
            (
                "turn 1: NoteKeeper differs in notes",
                "NoteKeeper.notes['shopping'] is 'bread', expected 'bread, butter'",
            ),
        ),
        (
            changed(0, [["list_notes()", "add_note('a')", "pin_note('a')"]]),
            "instance_state_mismatch",
            (
                "turn 0: NoteKeeper differs in notes, pinned",
                "NoteKeeper.notes['a'] is '', expected missing",
                "NoteKeeper.pinned is a list of 2, expected a list of 1",
            ),
        ),
        # Extra calls that change nothing public are free, and failures are.
        (changed(0, [["open_note('trip')"], ["nothing()"], ["list_notes()"]]), None, ()),
        # A result of an earlier turn counts, though a call of this turn is due.
        (
            [[["search('tent')", "list_notes()"]], ANSWER[1], [["list_notes()"]]],
            None,
            (),
        ),
    ],
)
def test_what_is_wrong_is_told(
    decoded: list[Any], error_type: str | None, told: tuple[str, ...], apis: Sandbox
) -> None:
    verdict = check(decoded, entry("multi_turn_base_0"), apis)
    assert verdict.error_type == (error_type and f"multi_turn:{error_type}")
    assert verdict.error == told
    assert verdict.valid == (error_type is None)


def test_a_result_is_due_as_often_as_the_answer_has_it(apis: Sandbox) -> None:
    row = entry("multi_turn_base_0")
    row["ground_truth"][2] *= 2
    assert not check(ANSWER, row, apis).valid
    assert check(changed(2, [["search('tent')", "search('tent')"]]), row, apis).valid


def test_a_turn_without_an_answer_is_performed_and_not_judged(apis: Sandbox) -> None:
    row = entry("multi_turn_miss_param_0")
    answer = [[turn] for turn in row["ground_truth"]]
    assert check([[["search('tent')"]], *answer[1:]], row, apis).valid
    # A guess draws a number: the link of the right call is another one, but the guess was it.
    guess = ["share_note(title='trip', with_whom='Cleo')"]
    assert check([[guess], *answer[1:]], row, apis).valid
    assert not check([[["share_note('trip', 'nobody')"]], *answer[1:]], row, apis).valid
    spoiled = check([[["add_note('x')"]], *answer[1:]], row, apis)
    assert spoiled.error[0] == "turn 1: NoteKeeper differs in notes"


def test_scorings_do_not_feel_each_other(apis: Sandbox) -> None:
    row = entry("multi_turn_base_1")
    answer = [[turn] for turn in row["ground_truth"]]
    before = copy.deepcopy(row)
    assert [check(answer, row, apis).valid for _ in range(3)] == [True] * 3
    assert row == before
    long = entry("multi_turn_long_context_0")
    titles = apis.run(long, [["add_note('new')", "list_notes()"]]).results[0][1]
    assert "old list 099" in titles
    assert "new" not in apis.run(long, [["list_notes()"]]).results[0][0]


@pytest.mark.parametrize("decoded", [None, "text", 5, [None], [["ls()"]], [[None], [], []], {}])
def test_what_is_no_dialogue_is_an_error_of_inference(decoded: object, apis: Sandbox) -> None:
    verdict = check(decoded, entry("multi_turn_base_0"), apis)
    assert (verdict.valid, verdict.error_type) == (False, "multi_turn:inference_error")


# The loop.


def test_a_dialogue_goes_on_until_its_turns_are_over(apis: Sandbox) -> None:
    row = entry("multi_turn_base_0")
    dialogue = multi_turn.start(row, apis)
    assert list(dialogue.messages) == row["question"][0]
    assert [tool["name"] for tool in dialogue.tools][:2] == ["list_notes", "open_note"]
    hint = " Note that the provided function is in Python 3 syntax."
    assert all(tool["description"].endswith(hint) for tool in dialogue.tools)

    texts = [
        f"<think>\nLook.\n</think>\n\n{said('list_notes')}",
        "Three notes.",
        said("open_note", title="shopping"),
        f"{said('append_text', text=', butter')}\n{said('pin_note', title='shopping')}",
        "Done.",
        said("search", word="tent"),
        "The trip.",
    ]
    states = [dialogue]
    for text in texts:
        states.append(multi_turn.advance(states[-1], text))
    assert [state.turn for state in states] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert [state.ended for state in states] == [None] * 7 + ["finished"]
    assert [dict(message) for message in states[2].messages[1:]] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "list_notes", "arguments": {}}],
            "reasoning_content": "Look.",
        },
        {
            "role": "tool",
            "name": "list_notes()",
            "content": '{"titles": ["shopping", "trip", "ideas"]}',
        },
        {"role": "assistant", "content": "Three notes.", "reasoning_content": ""},
        *row["question"][1],
    ]
    answers = [message for message in states[4].messages if message["role"] == "tool"]
    assert [one["name"] for one in answers[2:]] == [
        "append_text(text=', butter')",
        "pin_note(title='shopping')",
    ]
    # The note opened a step before is still the one open.
    assert answers[2]["content"] == '{"length": 13}'
    assert multi_turn.verdict(states[-1]) == Verdict(valid=True)
    # States are values: each can be continued, and made again from its texts.
    assert multi_turn.advance(states[3], texts[3]).messages == states[4].messages
    kept = json.loads(json.dumps(states[-1].texts))
    assert multi_turn.resume(row, apis, kept) == states[-1]
    with pytest.raises(ValueError, match=r"the dialogue is over \(finished\)"):
        multi_turn.advance(states[-1], "more")
    with pytest.raises(ValueError, match="has not ended"):
        multi_turn.verdict(states[3])


def test_a_withheld_function_is_shown_where_a_message_would_be(apis: Sandbox) -> None:
    row = entry("multi_turn_miss_func_0")
    dialogue = multi_turn.start(row, apis)
    document = next(
        one for one in multi_turn.documents(apis.source, "NoteKeeper") if one["name"] == "pin_note"
    )
    assert "pin_note" not in [tool["name"] for tool in dialogue.tools]
    for text in (said("open_note", title="ideas"), "It says so.", "I cannot."):
        dialogue = multi_turn.advance(dialogue, text)
    more = "I have updated some more functions you can choose from. What about now?"
    assert dialogue.messages[-1] == {"role": "user", "content": f"{[document]}\n{more}"}
    assert "pin_note" not in [tool["name"] for tool in dialogue.tools]
    pinned = said("list_notes", only_pinned=True)
    for text in (said("pin_note", title="ideas"), "Done.", pinned, "Two."):
        dialogue = multi_turn.advance(dialogue, text)
    assert multi_turn.verdict(dialogue) == Verdict(valid=True)


@pytest.mark.parametrize("last", [False, True])
def test_twenty_one_steps_end_a_dialogue(last: bool, apis: Sandbox) -> None:
    row = entry("multi_turn_base_0")
    dialogue = multi_turn.resume(row, apis, ["no", "no"] if last else [])
    if last:  # so that the last turn alone counts
        row["ground_truth"][:2] = [[], []]
    for _ in range(loop.MAX_STEPS):
        dialogue = multi_turn.advance(dialogue, said("search", word="tent"))
        assert dialogue.ended is None
    dialogue = multi_turn.advance(dialogue, said("search", word="tent"))
    assert dialogue.ended == "forced"
    assert len(dialogue.decoded[-1]) == 21
    # In the last turn nobody notices.
    wrong = None if last else "multi_turn:force_terminated"
    assert multi_turn.verdict(dialogue).error_type == wrong


def test_a_call_inside_the_thoughts_is_written_and_not_performed(apis: Sandbox) -> None:
    dialogue = multi_turn.start(entry("multi_turn_base_0"), apis)
    text = f"<think>\nPerhaps {said('list_notes')}?\n</think>\n\nNo."
    dialogue = multi_turn.advance(dialogue, text)
    assert dialogue.decoded == ((), ())
    assert dialogue.messages[1]["tool_calls"] == [{"name": "list_notes", "arguments": {}}]
    assert dialogue.messages[1]["content"] == ""


@pytest.mark.parametrize(
    ("arguments", "performed"),
    [
        ({"word": "tent"}, True),
        ('{"word": "tent"}', True),
        ('"word"', False),
        ("{", False),
        (None, False),
        ([], False),
    ],
)
def test_arguments_may_be_json_in_a_string(
    arguments: object, performed: bool, apis: Sandbox
) -> None:
    body = json.dumps({"name": "search", "arguments": arguments})
    text = f"<tool_call>\n{body}\n</tool_call>"
    dialogue = multi_turn.advance(multi_turn.start(entry("multi_turn_base_0"), apis), text)
    calls = (({"name": "search", "arguments": {"word": "tent"}},),)
    assert dialogue.decoded[0] == (calls if performed else ())
    assert dialogue.ended is None


BROKEN = '<tool_call>\n{"name": "search", \n</tool_call>'


def test_what_v3_cannot_print_loses_the_entry(apis: Sandbox, tmp_path: Path) -> None:
    row = entry("multi_turn_base_0")
    both = f"{said('list_notes')}\n{BROKEN}"
    lost = multi_turn.advance(multi_turn.start(row, apis), both)
    assert lost.ended == "inference_error"
    verdict = multi_turn.verdict(lost)
    assert verdict.error_type == "multi_turn:inference_error"
    assert verdict.error == ("a tool call is no JSON object",)
    # Nothing is printed after the last turn.
    ended = multi_turn.advance(multi_turn.resume(row, apis, ["no", "no"]), both)
    assert ended.ended == "finished"
    with Sandbox(as_v4(tmp_path / "v4")) as newer:
        kept = multi_turn.advance(multi_turn.start(row, newer), both)
    assert kept.ended is None
    assert kept.messages[-1]["content"] == '{"titles": ["shopping", "trip", "ideas"]}'


def test_a_dialogue_can_be_given_up(apis: Sandbox) -> None:
    dialogue = multi_turn.give_up(multi_turn.start(entry("multi_turn_base_0"), apis), "too long")
    assert multi_turn.verdict(dialogue) == Verdict(
        valid=False, error_type="multi_turn:inference_error", error=("too long",)
    )


# The files.


def test_loading_leaves_no_trace(tmp_path: Path) -> None:
    folder = as_v4(tmp_path / "source")
    files = sorted(folder.rglob("*"))
    modules = set(sys.modules)
    older, newer = (classes.Library(classes.find(path)) for path in (MINI, folder))
    config = entry("multi_turn_base_0")["initial_config"]
    made = [
        classes.World(library).objects(["NoteKeeper"], config, False)["NoteKeeper"]
        for library in (older, newer)
    ]
    assert [library.source.version for library in (older, newer)] == ["v3", "v4"]
    assert type(made[0]) is not type(made[1])
    assert type(made[1]).__module__ == "bfcl_v4.note_keeper"
    assert {name for name in set(sys.modules) - modules if "note_keeper" in name} == set()
    assert sorted(folder.rglob("*")) == files
    assert config == entry("multi_turn_base_0")["initial_config"]


@pytest.mark.parametrize(
    "place", [".", "bfcl_eval", "berkeley-function-call-leaderboard/bfcl_eval"]
)
def test_a_source_is_found_where_people_have_it(place: str, tmp_path: Path) -> None:
    root = tmp_path / place if place != "." else tmp_path / "itself"
    shutil.copytree(MINI, root)
    assert classes.find(root if place == "." else tmp_path).root == root.resolve()


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: does not exist; give the folder that `pip"):
        Sandbox(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no multi-turn classes"):
        Sandbox(tmp_path)
    file = tmp_path / "bfcl_eval.whl"
    file.touch()
    with pytest.raises(ValueError, match="is a file"):
        Sandbox(file)
    folder = as_v4(tmp_path / "v4")
    (folder / "data" / "BFCL_v4_multi_turn_base.json").unlink()
    with pytest.raises(ValueError, match=r"has no BFCL_v3_multi_turn_base.json or BFCL_v4"):
        Sandbox(folder)


CODE = "eval_checker/multi_turn_eval/func_source_code"


def test_a_broken_source_says_what_is_broken(tmp_path: Path) -> None:
    folder = as_v4(tmp_path / "v4")
    row = entry("multi_turn_base_0")
    document = folder / "data/multi_turn_func_doc/note_keeper.json"
    document.write_text("{}\n")
    code = folder / CODE / "note_keeper.py"
    kept = code.read_text()
    with Sandbox(folder) as apis:
        with pytest.raises(ValueError, match=r"note_keeper.json:1: is no object with name and"):
            multi_turn.start(row, apis)
        document.unlink()
        with pytest.raises(ValueError, match=r"note_keeper.json: cannot be read \(No such file"):
            multi_turn.start(row, apis)
        code.write_text("import mpmath_of_old\n" + kept.replace("from __future__", "#"))
        with pytest.raises(ValueError, match="which is not installed: pip install mpmath_of_old"):
            apis.run(row, [])
    code.write_text("class NoteKeeper:\n    def")
    with Sandbox(folder) as apis, pytest.raises(ValueError, match=r"py: is no Python"):
        apis.run(row, [])
    code.write_text("")
    with Sandbox(folder) as apis, pytest.raises(ValueError, match="defines class 'NoteKeeper'"):
        apis.run(row, [])


def judged(row: dict[str, Any], apis: Sandbox) -> None:
    check(ANSWER, row, apis)
    multi_turn.start(row, apis)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("id", None, "entry: id is None"),
        ("involved_classes", "NoteKeeper", "entry multi_turn_base_0: involved_classes is"),
        ("initial_config", [], "entry multi_turn_base_0: initial_config is"),
        (
            "initial_config",
            {"NoteKeeper": []},
            "entry multi_turn_base_0: initial_config of NoteKeeper cannot be loaded",
        ),
        ("ground_truth", "ls()", "ground_truth is no list of turns"),
        ("involved_classes", ["File"], "no file defines class 'File'"),
        ("question", [], "question is no list of turns"),
        ("missed_function", {"0": ["pin_note"]}, "names turn '0', which is no turn without"),
        ("missed_function", {"9": ["pin_note"]}, "names turn '9', which is no turn without"),
        ("missed_function", ["pin_note"], "give names by turn"),
    ],
)
def test_a_broken_entry_is_refused(field: str, value: object, told: str, apis: Sandbox) -> None:
    row = {**entry("multi_turn_base_0"), field: value}
    with pytest.raises(ValueError, match=told):
        judged(row, apis)


def test_an_unknown_withheld_function_is_refused(apis: Sandbox) -> None:
    row = {**entry("multi_turn_miss_func_0"), "missed_function": {"2": ["burn_note"]}}
    with pytest.raises(ValueError, match="'burn_note' is no function of its classes"):
        multi_turn.start(row, apis)


def test_entries_say_which_line_is_broken(tmp_path: Path) -> None:
    source = classes.find(as_v4(tmp_path / "v4"))
    with pytest.raises(ValueError, match="'simple' is no multi-turn category; give one of multi_"):
        multi_turn.entries(source, "simple")
    file = source.data / "BFCL_v4_multi_turn_base.json"
    file.write_text(file.read_text() + "{\n")
    with pytest.raises(ValueError, match=r"multi_turn_base.json:3: is no JSON"):
        multi_turn.entries(source, "multi_turn_base")
    file.write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match=r"multi_turn_base.json:1: is no object with an id"):
        multi_turn.entries(source, "multi_turn_base")
    file.write_text('{"id": "multi_turn_base_9"}\n')
    with pytest.raises(ValueError, match="has no ground_truth for multi_turn_base_9"):
        multi_turn.entries(source, "multi_turn_base")
