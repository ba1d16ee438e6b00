"""The rules of a verdict, one by one, without recorded values."""

from __future__ import annotations

from typing import Any

import pytest

from star_jax.evals import bfcl
from star_jax.evals.bfcl.decode import Call
from star_jax.evals.verdict import Verdict


def tool(schema: dict[str, Any], required: bool = True, name: str = "f") -> dict[str, Any]:
    parameters = {"properties": {"x": schema}, "required": ["x"] if required else []}
    return {"name": name, "description": "d", "parameters": {"type": "dict", **parameters}}


def call(value: Any, name: str = "f") -> Call:
    return {"name": name, "arguments": {"x": value}}


def verdict(kind: str, value: Any, accepted: list[Any], items: str | None = None) -> str:
    """`right`, the type of the error, or the exception that the official checker ends with."""
    schema = {"type": kind, **({"items": {"type": items}} if items else {})}
    return word(bfcl.check([call(value)], [tool(schema)], [{"f": {"x": accepted}}], "simple"))


def word(found: Verdict) -> str:
    assert found.valid == (found.error_type is None and found.raises is None)
    return "right" if found.valid else found.error_type or f"!{found.raises}"


@pytest.mark.parametrize(
    ("kind", "value", "accepted", "expected"),
    [
        ("integer", 1, [1], "right"),
        ("integer", True, [1], "type_error:simple"),
        ("integer", 1.0, [1], "type_error:simple"),
        ("integer", 1, [True], "right"),  # a variable is compared as it stands: 1 == True
        ("integer", True, [True], "right"),  # a variable: of the answer's type
        ("integer", None, ["", None], "right"),
        ("integer", None, [""], "type_error:simple"),
        ("float", 1, [1.0], "right"),
        ("float", float("nan"), [float("nan")], "value_error:others"),
        ("float", 10**400, [1.0], "!OverflowError"),
        ("string", "New York!", ["new-york!"], "right"),
        ("string", "it's", ['It"s'], "right"),
        ("string", "a\tb", ["a b"], "value_error:string"),
        ("string", "", ["", "a"], "right"),
        ("string", "A", [1, "a"], "value_error:others"),  # a variable is compared as it stands
        ("string", ["a"], [["a"]], "right"),
        ("any", {"a": 1}, [{"a": 1}], "right"),
        ("dict", {"a": "X y"}, [{"a": ["xy"]}], "right"),
        ("dict", {"a": 1}, [{"a": [True]}], "right"),
        ("dict", {"a": ["X"]}, [{"a": [["x"]]}], "value_error:dict_value"),
        ("dict", {"b": 1}, [{"a": [1, ""]}], "value_error:dict_key"),
        ("dict", {}, [{"a": [1, ""]}], "right"),
        ("dict", {"a": 2}, [{"a": [1], "b": [1]}], "value_error:dict_key"),
        ("dict", {"a": 1}, [""], "dict_checker:unclear"),
        ("dict", {"a": "b"}, [{"a": "abc"}], "right"),  # a string's letters
        ("what", 1, [1], "!KeyError"),
        ("array", [1], [[1]], "!KeyError"),  # no type for the elements
    ],
)
def test_a_value(kind: str, value: Any, accepted: list[Any], expected: str) -> None:
    assert verdict(kind, value, accepted) == expected


@pytest.mark.parametrize(
    ("items", "value", "accepted", "expected"),
    [
        ("string", ["A b"], [["ab"]], "right"),
        ("string", ["b", "a"], [["a", "b"]], "value_error:list/tuple"),
        ("float", [1], [[1.0]], "type_error:nested"),
        ("float", [1], [[1]], "right"),
        ("float", [1], ["", [1.0]], "right"),  # "" lets elements of any type pass
        ("float", [], ["", [1.0]], "right"),
        ("float", [], [], "type_error:simple"),
        ("array", [["A"]], [[["a"]]], "value_error:list/tuple"),
        ("string", "a", [["a"]], "type_error:simple"),
        ("dict", [{"a": "X"}], [[{"a": ["x"]}]], "right"),
        ("dict", [{"a": 1}, {"a": 1}], [[{"a": [1]}]], "value_error:list_dict_count"),
        ("dict", [{"a": 1}, {"a": 2}], [[{"a": [2]}, {"a": [1]}]], "value_error:dict_value"),
        ("dict", ["a"], [[{"a": [1]}], ""], "!AttributeError"),
        ("dict", [], ["", [{"a": [1]}]], "right"),
    ],
)
def test_a_list(items: str, value: Any, accepted: list[Any], expected: str) -> None:
    assert verdict("array", value, accepted, items) == expected


@pytest.mark.parametrize(
    ("category", "kind", "value", "accepted", "expected"),
    [
        ("java", "long", "5L", [5], "right"),
        ("simple_java", "long", "5", [5], "type_error:simple"),
        ("java", "integer", 5, [5], "type_error:java"),
        ("java", "any", "5", [5], "value_error:others"),
        ("java", "Queue", "5", [5], "!NotImplementedError"),
        ("java", "string", "5", ["5"], "!KeyError"),
        ("javascript", "Boolean", "true", [True], "right"),
        ("simple_javascript", "Boolean", True, [True], "type_error:js"),
        ("javascript", "dict", "{a: 1}", [{"a": [1]}], "right"),
        ("simple", "integer", "5", [5], "type_error:simple"),
    ],
)
def test_source_in_a_string(
    category: str, kind: str, value: Any, accepted: list[Any], expected: str
) -> None:
    answer = [{"f": {"x": accepted}}]
    assert word(bfcl.check([call(value)], [tool({"type": kind})], answer, category)) == expected


