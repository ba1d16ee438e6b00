"""No call executes what it should not, hangs, or raises: what a model writes is untrusted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.evals.bfcl import multi_turn
from star_jax.evals.bfcl.multi_turn import MINI, Sandbox, check, decoding, differences

ROW: dict[str, Any] = multi_turn.entries(multi_turn.find(MINI), "multi_turn_base")[0]
FAILED = "Error during execution: "


@pytest.fixture(scope="module")
def apis() -> Iterator[Sandbox]:
    with Sandbox(MINI, call_s=0.3) as sandbox:
        yield sandbox


def results(apis: Sandbox, *calls: object) -> list[str]:
    return apis.run(ROW, [calls]).results[0]


def said(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


def called(name: object, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (called("remove", title="trip"), "Function call remove is not allowed."),
        ("remove(title='trip')", "Function call remove is not allowed."),
        (called("os.unlink", path="/tmp/x"), "Function call unlink is not allowed."),
        (called("NoteKeeper.list_notes"), "name 'NoteKeeper' is not defined"),
        (called("print", x=1), "name 'print' is not defined"),
        (called("notes"), "name 'notes' is not defined"),
        (called("_load_scenario", scenario={}), "name '_load_scenario' is not defined"),
        (called("__init__"), "name '__init__' is not defined"),
        (called("__class__"), "name '__class__' is not defined"),
        ("list_notes.__func__()", "name 'list_notes' is not defined"),
        ("__import__('os').system('touch x')", "name \"__import__('os')\" is not defined"),
        ("search(word=open('x', 'w'))", "the arguments of a call are literals"),
        ("search(word=[1 for _ in range(9)])", "the arguments of a call are literals"),
        ("search(**{'word': 'tent'})", "invalid syntax (<string>, line 1)"),
        ("search('tent'); list_notes()", "invalid syntax (<string>, line 1)"),
        ("(lambda: 1)()", "name 'lambda: 1' is not defined"),
        ("list_notes", "invalid syntax (<string>, line 1)"),
        ("", "invalid syntax"),
        (called("search", **{"word='tent') or open('x', 'w') #": 1}), "invalid syntax"),
        (called("search", **{"class": 1}), "invalid syntax (<string>, line 1)"),
        (
            called("search", wort="tent"),
            "NoteKeeper.search() got an unexpected keyword argument 'wort'",
        ),
        (called("repeat_text", text="a", times=float("nan")), "name 'nan' is not defined"),
        (called("repeat_text", text=[1, float("-inf")], times=1), "name 'inf' is not defined"),
        (called("no_such", text=float("nan")), "name 'no_such' is not defined"),
        (
            called("search", word=None),
            "'in <string>' requires string as left operand, not NoneType",
        ),
        (called(5), "the name of a call is a string"),
        ({"name": "search"}, "the arguments of a call are an object"),
        ({"name": "search", "arguments": "word"}, "the arguments of a call are an object"),
        ({}, "the name of a call is a string"),
        (None, "a call is an object with name and arguments"),
        (["search"], "a call is an object with name and arguments"),
        (called("search", word={1, 2}), "the arguments are no JSON"),
    ],
)
def test_a_call_reaches_public_methods_alone(call: object, told: str, apis: Sandbox) -> None:
    answer, titles = results(apis, call, "list_notes()")
    assert answer.startswith(FAILED + told)
    assert titles == '{"titles": ["shopping", "trip", "ideas"]}'


def test_results_are_written_as_the_official_code_does(apis: Sandbox) -> None:
    assert results(
        apis,
        called(" search ", word="tent"),
        "add_note('a', text='b')",
        "repeat_text('ab', times=2)",
        "append_text('x')",
        called("open_note", title="ü"),
    ) == [
        "trip",
        "None",
        '{"length": 4}',
        f"{FAILED}''",
        '{"error": "open_note: there is no note \'\\u00fc\'"}',
    ]


DEEP = 100_000


@pytest.mark.parametrize(
    "call",
    [
        called("search", word="x" * 10_000_000),
        f"search('{'x' * 10_000_000}')",
        "(" * DEEP,
        f"search({'[' * DEEP}{']' * DEEP})",
        f"search({'-' * DEEP}1)",
        f"search({'a.' * DEEP}b)",
        f"search({'not ' * DEEP}1)",
        f"{'f(' * DEEP}",
        called("repeat_text", text="ab", times=10**12),
        called("repeat_text", text="ab", times=10**4400),
        called("to_the_power", base=10, exponent=4400),
        f"to_the_power(10, {'9' * 5000})",
        "\x00",
        "search('\ud800')",
        called("search", word="\ud800\x00"),
    ],
    ids=range(15),
)
def test_large_calls_are_answered(call: object, apis: Sandbox) -> None:
    answer, after = results(apis, call, "search('tent')")
    assert answer == "" or answer.startswith(FAILED)
    assert after == "trip"


def test_arguments_nested_without_end_are_answered(apis: Sandbox) -> None:
    nested: list[object] = []
    for _ in range(DEEP):
        nested = [nested]
    circle: list[object] = []
    circle.append(circle)
    for word in (nested, circle):
        assert results(apis, called("search", word=word))[0].startswith(FAILED)


ENDLESS = called("to_the_power", base=10, exponent=10**9)


def test_a_call_has_a_budget(apis: Sandbox) -> None:
    run = apis.run(ROW, [["search('tent')", ENDLESS], ["search('bread')"]])
    overrun = f"{FAILED}the call took more time or memory than a call may"
    assert run.results == [["trip", overrun], ["shopping"]]
    assert run.stopped == {1}
    # What is known to overrun is not tried again.
    process = apis._process
    assert apis.run(ROW, [["search('tent')", ENDLESS]], run.stopped).results == [["trip", overrun]]
    assert apis._process is process


def test_budgets_of_a_dialogue_are_not_endless(apis: Sandbox) -> None:
    run = apis.run(ROW, [[ENDLESS] * 50, ["search('tent')"]])
    assert run.stopped == {0, 1, 2}
    spent = f"{FAILED}too many calls of this dialogue took more time or memory than a call may"
    assert run.results[0][3:] == [spent] * 47
    assert run.results[1] == [spent]


def test_an_overrun_is_a_mistake_like_any_other(apis: Sandbox) -> None:
    answer: list[Any] = [[turn] for turn in ROW["ground_truth"]]
    assert check([[[ENDLESS], *answer[0]], *answer[1:]], ROW, apis).valid
    assert not check([[[ENDLESS]], *answer[1:]], ROW, apis).valid
    dialogue = multi_turn.advance(multi_turn.start(ROW, apis), said(json.dumps(ENDLESS)))
    assert dialogue.messages[-1]["content"].startswith(f"{FAILED}the call took more time")
    assert dialogue.stopped == {0}


def test_an_answer_that_overruns_is_the_entry_s_fault(apis: Sandbox) -> None:
    row = {**ROW, "ground_truth": [["to_the_power(10, 1000000000)"], [], []]}
    with pytest.raises(RuntimeError, match="which no model wrote"):
        check([[["search('tent')"]], [], []], row, apis)


def test_a_dead_process_is_replaced(apis: Sandbox) -> None:
    assert results(apis, "search('tent')") == ["trip"]
    assert apis._process is not None
    os.kill(apis._process.pid, signal.SIGKILL)
    apis._process.wait()
    assert results(apis, "search('tent')") == ["trip"]


def test_a_sandbox_ends_with_its_block() -> None:
    with Sandbox(MINI) as apis:
        results(apis, "list_notes()")
        process = apis._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None
    with pytest.raises(ValueError, match="call_s is the processor time of a call, above 0; got 0"):
        Sandbox(MINI, call_s=0)


REACHING = """
import os
import subprocess

