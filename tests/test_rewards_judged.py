"""Exact match, the format alone, a judge's opinion, and the punishment of length."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import rewards
from star_jax.rewards import Step

TOOL: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}


def spelled(name: Any, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


ONE, TWO = spelled("f", {"a": 1}), spelled("f", {"a": {"x": 1, "y": 2}})


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        (ONE, ONE, 1.0),
        (ONE + TWO, TWO + ONE, 1.0),  # the order of calls does not count
        (spelled("f", {"a": {"y": 2, "x": 1.0}}), TWO, 1.0),  # nor that of keys
        (ONE, ONE + ONE, 0.0),
        (ONE + ONE, ONE, 0.0),
        (spelled("f", {"a": True}), ONE, 0.0),
        (spelled("f", {"a": "Y"}), spelled("f", {"a": "y"}), 0.0),
        ("yes<|im_end|>", " yes<|im_end|>\n", 1.0),
        ("Yes", "yes", 0.0),
        ("", "", 0.0),
        (ONE, "yes", 0.0),
        ("yes", ONE, 0.0),
    ],
)
def test_binary(answer: str, gold: str, expected: float) -> None:
    reward = rewards.binary("<think></think>" + answer, "</think>" + gold, [TOOL])
    assert (reward.total, reward.format, reward.answer) == (expected, 1.0, expected)


def test_binary_with_the_references_eyes() -> None:
    def star(answer: str, gold: str) -> float:
        return rewards.binary("<think></think>" + answer, "</think>" + gold, [TOOL], "star").total

    assert star(spelled("f", {"a": True}), ONE) == 1.0
    assert star(ONE + ONE, ONE) == 0.0
    assert star(spelled("g", {}), ONE) == 0.0


@pytest.mark.parametrize("compat", [None, "star"])
def test_a_broken_format_is_never_right(compat: Any) -> None:
    for generation in (ONE, "<think></think>" + spelled("g", {}), "<think></think><tool_call>{"):
        if generation.endswith("{") and compat:
            continue  # an unclosed call is in order there
        reward = rewards.binary(generation, "</think>" + ONE, [TOOL], compat)
        assert (reward.total, reward.format) == (0.0, -1.0)
        assert rewards.valid(generation, "unread", [TOOL], compat).total == 0.0
        assert reward.why


def test_valid_reads_no_label() -> None:
    reward = rewards.valid("<think></think>" + ONE, "", [TOOL])
    assert (reward.total, reward.format, reward.answer) == (1.0, 1.0, 0.0)
    unclosed = "<think></think><tool_call>{"
    assert rewards.valid(unclosed, "", [TOOL]).total == 0.0
    assert rewards.valid(unclosed, "", [TOOL], "star").total == 1.0


def opinion(step: Step) -> float | bool | None:
    if step.call is None:
        return None if step.reply == "?" else True
    return 0.25 if step.before else 1


async def slow_opinion(step: Step) -> float | bool | None:
    await asyncio.sleep(0)
    return opinion(step)


@pytest.mark.parametrize("judge", [opinion, slow_opinion])
def test_a_judge_scores_each_step(judge: Any) -> None:
    def total(answer: str) -> float | None:
        sync = rewards.swirl("<think>t</think>" + answer, "", [TOOL], judge=judge)
        waited = asyncio.run(
            rewards.swirl_async("<think>t</think>" + answer, "", [TOOL], judge=judge)
        )
        assert sync == waited
        return sync.total if sync else None

    assert total(ONE) == 1.0
    assert total(ONE + TWO) == 0.625
    assert total("fine") == 1.0
    assert total("?") is None
    assert total(spelled("g", {})) == -1.0


def test_a_judge_sees_the_step_and_what_was_before() -> None:
    seen: list[Step] = []
    rewards.swirl("<think>t</think>" + ONE + TWO, "", [TOOL], judge=lambda s: seen.append(s))
    assert [step.think for step in seen] == ["t", "t"]
    assert [len(step.before) for step in seen] == [0, 1]
    assert seen[1].before[0] == seen[0].call
    assert seen[0].tools == (TOOL,)


def test_an_async_judge_can_be_asked_inside_a_running_loop() -> None:
    async def ask() -> Any:
        return rewards.swirl("<think></think>hi", "", [], judge=slow_opinion)

    assert asyncio.run(ask()).total == 1.0


def test_a_judge_by_its_path() -> None:
    reward = rewards.swirl("<think></think>hi", "", [], judge="builtins.callable")
    assert reward is not None
    assert reward.total == 0.0  # a step is not callable


def test_a_judge_out_of_range_is_an_error() -> None:
    for answer in (2, float("nan"), "GOOD"):
        said: list[Any] = [answer]
        with pytest.raises(ValueError, match=r"the judge said .* in \[0, 1\]"):
            rewards.swirl("<think></think>hi", "", [], judge=lambda step, said=said: said[0])


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0.0), (384, 0.0), (385, -1 / 128), (448, -0.5), (512, -1.0)]
)
def test_overlong_is_dapos(length: int, expected: float) -> None:
    def total(**options: Any) -> float:
        reward = rewards.soft_overlong(
            "", "", None, length=length, limit=512, buffer=128, **options
        )
        assert reward.why
        return reward.total

    assert total() == expected
    assert total(factor=0.5) == expected / 2


def test_overlong_stops_at_the_limit() -> None:
    assert rewards.soft_overlong("", "", [], length=9999, limit=512, buffer=128).total == -1.0


@pytest.mark.parametrize(
    "options", [{"buffer": 0}, {"buffer": 600}, {"length": -1}, {"factor": -1.0}, {"compat": "x"}]
)
def test_overlong_refuses_nonsense(options: Any) -> None:
    sizes = {"length": 1, "limit": 512, "buffer": 128}
    with pytest.raises(ValueError, match="soft_overlong"):
        rewards.soft_overlong("", "", [], **{**sizes, **options})


def test_unknown_compat_is_an_error() -> None:
    compat: Any = "verl"
    for reward in (rewards.binary, rewards.valid):
        with pytest.raises(ValueError, match="known are"):
            reward("", "</think>", [], compat)
    with pytest.raises(ValueError, match="only None"):
        rewards.swirl("", "", [], compat, judge=opinion)


texts = st.lists(
    st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", ONE, "{"])
    | st.text(max_size=4),
    max_size=8,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_any_text_scores_in_range(generation: str) -> None:
    for compat in (None, "star"):
        for label in ("</think>hi", "</think>" + ONE):
            assert rewards.binary(generation, label, [TOOL], compat).total in (0.0, 1.0)
        assert rewards.valid(generation, "", [TOOL], compat).total in (0.0, 1.0)
    judged = rewards.swirl(generation, "", [TOOL], judge=lambda step: 0.5)
    assert judged is not None
    assert judged.total in (-1.0, 0.5)