def test_the_parameters_of_a_call() -> None:
    def found(arguments: dict[str, Any], accepted: dict[str, Any], required: bool = False) -> str:
        tools = [tool({"type": "integer"}, required)]
        calls: list[Call] = [{"name": "f", "arguments": arguments}]
        return word(bfcl.check(calls, tools, [{"f": accepted}], "simple"))

    prefix = "simple_function_checker"
    assert found({}, {"x": [1, ""]}) == "right"
    assert found({}, {"x": [1]}) == f"{prefix}:missing_optional"
    assert found({}, {"x": [1, ""]}, required=True) == f"{prefix}:missing_required"
    assert found({"x": 1, "y": 1}, {"x": [1], "y": [1]}) == f"{prefix}:unexpected_param"
    assert found({"x": 1}, {}) == f"{prefix}:unexpected_param"


def test_the_number_of_calls_and_their_names() -> None:
    one, two = tool({"type": "integer"}), tool({"type": "integer"}, name="g")
    answer = [{"g": {"x": [1]}}]
    assert word(bfcl.check([call(1)], [one, two], answer, "multiple")) == (
        "simple_function_checker:wrong_func_name"
    )
    assert word(bfcl.check([call(1, "g")], [one, two], answer, "live_multiple")) == "right"
    # One question of one tool is about that tool, whatever the answer names.
    assert word(bfcl.check([call(1)], [one], answer, "simple")) == "right"
    assert word(bfcl.check([call(1)], [one], answer, "multiple")) == "!TypeError"
    for category, checker in [
        ("live_simple", "simple_function_checker"),
        ("multiple", "multiple_function_checker"),
        ("parallel_multiple", "parallel_function_checker_no_order"),
    ]:
        assert word(bfcl.check([], [one], answer, category)) == f"{checker}:wrong_count"


def test_parallel_calls_are_taken_greedily() -> None:
    tools = [tool({"type": "integer"})]
    answer = [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]
    assert bfcl.check([call(2), call(1)], tools, answer, "parallel").valid
    # The first expected call takes 1, and nothing is left for the second.
    found = bfcl.check([call(1), call(2)], tools, answer, "parallel")
    assert found.error_type == "parallel_function_checker_no_order:cannot_find_match"
    assert found.sub_error_types == ("value_error:others",)


def test_what_is_no_call_is_a_refusal() -> None:
    failure = bfcl.decode('<tool_call>\n{"name": "f"}\n</tool_call>')
    assert isinstance(failure, bfcl.Failure)
    for calls, called in [([], False), (failure, False), ([call(1, "made_up")], True)]:
        refused = bfcl.check(calls, [], None, "live_irrelevance")
        wanted = bfcl.check(calls, [], None, "live_relevance")
        assert word(refused) == ("irrelevance_error:decoder_success" if called else "right")
        assert word(wanted) == ("right" if called else "relevance_error:decoder_failed")
    assert word(bfcl.check(failure, [], [], "simple")) == "ast_decoder:decoder_failed"


def test_calls_of_another_form_are_a_wrong_answer() -> None:
    for calls in (None, "f(x=1)", 5, [1], [{"f": {"x": 1}}], [{"name": "f", "arguments": "{}"}]):
        found = bfcl.check(calls, [], [], "simple")
        assert word(found) == "ast_decoder:decoder_wrong_output_format"


def test_a_category_that_is_none_is_a_mistake() -> None:
    for category in ("paralell", "multi_turn_base", ""):
        with pytest.raises(ValueError, match="is none of a single turn: give one of irrelevance"):
            bfcl.check([], [], [], category)
    with pytest.raises(ValueError, match=r"version is 'v5': give one of v3, v4"):
        bfcl.decode("", "v5")


def test_versions_differ_where_a_body_is_no_object() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    bad = "<tool_call>\n{]\n</tool_call>"
    assert bfcl.decode(good + bad) == []
    assert bfcl.decode(good + bad, "v4") == [{"name": "f", "arguments": {}}]
    failure = bfcl.decode(good + "<tool_call>\n5\n</tool_call>", "v4")
    assert isinstance(failure, bfcl.Failure)
    assert failure.error == "ValueError"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[f(a=1), g.h(b='x')]", [("f", {"a": 1}), ("g.h", {"b": "x"})]),
        ("```\nf(a=-1, b=[1, (2,)])\n```", [("f", {"a": -1, "b": [1, (2,)]})]),
        ("f(1, a=true, b=g(c=1))", [("f", {"a": "true", "b": {"g": {"c": 1}}})]),
        ("f(a=g(1))", [("f", {"a": "g(1)"})]),
        ("f(a=1 + 2 * 3, b='x' + 'y', c=x[0])", [("f", {"a": 7, "b": "xy", "c": "x[0]"})]),
        ("f(a=not True)", [("f", {"a": -1})]),
        ("f(a={'k': x})", [("f", {"a": {"k": "x"}})]),
    ],
)
def test_prompted_calls(text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    calls = [{"name": name, "arguments": arguments} for name, arguments in expected]
    assert bfcl.decode_prompted(text) == calls


@pytest.mark.parametrize(
    "text",
    [
        *("", "hello", "hello there", "[1]", "f(a=x + 1)", "f(a={1, 2})", "f(a=lambda: 1)"),
        *("f(a=9**9**9**9)", "f(a='a' * 10**10)", "f(a=1 << 10**10)", "f(a=1/0)"),
        *("f(a={[]: 1})", "f(a='\ud800')"),
    ],
)
def test_what_is_no_list_of_calls(text: str) -> None:
    assert isinstance(bfcl.decode_prompted(text), bfcl.Failure)


def test_no_calls_prompted() -> None:
    assert bfcl.decode_prompted("[]", "v4") == []
    assert isinstance(bfcl.decode_prompted("[]"), bfcl.Failure)