class NoteKeeper:
    def __init__(self):
        self.loops = {}

    def write(self, path):
        with open(path, "w") as file:
            file.write("x" * 100)

    def start(self):
        return subprocess.Popen(["true"])

    def vanish(self):
        os._exit(3)

    def take(self):
        return str(len(bytearray(6 << 30)))

    def tie(self):
        self.loops["a"] = self.loops

    def _hidden(self):
        return "seen"
"""


def source_of(code: str, folder: Path) -> Path:
    """A source whose only class is this code's."""
    file = folder / "eval_checker/multi_turn_eval/func_source_code/note_keeper.py"
    file.parent.mkdir(parents=True)
    file.write_text(code)
    (folder / "data").mkdir()
    (folder / "data/BFCL_v3_multi_turn_base.json").touch()
    return folder


def test_the_process_is_confined(tmp_path: Path) -> None:
    file = tmp_path / "file"
    row = {**ROW, "initial_config": {}, "ground_truth": [["tie()"]]}
    with Sandbox(source_of(REACHING, tmp_path)) as apis:
        calls = [called("write", path=str(file)), "start()", "vanish()", "take()", "_hidden()"]
        written, started, vanished, taken, hidden = apis.run(row, [calls]).results[0]
        tied = check([[["tie()"]]], row, apis)
    assert written.startswith(f"{FAILED}[Errno 27] File too large")
    assert file.read_bytes() == b""
    assert started == f"{FAILED}module 'subprocess' has no attribute 'Popen'"
    assert vanished.startswith(f"{FAILED}the call took more")
    assert taken == FAILED  # a MemoryError has no words
    assert hidden == f"{FAILED}name '_hidden' is not defined"
    # Two states that hold themselves cannot be compared; the official checker ends there.
    assert (tied.valid, tied.error_type, tied.raises) == (False, None, "RecursionError")


