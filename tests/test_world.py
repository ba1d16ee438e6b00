"""The embedded world's rows: the same for ever, apart from split to split, and right."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from star_jax import chat, rewards, world
from star_jax.data import trainset
from star_jax.data.encode import Tokenizer
from star_jax.world import cases, domains, files, replies, requests, words
from star_jax.world.api import Api
from star_jax.world.draw import Draw
from star_jax.world.generate import pool
from star_jax.world.tools import show

CALLING = ("single", "multiple", "parallel", "parallel_multiple", "multi_step", "multi_turn")
WORDS = ("irrelevant", "missing", "after_result")
GOLDEN = "d4575174905ddecd"


def example(row: world.Row) -> tuple[str, str]:
    made = trainset.native(files.conversation(row), chat.render)
    return made["inputs"], made["targets"]


def of_all_cases(split: str, each: int, seed: int = 1) -> Iterator[world.Row]:
    for case in world.CASES:
        yield from world.rows(split, seed, each, case=case)


def user_texts(row: world.Row) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == "user"]


# The same rows, always


def test_rows_are_what_they_always_were() -> None:
    """Whoever changes the world on purpose counts `generate.VERSION` up and pins the new hash."""
    made = [list(world.rows(split, 3, 20, start=5)) for split in world.SPLITS]
    text = json.dumps(made, ensure_ascii=False)
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == GOLDEN


def test_a_row_depends_on_split_seed_and_index_alone() -> None:
    random.seed(0)
    made = list(world.rows("train", 0, 30))
    random.seed(1)
    assert world.row("train", 0, 17) == made[17]
    assert list(world.rows("train", 0, 5, start=20)) == made[20:25]
    assert world.row("train", 1, 17)["messages"] != made[17]["messages"]
    assert world.row("seen", 0, 17)["messages"] != made[17]["messages"]


def empty(value: Any) -> None:
    """All objects and lists of a JSON value made empty, the inner ones first."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            empty(part)
        value.clear()


def test_a_row_may_be_changed_without_changing_the_next() -> None:
    before = json.dumps(list(world.rows("train", 0, 100)))
    for row in world.rows("train", 0, 100):
        empty(row)
    assert json.dumps(list(world.rows("train", 0, 100))) == before


def test_no_row_stands_twice() -> None:
    ids = Counter(
        hashlib.blake2b(repr((row["messages"], row["tools"])).encode()).digest()
        for seed in (0, 1)
        for row in world.rows("train", seed, 800)
    )
    assert max(ids.values()) == 1


@pytest.mark.parametrize(
    ("given", "words_of_it"),
    [
        (("test", 0, 1), "choose among train, seen, unseen_tools, unseen_domains"),
        (("train", -1, 1), "seed is -1"),
        (("train", 0, -1), "count is -1"),
    ],
)
def test_what_does_not_exist_is_named_at_once(given: tuple[Any, ...], words_of_it: str) -> None:
    with pytest.raises(ValueError, match=words_of_it):
        world.rows(*given)
    with pytest.raises(ValueError, match="choose among single, multiple"):
        world.row("train", 0, 0, case="double")


# Splits


def test_splits_share_no_prompt() -> None:
    prompts = {
        split: {example(row)[0] for row in world.rows(split, 0, 300)} for split in world.SPLITS
    }
    assert len(set.union(*prompts.values())) == sum(map(len, prompts.values())) == 4 * 300


def test_the_apis_of_the_splits_are_apart() -> None:
    known, tools, far = (
        set(pool(split).targets) for split in ("train", "unseen_tools", "unseen_domains")
    )
    assert (len(known), len(tools), len(far)) == (40, 8, 12)
    assert not known & tools
    assert not (known | tools) & far
    assert set(pool("train").others) == set(pool("seen").targets) == known
    assert {api.domain for api in tools} == {api.domain for api in known}
    assert not {api.domain for api in far} & {api.domain for api in known}


def descriptions(rows: Iterator[world.Row]) -> set[str]:
    return {tool.get("description", "") for row in rows for tool in row["tools"]}


def test_held_out_tools_are_never_shown_in_train() -> None:
    everything = (*domains.apis(), *domains.apis(held_domains=True))
    about = Counter(text for api in everything for text in api.about)
    assert max(about.values()) == 1  # so that a description tells which API it is of
    known = {text for api in pool("train").targets for text in api.about}
    assert descriptions(world.rows("train", 0, 800)) == known | {""}
    assert descriptions(world.rows("seen", 0, 400)) <= known | {""}
    far = {text for api in pool("unseen_domains").targets for text in api.about}
    assert descriptions(world.rows("unseen_domains", 0, 300)) == far | {""}


