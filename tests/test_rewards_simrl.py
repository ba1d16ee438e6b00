"""Sim-RL by default: where it differs from the reference, and what holds for any input."""

from __future__ import annotations

import functools
import itertools
import json
import operator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import rewards
from star_jax.rewards.calls import argument_names, arguments_similarity, same, value_similarity
from star_jax.rewards.matching import assign

TOOL: dict[str, Any] = {
    "name": "f",
    "parameters": {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}},
}
G_TOOL = {**TOOL, "name": "g"}
GOLD = {"a": 1, "b": "new york city"}


def spelled(name: Any, arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def both(answer: str, gold: str, tools: Any = (TOOL,)) -> tuple[float, float]:
    """The default's and the reference's totals."""
    generation, label = f"<think>x</think>{answer}", f"</think>{gold}"
    return (
        rewards.simrl(generation, label, list(tools)).total,
        rewards.simrl(generation, label, list(tools), compat="star").total,
    )


def arguments(predicted: Any, gold: Any) -> tuple[float, float]:
    return both(spelled("f", predicted), spelled("f", gold))


# Each of the following is a row of the table of differences in docs/rewards.md.


def test_end_of_turn_tokens_are_no_words() -> None:
    assert both("red green blue<|im_end|>", "one two three<|im_end|>\n") == (
        0.0,
        pytest.approx(0.4),
    )
    assert both("<|im_end|>", "one<|im_end|>") == (0.0, 0.8)
    assert both("yes<|im_end|><|endoftext|><|endoftext|>", "yes")[0] == 1.0


def test_what_follows_the_end_of_the_turn_was_never_said() -> None:
    ours, stars = both("yes<|im_end|>\n<|im_start|>user\nthanks", "yes<|im_end|>")
    assert ours == 1.0 > stars


def test_replies_in_other_scripts_are_compared() -> None:
    assert both("您好<|im_end|>", "你好<|im_end|>") == (0.5, 1.0)
    assert both("Zürich", "Zorich") == (0.0, 0.0)
    assert both("погода хорошая", "погода плохая") == (0.5, 0.0)


def test_arguments_in_other_scripts_are_compared() -> None:
    assert arguments({"a": "北京市"}, {"a": "北京"}) == (pytest.approx(0.8), 0.0)


def test_booleans_are_not_numbers() -> None:
    assert arguments({"a": True}, {"a": 1}) == (0.0, 1.0)
    assert arguments({"a": [0]}, {"a": [False]}) == (0.0, 0.0)


def test_types_count() -> None:
    assert arguments({"a": "5"}, {"a": 5}) == (0.0, 1.0)
    assert arguments({"a": None}, {"a": "None"}) == (0.0, 1.0)
    assert arguments({"a": "[1]"}, {"a": [1]}) == (0.0, 1.0)
    assert arguments({"a": "True"}, {"a": True}) == (0.0, 1.0)


def test_numbers_are_compared_as_numbers() -> None:
    assert arguments({"a": 5}, {"a": 5.0}) == (1.0, 1.0)
    assert arguments({"a": [5]}, {"a": [5.0]}) == (1.0, 0.0)
    assert arguments({"a": "-5"}, {"a": "5"}) == (0.0, 1.0)
    assert arguments({"a": "1.0"}, {"a": "1"}) == (1.0, pytest.approx(2 / 3))
    assert arguments({"a": "12345678901234567890"}, {"a": "12345678901234567891"})[0] == 0.0
    assert arguments({"a": "007"}, {"a": "7"}) == (0.0, 0.0)  # a code, not a number


def test_the_order_of_an_objects_keys_does_not_count() -> None:
    assert arguments({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}) == (1.0, 0.0)
    assert arguments({"a": [1, 2]}, {"a": [2, 1]}) == (0.0, 0.0)


def test_blank_texts_are_equal() -> None:
    assert arguments({"a": " "}, {"a": ""}) == (1.0, 0.0)


def test_arguments_that_are_no_object_are_malformed() -> None:
    assert arguments(["a"], {"a": 1}) == (-1.0, -1.0)  # stops the reference
    assert arguments([], {}) == (-1.0, 1.0)
    assert arguments("", {}) == (-1.0, 1.0)
    assert arguments(["b"], {"a": 1}) == (-1.0, 0.0)


def test_an_unclosed_call_is_malformed() -> None:
    assert both('<tool_call>\n{"name": "f", "arguments": {}}', spelled("f", {})) == (-1.0, 0.0)


@pytest.mark.parametrize("answer", ["</think>yes", "yes</think>", "<think>yes", "yes</tool_call>"])
def test_a_stray_tag_is_malformed(answer: str) -> None:
    ours, stars = both(answer, "yes")
    assert ours == -1.0 < stars


def test_a_think_block_inside_another_is_malformed() -> None:
    generation = "<think>a<think>b</think>yes"
    assert rewards.simrl(generation, "</think>yes", []).total == -1.0
    assert rewards.simrl(generation, "</think>yes", [], "star").total == 1.0


def test_an_earlier_turn_is_not_cut_away() -> None:
    ours, stars = both("x<|im_start|>assistant\n<think>y</think>yes", "yes")
    assert (ours, stars) == (-1.0, 1.0)


def test_a_tag_spelled_inside_a_text_is_text() -> None:
    call = spelled("f", {"a": "write </tool_call> here"})
    assert rewards.simrl("<think></think>" + call, "</think>" + call, [TOOL]).total == 1.0
    with pytest.raises(ValueError, match="not JSON"):
        rewards.simrl("<think></think>" + call, "</think>" + call, [TOOL], "star")


def test_nan_is_malformed() -> None:
    assert arguments({"a": float("nan")}, {"a": 1}) == (-1.0, 0.0)


def test_nesting_beyond_a_hundred_levels_is_malformed() -> None:
    deep: Any = 1
    for _ in range(120):
        deep = [deep]
    assert arguments({"a": deep}, {"a": 1}) == (-1.0, 0.0)


def test_wrapped_tools_are_understood() -> None:
    wrapped = {"type": "function", "function": TOOL}
    generation, label = "<think></think>" + spelled("f", GOLD), "</think>" + spelled("f", GOLD)
    assert rewards.simrl(generation, label, [wrapped]).total == 1.0
    with pytest.raises(ValueError, match=r"tools\[0\].*unwrap"):
        rewards.simrl(generation, label, [wrapped], "star")


def test_a_tool_without_parameters_takes_no_arguments() -> None:
    tool = {"name": "f"}
    empty, full = spelled("f", {}), spelled("f", {"a": 1})
    for answer, expected in ((empty, 1.0), (full, -1.0)):
        generation = "<think></think>" + answer
        assert rewards.simrl(generation, "</think>" + empty, [tool]).total == expected
        with pytest.raises(ValueError, match=r"tools\[0\]"):
            rewards.simrl(generation, "</think>" + empty, [tool], "star")


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"type": "object", "properties": {"a": {}}}, ["a"]),
        ({"properties": {"a": {"type": "string"}}}, ["a"]),
        ({"a": {"type": "str"}, "type": {"type": "str"}}, ["a", "type"]),
        ({"type": "object"}, []),
        ({"type": "object", "required": ["a"]}, []),
        ({}, []),
    ],
)
def test_a_schemas_own_keywords_are_no_arguments(parameters: Any, names: list[str]) -> None:
    assert sorted(argument_names(parameters)) == names


