"""ToolRL's values, its variants, and what the default reads beyond its own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import rewards


def line(name: str, parameters: Any) -> str:
    return json.dumps({"name": name, "parameters": parameters})


def answer(*lines: str) -> str:
    return "<think>t</think>\n<tool_call>\n" + "\n".join(lines) + "\n</tool_call>"


RIGHT = line("f", {"a": 1, "b": "x y"})
LABEL = answer(RIGHT)
CASES = {
    "exact": LABEL,
    "wrong_value": answer(line("f", {"a": 1, "b": "z"})),
    "missing_param": answer(line("f", {"a": 1})),
    "wrong_name": answer(line("g", {"a": 1, "b": "x y"})),
    "extra_call": answer(RIGHT, RIGHT),
    "bad_json": answer('{"name": '),
    "no_call": "<think>t</think>\n<response>hello</response>",
}


def qwen(text: str) -> str:
    """A text in ToolRL's layout in Qwen3's: a block per call, `arguments`, free spacing."""
    text = text.replace("</think>\n", "\n</think>\n\n").replace("parameters", "arguments")
    return text.replace('}\n{"name"', '}\n</tool_call>\n<tool_call>\n{"name"') + "<|im_end|>"


def parts(generation: str, label: str, compat: Any = None, **options: Any) -> list[float]:
    reward = rewards.toolrl(generation, label, [], compat, **options)
    return [reward.total, reward.format, reward.answer]


@pytest.mark.parametrize("name", CASES)
def test_the_seven_recorded_cases(shared: Path, name: str) -> None:
    values = json.loads((shared / "golden/peer_values.json").read_text())
    expected = values[f"toolrl.{name}[total,format,correct]"]
    assert parts(CASES[name], LABEL, "toolrl") == expected
    assert parts(CASES[name], LABEL) == expected
    assert parts(qwen(CASES[name]), qwen(LABEL)) == expected
    assert parts(qwen(CASES[name]), "</think>" + qwen(LABEL).split("</think>")[1]) == expected


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"grain": "answer"}, "wrong_value", -3.0),
        ({"grain": "answer"}, "exact", 3.0),
        ({"grain": "call"}, "wrong_value", 6 * 1 / 2 - 3),  # the name, of name and one call
        ({"grain": "call"}, "extra_call", 6 * 1.5 / 2 - 3),
        ({"refined": True}, "missing_param", 6 * (1 + 0 + 1) / 4 - 3),
        ({"refined": True}, "extra_call", 6 * (0 + 1 + 2) / 4 - 3),
        ({"correct_max": 1.0}, "wrong_value", 0.5),
        ({"correct_max": 1.0}, "bad_json", -1.0),
    ],
)
def test_variants_of_correctness(options: Any, name: str, expected: float) -> None:
    for compat in (None, "toolrl"):
        assert parts(CASES[name], LABEL, compat, **options)[2] == pytest.approx(expected)


@pytest.mark.parametrize(("count", "expected"), [(0, 0.0), (100, 0.2), (512, 1.0), (900, 1.0)])
def test_length_is_words_of_reasoning_in_hundredths(count: int, expected: float) -> None:
    generation = LABEL.replace("<think>t", "<think>" + "w " * count)
    reward = rewards.toolrl(generation, LABEL, [], "toolrl", length_words=512)
    assert reward.parts == {"format": 1.0, "correct": 3.0, "length": expected}
    assert reward.total == 4.0 + expected


@pytest.mark.parametrize(
    ("generation", "label", "expected"),
    [
        ("<think></think>\n<response>a</response>", "<response>b</response>", 1.0),
        ("<think></think> <response>a</response>", "<response>b</response>", 0.0),
        ("<think></think>\n<response>a</response></response>", "<response>b</response>", 0.0),
        ("<think></think>", "b", 1.0),
        ("<think></think>a", "b", 0.0),
        (LABEL + "\n<response>a</response>", LABEL + "\n<response>b</response>", 1.0),
        (LABEL, LABEL + "\n<response>b</response>", 0.0),
        (LABEL.replace("\n{", "{"), LABEL, 0.0),
    ],
)
def test_the_exact_layout(generation: str, label: str, expected: float) -> None:
    assert parts(generation, label, "toolrl")[1] == expected


@pytest.mark.parametrize(
    ("generation", "label", "expected"),
    [
        ("<think></think>a", "</think>b", 1.0),
        ("<think></think>", "</think>b", 0.0),
        ("<think></think>" + LABEL[16:], "</think>b", 0.0),
        ("<think></think> <response>a</response>", "<response>b</response>", 1.0),
        ("<think></think>a", "<response>b</response>", 0.0),
        (LABEL + "<response>a</response>", LABEL + "<response>b</response>", 1.0),
        (LABEL + " words", LABEL, 0.0),
        ("words " + LABEL, LABEL, 0.0),
        (LABEL + "</tool_call>", LABEL, 0.0),
        (LABEL.replace("<think>", "<think><think>"), LABEL, 0.0),
    ],
)
def test_the_free_layout(generation: str, label: str, expected: float) -> None:
    assert parts(generation, label)[1] == expected


def test_a_prediction_stands_for_one_gold_call_only() -> None:
    one = line("f", {"a": 1})
    # J(names) 1/2, then one pair of 1 + 1, of 1 + 2 + 2
    for compat in (None, "toolrl"):
        assert parts(answer(one), answer(one, one), compat)[2] == 6 * 2.5 / 5 - 3
        assert parts(answer(one, one), answer(one), compat)[2] == 6 * 2.5 / 3 - 3


def test_true_is_one_only_for_the_original() -> None:
    generation = answer(line("f", {"a": True, "b": "x y"}))
    assert parts(generation, LABEL, "toolrl") == [4.0, 1.0, 3.0]
    assert parts(generation, LABEL) == [2.5, 1.0, 1.5]


def test_a_label_without_calls_earns_the_format_alone() -> None:
    assert parts("<think></think>hi", "</think>hello") == [1.0, 1.0, 0.0]
    assert parts(LABEL, "</think>hello") == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "label",
    [
        answer('{"name": '),
        answer('{"name": "f"}'),
        answer(line("f", [1])),
        answer("5"),
        "</think><tool_call>{}",
    ],
)
def test_malformed_labels_are_errors(label: str) -> None:
    for compat in (None, "toolrl"):
        with pytest.raises(ValueError, match="label has a call"):
            parts(LABEL, label, compat)


def test_unknown_variants_are_errors() -> None:
    with pytest.raises(ValueError, match="grain"):
        parts(LABEL, LABEL, grain="word")
    with pytest.raises(ValueError, match="compat"):
        parts(LABEL, LABEL, "star")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
calls = st.lists(
    st.tuples(st.sampled_from("fgh"), st.dictionaries(st.sampled_from("abc"), values, max_size=3)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(calls, st.randoms())
def test_calls_score_four_against_themselves_in_any_order(several: Any, rng: Any) -> None:
    lines = [line(name, parameters) for name, parameters in several]
    label = answer(*lines)
    for compat in (None, "toolrl"):
        assert parts(label, label, compat) == [4.0, 1.0, 3.0]
    rng.shuffle(lines)
    assert parts(answer(*lines), label)[0] == pytest.approx(4.0)


@settings(max_examples=300, deadline=None)
@given(st.text() | values.map(json.dumps), calls)
def test_any_generation_scores_in_range(body: str, several: Any) -> None:
    label = answer(*(line(name, parameters) for name, parameters in several))
    for generation in (body, answer(body), answer(line("f", {}), body)):
        for compat in (None, "toolrl"):
            total, layout, correct = parts(generation, label, compat)
            assert layout in (0.0, 1.0)
            assert -3.0 <= correct <= 3.0
            assert total == layout + correct
