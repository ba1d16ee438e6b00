"""compat="star" is the reference: recorded rows, the published cases, and every quirk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from star_jax import rewards
from star_jax.rewards import star

TOOL: dict[str, Any] = {
    "name": "f",
    "parameters": {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}},
}


def spelled(name: Any, arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def score(answer: str, gold: str, tools: Any = (TOOL,), think: str = "<think></think>") -> float:
    return rewards.simrl(think + answer, "</think>" + gold, list(tools), "star").total


def test_every_recorded_row(shared: Path) -> None:
    lines = (shared / "golden/rewards.jsonl").read_text().strip().split("\n")
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 1500
    for row in rows:
        reward = rewards.simrl(row["generation"], row["label"], row["tools"], compat="star")
        got = (reward.total, reward.format, reward.answer)
        expected = (row["reward"], row["format"], row["answer"])
        assert got == pytest.approx(expected, abs=1e-6), row["id"]
        assert reward.why


GOLD = spelled("f", {"a": 1, "b": "new york city"})
CASES = {
    "exact": GOLD,
    "near_string": spelled("f", {"a": 1, "b": "new york"}),
    "wrong_int": spelled("f", {"a": 2, "b": "new york city"}),
    "bool_for_int": spelled("f", {"a": True, "b": "new york city"}),
    "missing_arg": spelled("f", {"b": "new york city"}),
    "dup_call": GOLD + GOLD,
    "unknown_arg": spelled("f", {"a": 1, "b": "new york city", "zz": 1}),
    "unknown_tool": spelled("g", {"a": 1}),
    "bad_json": '<tool_call>{"name": </tool_call>',
    "unclosed_tool_call": '<tool_call>\n{"name": "f", "arguments": {}}',
    "text_reply": "I cannot do that.",
}


@pytest.mark.parametrize("name", CASES)
def test_published_call_cases(shared: Path, name: str) -> None:
    values = json.loads((shared / "golden/peer_values.json").read_text())
    expected = values[f"simrl.tool.{name}[reward,format,score]"]
    generation = f"<think>x</think>{CASES[name]}<|im_end|>"
    reward = rewards.simrl(generation, f"</think>{GOLD}<|im_end|>\n", [TOOL], "star")
    assert [reward.total, reward.format, reward.answer] == pytest.approx(expected, abs=1e-6)


def test_no_think_close_is_malformed(shared: Path) -> None:
    values = json.loads((shared / "golden/peer_values.json").read_text())
    assert values["simrl.tool.no_think_close[reward,format,score]"] == [-1.0, -1.0, 0.0]
    assert score(GOLD, GOLD, think="<think>x") == -1.0


def test_published_reply_cases(shared: Path) -> None:
    values = json.loads((shared / "golden/peer_values.json").read_text())
    gold, end = "one two three", "<|im_end|>"
    got = {
        "exact": score(gold + end, gold + end),
        "disjoint": score("red green blue" + end, gold + end),
        "disjoint_no_im_end": score("red green blue", gold),
        "tool_when_reply": score(GOLD, gold + end),
    }
    assert got == pytest.approx({name: values[f"simrl.reply.{name}"] for name in got}, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("<|im_end|>", "I cannot help with that<|im_end|>", 4 / 9),  # the end tag's two words
        ("你好<|im_end|>", "您好<|im_end|>", 1.0),  # nothing but the tag's words is left
        (spelled("f", {"a": "你好"}), spelled("f", {"a": "您好"}), 0.0),
        (spelled("f", {"a": "5"}), spelled("f", {"a": 5}), 1.0),
        (spelled("f", {"a": True}), spelled("f", {"a": 1}), 1.0),
        (spelled("f", {"a": None}), spelled("f", {"a": "None"}), 1.0),
        (spelled("f", {"a": [1, 2]}), spelled("f", {"a": [1, 2.0]}), 0.0),
        (spelled("f", {"a": {"x": 1, "y": 2}}), spelled("f", {"a": {"y": 2, "x": 1}}), 0.0),
        (spelled("f", {"a": float("nan")}), spelled("f", {"a": float("nan")}), 0.0),
        (spelled("f", {"a": "a4"}), spelled("f", {"a": "A4"}), 1.0),
        (spelled("f", {"a": ""}), spelled("f", {"a": " "}), 0.0),
        (spelled("f", {}), spelled("f", {}), 1.0),
        (spelled("f", []), spelled("f", {}), 1.0),
        (spelled("f", ""), spelled("f", {"a": 1}), 0.0),
        (spelled("f", None), spelled("f", {}), -1.0),
        (spelled("f", "text"), spelled("f", {}), -1.0),
        (spelled("f", 5), spelled("f", {}), -1.0),
        (spelled("f", [["a"]]), spelled("f", {}), -1.0),
        (spelled("f", ["a"]), spelled("f", {"b": 1}), 0.0),  # no key in common: no crash
        (spelled(["f"], {}), spelled("f", {}), -1.0),
        (spelled("f", {"a": 1})[:-12], spelled("f", {"a": 1}), 0.0),  # never closed
        ("Sure! " + spelled("f", {"a": 1}) + " Done.", spelled("f", {"a": 1}), 1.0),
        (spelled("f", {"a": 1}) + "</think>", spelled("f", {"a": 1}), 0.0),
        ("junk</think>" + spelled("f", {"a": 1}), spelled("f", {"a": 1}), 1.0),
        ("<think>", "<think>", 1.0),  # nested, never closed
        ("<think></think>x", "x", -1.0),
        ('<tool_call>{"name": "f"}</tool_call>', spelled("f", {}), -1.0),
        ('<tool_call>["f"]</tool_call>', spelled("f", {}), -1.0),
        ("<tool_call></tool_call>", spelled("f", {}), -1.0),
        (f"<tool_call>{'[' * 100_000}</tool_call>", spelled("f", {}), -1.0),
        (f"<tool_call>{'9' * 10_000}</tool_call>", spelled("f", {}), -1.0),
        ("x<|im_start|>assistant\n<think></think>yes", "yes", 1.0),  # only the last turn counts
        ("", "", 0.0),
    ],
)
def test_quirks(answer: str, gold: str, expected: float) -> None:
    assert score(answer, gold) == pytest.approx(expected, abs=1e-12)


def test_greedy_takes_predictions_in_order_even_at_similarity_zero() -> None:
    one, two = spelled("f", {"a": 1, "b": 2}), spelled("f", {"a": 1, "b": 3})
    # The first prediction takes the first of two equals and leaves the worse one to the second.
    assert score(spelled("f", {"a": 1}) + one, one + two) == (0.5 + 0.5) / 2
    assert score(one + spelled("f", {"a": 1}), one + two) == (1.0 + 0.5) / 2
    assert score(spelled("f", {"c": 1}), spelled("f", {"a": 1})) == 0.0
    assert rewards.simrl(
        "<think></think>" + spelled("f", {"c": 1}), "</think>" + one, [TOOL], "star"
    ).parts == {"paired": 1, "predicted": 1, "gold": 1, "similarity": 0.0}


@pytest.mark.parametrize(
    ("parameters", "arguments", "expected"),
    [
        ({"type": "object", "properties": {"a": {}}}, {"a": 1}, 1.0),
        ({"type": "object", "properties": {"a": {}}}, {"type": 1}, -1.0),
        ({"a": {"type": "str"}}, {"a": 1}, 1.0),  # xLAM's flat form
        ({"type": "object"}, {"type": 1}, 1.0),  # a schema's own keys count as names
        ({"properties": {"a": {}}}, {"a": 1}, -1.0),
        ({"properties": {"a": {}}}, {"properties": 1}, 1.0),
        ({"properties": {"a": {}}, "type": None}, {"a": 1}, -1.0),
        ({"properties": ["a"], "type": "object"}, {"a": 1}, -1.0),
        (["a"], {"a": 1}, 1.0),
        ("abc", {"a": 1}, 1.0),
    ],
)
def test_where_argument_names_come_from(
    parameters: Any, arguments: dict[str, Any], expected: float
) -> None:
    call = spelled("f", arguments)
    assert score(call, call, [{"name": "f", "parameters": parameters}]) == expected


def test_without_tools_every_call_is_unknown() -> None:
    assert score(GOLD, GOLD, []) == -1.0
    assert rewards.simrl("<think></think>" + GOLD, "</think>" + GOLD, None, "star").total == -1.0


@pytest.mark.parametrize("arguments", [["a"], "a", ["b", "a"]])
def test_what_stops_the_reference_is_a_malformed_generation(arguments: Any) -> None:
    reward = rewards.simrl(
        "<think></think>" + spelled("f", arguments), "</think>" + GOLD, [TOOL], "star"
    )
    assert (reward.total, reward.format, reward.answer) == (-1.0, -1.0, 0.0)
    assert reward.kind == "crash"


@pytest.mark.parametrize(
    "label",
    [
        "no end",
        "</think>a</think>b",
        "</think><tool_call>{</tool_call>",
        '</think><tool_call>{"name": "f"}</tool_call>',
    ],
)
def test_malformed_labels_are_errors(label: str) -> None:
    with pytest.raises(ValueError, match="label has"):
        rewards.simrl("<think></think>x", label, [TOOL], "star")


def test_labels_that_stop_the_reference_only_when_reached() -> None:
    unclosed = '<tool_call>{"name": "f"'
    assert score("", unclosed) == 0.0
    with pytest.raises(ValueError, match="does not close"):
        score("a reply", unclosed)
    assert score(spelled("f", {}), spelled("g", None)) == 0.0
    with pytest.raises(ValueError, match="no object"):
        score(spelled("f", {}), spelled("f", None))
    assert score(spelled("f", {"a": 1}), spelled("f", [])) == 0.0
    assert score("a reply", spelled(["f"], {})) == 0.0
    with pytest.raises(ValueError, match="no text"):
        score(spelled("f", {}), spelled(["f"], {}))


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": TOOL},
        {"name": "f"},
        {"parameters": {}},
        {"name": "f", "parameters": None},
        {"name": ["f"], "parameters": {}},
        {"name": "f", "parameters": ["properties"]},
        "f",
    ],
)
def test_tools_that_stop_the_reference_are_errors(tool: Any) -> None:
    with pytest.raises(ValueError, match=r"tools\[1\]"):
        score("x", "x", [TOOL, tool])


def test_between_finds_what_the_pattern_finds_in_linear_time() -> None:
    assert star.between("a<t>b</t>c<t><t>d</t></t><t>e", "<t>", "</t>") == ["b", "<t>d"]
    assert star.between("<t>" * 300_000, "<t>", "</t>") == []