def test_labels_must_be_well_formed_even_where_they_are_not_reached() -> None:
    for answer in ("x", spelled("g", {})):
        with pytest.raises(ValueError, match=r"label: .*; correct it"):
            rewards.simrl("<think></think>" + answer, "</think>" + spelled("f", None), [G_TOOL])


# What both modes share.


@pytest.mark.parametrize(
    ("generation", "kind"),
    [
        (f"</think>{spelled('f', GOLD)}", "unopened_think"),
        ("<think>yes", "unclosed_think"),
        (spelled("f", GOLD), "no_think"),
        (f"<think></think>{spelled('zz', {})}", "unknown_tool"),
        (f"<think></think>{spelled('f', {'zz': 1})}", "unknown_argument"),
        ("<think></think><tool_call>{</tool_call>", "bad_json"),
    ],
)
def test_broken_rules_are_minus_one_and_say_which(generation: str, kind: str) -> None:
    reward = rewards.simrl(generation, "</think>" + spelled("f", GOLD), [TOOL])
    assert (reward.total, reward.format, reward.answer) == (-1.0, -1.0, 0.0)
    assert reward.kind == kind
    assert reward.why.startswith("−1: ")


def test_words_beside_a_call_do_not_count() -> None:
    assert both("Sure. " + spelled("f", GOLD), spelled("f", GOLD)) == (1.0, 1.0)
    assert both(spelled("f", GOLD), "Sure. " + spelled("f", GOLD)) == (1.0, 1.0)