def test_a_prompt_about_unseen_tools_shows_or_wants_one() -> None:
    held = pool("unseen_tools").targets
    for row in of_all_cases("unseen_tools", 30):
        asks = [ask for api in held for ask in api.asks.known]
        assert any(ask.lower() in text.lower() for text in user_texts(row) for ask in asks), row


def test_seen_asks_in_words_that_train_never_uses() -> None:
    apis = pool("train").targets
    assert all(not set(api.asks.known) & set(api.asks.new) for api in apis)
    known = [ask for api in apis for ask in api.asks.known]
    new = [ask for api in apis for ask in api.asks.new]
    assert len(set(known + new)) == len(known + new)

    def count(split: str, asks: list[str]) -> int:
        texts = [user_texts(row)[0].lower() for row in world.rows(split, 0, 300)]
        return sum(any(ask.lower() in text for ask in asks) for text in texts)

    assert (count("train", known), count("train", new)) == (300, 0)
    assert (count("seen", new), count("seen", known)) == (300, 0)


# What is right


def validate(value: Any, schema: dict[str, Any], at: str) -> None:
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    assert isinstance(value, kinds[schema["type"]]), at
    assert isinstance(value, bool) == (schema["type"] == "boolean"), at
    assert value in schema.get("enum", [value]), at
    if schema["type"] == "array":
        for item in value:
            validate(item, schema["items"], at)
    if schema["type"] == "object":
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), at
        for name, part in value.items():
            validate(part, schema["properties"][name], f"{at}.{name}")


def all_calls(row: world.Row) -> list[dict[str, Any]]:
    return [call for message in row["messages"] for call in message.get("tool_calls", ())]


@pytest.mark.parametrize("split", world.SPLITS)
def test_every_call_follows_its_schema(split: str) -> None:
    for row in of_all_cases(split, 40):
        tools = {tool["name"]: tool["parameters"] for tool in row["tools"]}
        assert len(tools) == len(row["tools"]), "two tools of one name"
        for call in all_calls(row):
            validate(call["arguments"], tools[call["name"]], f"{row['id']} {call['name']}")
        for parameters in tools.values():
            for schema in parameters["properties"].values():
                if "default" in schema:
                    validate(schema["default"], schema, row["id"])
            assert parameters["required"], "every tool asks for something"


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("split", world.SPLITS)
def test_the_right_answer_has_the_full_reward(split: str, thinking: bool) -> None:
    for case in world.CASES:
        for row in world.rows(split, 2, 20, case=case, thinking=thinking):
            _, target = example(row)
            assert rewards.simrl(target, target, row["tools"]).total == pytest.approx(1.0)
            assert rewards.binary(target, target, row["tools"]).total == 1.0
            star = rewards.simrl(target, target, row["tools"], compat="star").total
            assert star == pytest.approx(1.0)
            assert target.startswith("<think>\n\n</think>" if not thinking else "<think>\n"), target
            assert (chat.parse(target).think == "") != thinking


def said_in(row: world.Row) -> str:
    """What people and tools have said in a prompt, in small letters."""
    texts = [message["content"] for message in row["messages"][:-1]]
    return " ".join(texts).lower()