# Texts.


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n" * 800_000,
        "<tool_call>\n" * 400_000 + "\n</tool_call>",
        "</think>" * 1_000_000,
        said("[" * DEEP),
        said(f'{{"name": "search", "arguments": {{"word": {"[" * 500}{"]" * 500}}}}}'),
        said(f'{{"name": "search", "arguments": {"9" * 5000}}}'),
        said(f'{{"name": "search", "arguments": {{"word": "{"x" * 10_000_000}"}}}}'),
        said('{"name": "list_notes", "arguments": {}}') * 2_000,
    ],
    ids=range(8),
)
def test_large_texts_are_read(text: str, apis: Sandbox) -> None:
    dialogue = multi_turn.advance(multi_turn.start(ROW, apis), text)
    assert len(dialogue.texts) == 1
    assert multi_turn.advance(dialogue, "on") if dialogue.ended is None else dialogue.why


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
names = st.sampled_from(["search", "add_note", "share_note", "notes", "__init__"]) | json_values
bodies = st.fixed_dictionaries({"name": names, "arguments": json_values}) | json_values


@settings(max_examples=60, deadline=None)
@given(decoded=st.lists(st.lists(st.lists(bodies, max_size=2), max_size=2), min_size=3, max_size=3))
def test_no_calls_raise(decoded: list[Any], apis: Sandbox) -> None:
    verdict = check(decoded, ROW, apis)
    assert verdict.valid == (verdict.error_type is None and verdict.raises is None)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(bodies | st.text(), max_size=3),
    version=st.sampled_from(["v3", "v4"]),
)
def test_no_text_raises(parts: list[Any], version: str, apis: Sandbox) -> None:
    text = "\n".join(said(json.dumps(part)) for part in parts)
    step = decoding.read(text, version)
    assert bool(step.calls) <= bool(step.message.get("tool_calls"))
    assert all(decoding.spelled(call).endswith(")") for call in step.calls)
    assert multi_turn.advance(multi_turn.start(ROW, apis), text).texts == (text,)


# States.


def test_states_that_hold_themselves_are_told_in_bounds() -> None:
    ours: dict[str, Any] = {"a": 1}
    ours["b"] = ours
    theirs: dict[str, Any] = {"a": 2}
    theirs["b"] = theirs
    told = differences.lines("x", ours, theirs)
    assert told[:2] == ["x['a'] is 1, expected 2", "x['b']['a'] is 1, expected 2"]
    assert len(told) == differences.MAX_LINES
    # More ways through them than there is time for, and no difference on any.
    pair: list[dict[str, Any]] = [{}, {}]
    for one in pair:
        one.update(a=one, b=one)
    assert differences.lines("x", *pair) == []
    wide = [differences.lines("x", list(range(9000)), [0] * 9000)]
    assert wide[0][0] == "x[1] is 1, expected 0"
    assert differences.lines("x", {"a": [1.0, "é" * 500]}, {"a": [1, "é"]}) == [
        f"x['a'][1] is {('é' * 500)[:119]!r:.120}..., expected 'é'"
    ]


SPOILING = """
import os

class NoteKeeper:
    is_spoiled = False

    def spoil(self):
        NoteKeeper.is_spoiled = True

    def work(self):
        if NoteKeeper.is_spoiled:
            os._exit(1)
"""


def test_a_model_that_the_answer_dies_of_is_wrong(tmp_path: Path) -> None:
    row = {**ROW, "ground_truth": [["work()"]]}
    with Sandbox(source_of(SPOILING, tmp_path)) as apis:
        assert check([[["work()"]]], row, apis).valid
        lost = check([[["spoil()"]]], row, apis)
        assert check([[["spoil()"]]], {**row, "ground_truth": [[]]}, apis).valid
        after = check([[["work()"]]], row, apis)
    assert lost.error_type == "multi_turn:execution_response_mismatch"
    # Not even what a class keeps for all its objects outlives a scoring.
    assert after.valid