def test_calls_and_replies_are_not_mixed() -> None:
    assert both(spelled("f", GOLD), "a reply") == (0.0, 0.0)
    assert both("a reply", spelled("f", GOLD)) == (0.0, 0.0)
    assert both("", "a reply") == (0.0, 0.0)


def test_reasons_can_be_read() -> None:
    label = "</think>" + spelled("f", GOLD)
    unknown = rewards.simrl("<think></think>" + spelled("zz", {}), label, [TOOL, G_TOOL])
    assert unknown.why == "−1: call 1 names 'zz'; tools are ['f', 'g']"
    twice = rewards.simrl("<think></think>" + spelled("f", GOLD) * 2, label, [TOOL])
    assert twice.why == "2 calls, 1 in the label, 1 paired: similarity 1.0000 / 2"
    assert twice.parts == {"paired": 1, "predicted": 2, "gold": 1, "similarity": 1.0}


@pytest.mark.parametrize(
    "label", ["no end", "</think>a</think>", "</think><tool_call>{</tool_call>"]
)
def test_malformed_labels_are_errors(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        rewards.simrl("<think></think>x", label, [])


@pytest.mark.parametrize("tool", [{}, "f", {"name": 1}, {"function": None}])
def test_malformed_tools_are_errors(tool: Any) -> None:
    with pytest.raises(ValueError, match=r"tools\[1\]"):
        rewards.simrl("<think></think>x", "</think>x", [TOOL, tool])


def test_unknown_modes_are_errors() -> None:
    options: list[tuple[Any, Any]] = [("verl", "greedy"), ("star", "optimal"), (None, "best")]
    for compat, matching in options:
        with pytest.raises(ValueError, match="matching"):
            rewards.simrl("", "</think>", [], compat, matching=matching)


def test_optimal_matching_does_not_depend_on_the_order_of_calls() -> None:
    near, exact = spelled("f", {"a": 1}), spelled("f", {"a": 1, "b": 2})
    other = spelled("f", {"a": 1, "c": 3})
    label = "</think>" + exact + other
    totals = {
        matching: [
            rewards.simrl("<think></think>" + calls, label, [TOOL], matching=matching).total
            for calls in (near + exact, exact + near)
        ]
        for matching in ("greedy", "optimal")
    }
    assert totals == {"greedy": [0.5 * (0.5 + 1 / 3), 0.75], "optimal": [0.75, 0.75]}


tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(0, 1), min_size=width, max_size=width), min_size=1, max_size=4
    )
)


@given(tables)
def test_the_assignment_is_the_best_of_all(values: list[list[float]]) -> None:
    rows, columns = len(values), len(values[0])
    pairs = assign(values)
    assert len(pairs) == min(rows, columns)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    if rows <= columns:
        ways = [list(enumerate(way)) for way in itertools.permutations(range(columns), rows)]
    else:
        ways = [
            [(r, c) for c, r in enumerate(w)] for w in itertools.permutations(range(rows), columns)
        ]
    best = max(sum(values[row][column] for row, column in way) for way in ways)
    assert sum(values[row][column] for row, column in pairs) == pytest.approx(best, abs=1e-12)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(["f", "g"]), objects), min_size=1, max_size=4)
tags = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>"]
bodies = ['{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arguments": ["a"]}', '{"name"']
pieces = st.sampled_from([*tags, *bodies, "<|im_start|>assistant\n", "hi"])
texts = st.lists(pieces | st.text(max_size=5), max_size=10).map("".join)
MODES: list[dict[str, Any]] = [{}, {"matching": "optimal"}, {"compat": "star"}]