def leaves(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for part in value.values():
                yield from leaves(part)
        case list():
            for part in value:
                yield from leaves(part)
        case _:
            yield value


@pytest.mark.parametrize("split", world.SPLITS)
def test_every_value_of_a_call_has_been_said(split: str) -> None:
    for case in CALLING:
        for row in world.rows(split, 4, 40, case=case):
            said = said_in(row) + " ".join(
                json.dumps(call["arguments"], ensure_ascii=False).lower()
                for message in row["messages"][:-1]
                for call in message.get("tool_calls", ())
            )
            for call in row["messages"][-1]["tool_calls"]:
                for value in leaves(call["arguments"]):
                    match value:
                        case bool():
                            continue
                        case int() if value < len(words.NUMBER):
                            assert str(value) in said or words.NUMBER[value] in said, row
                        case int() | float():
                            assert str(value) in said, (value, row)
                        case _:
                            assert value.replace("_", " ").lower() in said, (value, row)


def test_what_is_missing_is_required_and_named() -> None:
    for row in world.rows("train", 0, 200, case="missing"):
        thought = row["messages"][-1]["reasoning_content"]
        name = thought.removeprefix("No ").removesuffix(" given.")
        assert any(name in tool["parameters"]["required"] for tool in row["tools"]), row


def test_nothing_that_is_on_offer_fits_an_irrelevant_request() -> None:
    for row in world.rows("train", 0, 200, case="irrelevant"):
        text = user_texts(row)[0].lower()
        (wanted,) = [
            api for api in pool("train").targets if any(a.lower() in text for a in api.asks.known)
        ]
        assert row["domain"] == wanted.domain
        assert not descriptions(iter([row])) & set(wanted.about)


def test_wrong_calls_are_worth_less() -> None:
    for case in CALLING:
        for row in world.rows("train", 5, 25, case=case):
            _, target = example(row)
            for wrong in spoilt(row["messages"][-1]):
                text = trainset.native(
                    files.conversation({**row, "messages": [*row["messages"][:-1], wrong]}),
                    chat.render,
                )["targets"]
                assert rewards.simrl(text, target, row["tools"]).total < 0.999, (text, target)
            unknown = target.replace('"arguments": {', '"arguments": {"nobody_knows": 1, ', 1)
            assert rewards.simrl(unknown.replace(", }", "}"), target, row["tools"]).total == -1
            words_only = "<think>\n\n</think>\n\nYes, at once.<|im_end|>"
            assert rewards.simrl(words_only, target, row["tools"]).total == 0


def spoilt(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message with one thing wrong: an argument left out, changed, a call too much."""
    calls = message["tool_calls"]
    name, arguments = calls[0]["name"], calls[0]["arguments"]
    first, *rest = arguments
    others = {key: arguments[key] for key in rest}
    yield {**message, "tool_calls": [{"name": name, "arguments": others}, *calls[1:]]}
    changed = {first: ["qqq"], **others}
    yield {**message, "tool_calls": [{"name": name, "arguments": changed}, *calls[1:]]}
    yield {**message, "tool_calls": [*calls, calls[0]]}


def test_no_call_is_asked_for_twice() -> None:
    for case in ("parallel", "parallel_multiple"):
        for row in world.rows("train", 0, 400, case=case):
            calls = [json.dumps(call) for call in row["messages"][-1]["tool_calls"]]
            assert len(set(calls)) == len(calls), row


@pytest.mark.parametrize("split", ["unseen_tools", "unseen_domains"])
def test_the_call_to_make_is_one_of_the_splits_own_tools(split: str) -> None:
    for case in CALLING:
        for number in range(40):
            made = cases.make(case, Draw(split, number), pool(split))
            apis = {tool.name: tool.api for tool in made.tools}
            for call in made.messages[-1]["tool_calls"]:
                assert apis[call["name"]] in pool(split).targets


def test_what_a_request_forgets_is_not_in_it() -> None:
    count = 0
    for number in range(400):
        draw = Draw("forgets", number)
        tool = show(draw, draw.pick(pool("train").targets))
        for slot in tool.slots:
            if slot.is_required and slot.kind.noun in ("person", "city", "date", "title"):
                given = requests.Wording(draw, False), tool
                with_it, without = (
                    requests.request(*given),
                    requests.request(*given, without=slot.name),
                )
                assert with_it.said[slot.name].text in with_it.ask
                assert without.said[slot.name].text not in without.ask
                count += 1
    assert count > 100


@pytest.mark.parametrize("mood", requests.MOODS)
def test_replies_say_what_only_their_prompt_says(mood: str) -> None:
    tool = show(Draw("replies"), pool("train").targets[0])
    unable = replies.unable(mood, "swim to Oslo", [tool])
    assert "swim to Oslo" in unable
    assert "departure city" in replies.asking(mood, "fly to Oslo", "departure_city").lower()
    assert "departure city" in replies.asking(mood, "fly to Oslo", "departureCity").lower()
    told = replies.told(mood, [{"sky_state": "grey", "degrees": 21.5}])
    assert all(text in told.lower() for text in ("sky state", "grey", "degrees", "21.5"))
    others = [replies.unable(other, "swim to Oslo", [tool]) for other in requests.MOODS]
    assert others.count(unable) == 1


# What is in it


def test_shapes_of_the_cases() -> None:
    for row in of_all_cases("train", 60):
        calls = row["messages"][-1].get("tool_calls", [])
        tools, case = len(row["tools"]), row["case"]
        assert bool(calls) == (case in CALLING)
        assert 1 <= tools <= 4
        assert (tools == 1) == (case in ("single", "parallel")) or case not in CALLING[:4]
        assert (len(calls) >= 2) == (case in ("parallel", "parallel_multiple"))
        if case in ("after_result", "multi_turn"):
            assert len(row["messages"]) >= 4
        assert row["split"] == "train"
        assert row["domain"] in {api.domain for api in domains.apis()}


def test_all_cases_types_and_forms_occur() -> None:
    rows = list(world.rows("train", 0, 800))
    counts = Counter(row["case"] for row in rows)
    assert set(counts) == set(world.CASES)
    assert min(counts.values()) > 0.06 * len(rows)
    schemas = [
        schema
        for row in rows
        for tool in row["tools"]
        for schema in tool["parameters"]["properties"].values()
    ]
    assert {schema["type"] for schema in schemas} == {
        "string",
        "integer",
        "number",
        "boolean",
        "array",
        "object",
    }
    assert sum("enum" in schema for schema in schemas) > 500
    assert sum("default" in schema for schema in schemas) > 500
    assert sum("enum" in schema.get("items", ()) for schema in schemas) > 50
    assert {row["domain"] for row in rows} == {api.domain for api in domains.apis()}


def test_names_tell_nothing_that_the_prompt_does_not() -> None:
    """One API goes by many names, and one parameter, too."""
    (api,) = [api for api in pool("train").targets if api.key == "weather.get_weather"]
    names, parameters, orders = Counter(), Counter(), set()
    for row in world.rows("train", 0, 1500):
        for tool in row["tools"]:
            if tool.get("description") in api.about:
                names[tool["name"]] += 1
                order = tuple(tool["parameters"]["properties"])
                parameters.update(order)
                orders.add(order)
    assert len(names) > 25
    assert max(names.values()) < 0.4 * sum(names.values())
    assert len(parameters) > 12
    assert len(orders) > 20


def pattern(row: world.Row) -> str:
    """A request without its values."""
    text = user_texts(row)[0]
    for call in all_calls(row):
        for value in leaves(call["arguments"]):
            text = text.replace(str(value).replace("_", " "), "…")
    return text


def test_requests_are_put_in_many_ways() -> None:
    rows = list(world.rows("train", 0, 1000, case="single"))
    assert len({pattern(row) for row in rows}) > 850
    openings = Counter(" ".join(user_texts(row)[0].split()[:5]) for row in rows)
    assert len(openings) > 200
    assert max(openings.values()) < 40


def test_every_api_can_be_asked_for_in_several_ways() -> None:
    def check(api: Api) -> None:
        assert len(api.asks.known) >= 2
        assert len(api.about) >= 2
        assert all(len(param.names) >= 2 for param in api.takes), api.key
        assert any(param.is_required for param in api.takes)
        assert api.gives

    everything = (*domains.apis(), *domains.apis(held_domains=True))
    assert len({api.key for api in everything}) == len(everything) == 60
    for api in everything:
        check(api)


def test_one_reply_for_everything_earns_little() -> None:
    """The best of all right replies, given to every prompt."""
    rows = [(row, example(row)[1]) for row in world.rows("train", 7, 400)]
    said = [target for row, target in rows if row["case"] in WORDS and "<tool_call>" not in target]

    def mean(reply: str, chosen: list[tuple[world.Row, str]]) -> float:
        return sum(rewards.simrl(reply, t, row["tools"]).total for row, t in chosen) / len(chosen)

    wordy = [pair for pair in rows if "<tool_call>" not in pair[1]]
    best = max(said, key=lambda reply: mean(reply, wordy))
    assert 0.05 < mean(best, wordy) < 0.22
    assert mean(best, rows) < 0.08


def test_prompts_and_answers_are_short() -> None:
    tokenizer = Tokenizer(world.TOKENIZER)
    for split in world.SPLITS:
        made = [example(row) for row in world.rows(split, 0, 200)]
        prompts = sorted(len(ids) for ids in tokenizer.encode([prompt for prompt, _ in made]))
        targets = sorted(len(ids) for ids in tokenizer.encode([target for _, target in made]))
        assert prompts[100] < 200
        assert prompts[190] < 320
        assert prompts[-1] < 450
        assert targets[100] < 60
        assert targets[-1] < 200


def test_invented_words_are_in_few_prompts_twice() -> None:
    """A name that is invented is a new one each time: it can only be read."""
    found = Counter(
        name
        for row in world.rows("train", 0, 1000)
        for tool in row["tools"]
        for name in tool["parameters"]["properties"]
    )
    assert sum(count == 1 for count in found.values()) > 300