def written(several: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(spelled(name, arguments) for name, arguments in several)


@settings(max_examples=300, deadline=None)
@given(texts | st.text(), st.sampled_from(["</think>hello there", "</think>" + spelled("f", GOLD)]))
def test_any_text_scores_in_range(generation: str, label: str) -> None:
    for mode in MODES:
        reward = rewards.simrl(generation, label, [TOOL], **mode)
        assert reward.total == -1.0 or 0.0 <= reward.total <= 1.0
        assert reward.format == (-1.0 if reward.total == -1.0 else 1.0)
        assert reward.answer == max(reward.total, 0.0)
        assert reward.why


@settings(max_examples=200, deadline=None)
@given(values, values)
def test_any_json_in_a_call_scores_in_range(body: Any, value: Any) -> None:
    label = "</think>" + spelled("f", {"a": value})
    for inner in (body, {"name": body, "arguments": {}}, {"name": "f", "arguments": body}):
        answer = f"<tool_call>{json.dumps(inner)}</tool_call>"
        for mode in MODES:
            total = rewards.simrl("<think></think>" + answer, label, [TOOL], **mode).total
            assert total == -1.0 or 0.0 <= total <= 1.0


@settings(max_examples=200, deadline=None)
@given(calls)
def test_calls_score_one_against_themselves(several: list[tuple[str, dict[str, Any]]]) -> None:
    text = written(several)
    for mode in MODES:
        total = rewards.simrl("<think></think>" + text, "</think>" + text, [TOOL, G_TOOL], **mode)
        assert total.total == 1.0


@given(st.text(min_size=1).filter(lambda text: text.strip() and "<" not in text))
def test_replies_score_one_against_themselves(text: str) -> None:
    for mode in MODES:
        reward = rewards.simrl("<think></think>" + text, f"</think>{text}<|im_end|>\n", [], **mode)
        assert reward.total == 1.0 or mode  # the reference sees the end tag's words
    assert rewards.simrl("<think></think>" + text, "</think>" + text, [], "star").total == 1.0


@settings(max_examples=200, deadline=None)
@given(objects, objects, st.randoms())
def test_the_order_of_keys_is_irrelevant(one: Any, other: Any, rng: Any) -> None:
    keys = list(one)
    rng.shuffle(keys)
    shuffled = {key: one[key] for key in keys}
    assert arguments_similarity(shuffled, other) == arguments_similarity(one, other)
    assert arguments_similarity(other, shuffled) == arguments_similarity(other, one)


def test_sums_do_not_depend_on_the_order_of_keys() -> None:
    scored = {"a": ("x", "x y z v w u t s q"), "b": ("x", "x y z v w"), "c": ("x", "x y z v")}
    scored |= {"d": ("x y z", "x y z v")}
    gold = {key: right for key, (_, right) in scored.items()}
    parts = {key: value_similarity(*pair) for key, pair in scored.items()}
    orders = list(itertools.permutations(scored))
    # A running sum; the built-in one keeps what rounding loses since Python 3.12.
    running = {functools.reduce(operator.add, [parts[key] for key in order]) for order in orders}
    assert len(running) > 1
    said = [{key: scored[key][0] for key in order} for order in orders]
    assert len({arguments_similarity(predicted, gold) for predicted in said}) == 1


@settings(max_examples=200, deadline=None)
@given(objects, objects)
def test_similarity_is_symmetric_and_in_range(one: Any, other: Any) -> None:
    value = arguments_similarity(one, other)
    assert value == arguments_similarity(other, one)
    assert 0.0 <= value <= 1.0
    assert arguments_similarity(one, one) == 1.0


@settings(max_examples=200, deadline=None)
@given(calls, calls)
def test_optimal_is_never_below_greedy_and_symmetric(one: Any, other: Any) -> None:
    def total(said: Any, gold: Any, matching: Any) -> float:
        return rewards.simrl(
            "<think></think>" + written(said),
            "</think>" + written(gold),
            [TOOL, G_TOOL],
            matching=matching,
        ).total

    best = total(one, other, "optimal")
    assert best >= total(one, other, "greedy") - 1e-12
    assert best == pytest.approx(total(other, one, "optimal"), abs=1e-12)


@given(values, values)
def test_equality_of_values_is_that_of_their_kinds(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)
    assert value_similarity(one, other) == value_similarity(other, one)


def test_deep_values_are_compared_without_recursion() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert same(deep, deep)
    assert not same(deep, [deep])
