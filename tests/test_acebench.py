"""ACEBench: verdicts are the official checker's, and nothing that an answer holds is run."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.evals import acebench
from star_jax.evals.acebench.arithmetic import Unreadable
from star_jax.evals.acebench.decode import MAX_CHARS, Call, decode
from star_jax.evals.acebench.values import TYPES
from star_jax.evals.verdict import Verdict


def cases(shared: Path, name: str) -> list[dict[str, Any]]:
    lines = (shared / "golden" / "eval" / name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def spelled(answer: dict[str, Any]) -> str:
    """The expected calls as a model should write them."""
    calls = [
        f"{re.sub(r'_[0-9]+$', '', key)}({', '.join(f'{k}={v!r}' for k, v in values.items())})"
        for key, values in answer.items()
    ]
    return f"[{', '.join(calls)}]"


def entry(
    answer: Any, properties: dict[str, Any] | None = None, required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """An entry with one tool `f`."""
    parameters = {"type": "object", "properties": properties or {}, "required": list(required)}
    tool = {"name": "f", "description": "d", "parameters": parameters}
    return {"id": "x", "tools": [tool], "possible_answer": answer}


def verdict(text: str, answer: Any, **properties: str | dict[str, Any]) -> Verdict:
    """What becomes of a call of `f`, whose parameters have these types."""
    schemas = {k: {"type": v} if isinstance(v, str) else v for k, v in properties.items()}
    return acebench.check(text, entry({"f": answer}, schemas))


def kind(found: Verdict) -> str | None:
    return "valid" if found.valid else found.raises or found.error_type


# --- the official verdicts ---------------------------------------------------


def test_every_verdict_is_the_official_one(shared: Path) -> None:
    rows = cases(shared, "acebench_dev.jsonl")
    assert len(rows) == 412
    for row in rows:
        found = acebench.check(row["raw"], row)
        expected = (row["valid"], row["error_type"], row.get("raises"))
        assert (found.valid, found.error_type, found.raises) == expected, row["case_id"]
        assert bool(found.error) is not found.valid


def test_answers_are_decoded_as_officially(shared: Path) -> None:
    read = 0
    for row in cases(shared, "acebench_dev.jsonl"):
        try:
            calls = decode(row["raw"])
        except Unreadable:
            assert row["error_type"] == "wrong_output_format"
            continue
        if row["decoded"] is not None:
            read += 1
            assert (
                json.loads(json.dumps([{call.name: call.arguments} for call in calls]))
                == (row["decoded"])
            ), row["case_id"]
    assert read > 300


# --- the text ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a='New York')]", [("f", {"a": "NewYork"})]),
        ("[ f ( a = 1 ) , g.h(b = -2.5) ]", [("f", {"a": 1}), ("g.h", {"b": -2.5})]),
        ("(f(),)", [("f", {})]),
        ("{f(a=1)}", [("f", {"a": 1})]),
        ("[]", []),
        ("[f(1, 'x', a=2)]", [("f", {"a": 2})]),
        ("[f(a=true, b=null, c=True)]", [("f", {"a": "true", "b": "null", "c": True})]),
        ("[f(a=1, a=2)]", [("f", {"a": 2})]),
        ("[f(**{'a': 1})]", [("f", {None: {"a": 1}})]),
        ("[f(a=g(b=1), c=h())]", [("f", {"a": {"g": {"b": 1}}, "c": {"h": {}}})]),
        ("[f(a=x[0], b=...)]", [("f", {"a": "x[0]", "b": "..."})]),
        ("[f(a=not True, b=~5, c=+3)]", [("f", {"a": "notTrue", "b": -5, "c": -3})]),
        ("[f(a=(1, [2], {'k': 'v w'}))]", [("f", {"a": (1, [2], {"k": "vw"})})]),
        ("[x().y(a=1), 'z'(b=2)]", [("y", {"a": 1}), ("", {"b": 2})]),
        (r"[f(a='\x20', b='\d', c=r'\n')]", [("f", {"a": " ", "b": r"\d", "c": r"\n"})]),
        ("[f(a='ä' 'ö')] # so", [("f", {"a": "äö"})]),
        ("[f(a=2023-10-12)]", [("f", {"a": 2001})]),
        (
            "[f(a=24*7.5, b='x'+'y', c=[1]+[2], d=7//2**2)]",
            [("f", {"a": 180.0, "b": "xy", "c": [1, 2], "d": 1})],
        ),
    ],
)
def test_an_answer_is_read(text: str, calls: list[tuple[str, Any]]) -> None:
    assert decode(text) == [Call(*call) for call in calls]


UNREADABLE = [
    "",
    "f(a=1)",
    "```[f(a=1)]```",
    "Sure: [f(a=1)]",
    "<think>so</think>[f(a=1)]",
    "[f]",
    "[f(a=1), 2]",
    "[f(from='a')]",
    "[f(a=2023-05-01)]",
    "[f(a=-x)]",
    "[f(a=-'x')]",
    "[f(a={1, 2})]",
    "[f(a={**b})]",
    "[f(a={[]: 1})]",
    "[f(a=lambda: 1)]",
    "[f(a=x.y)]",
    "[f(a=(b)if(c)else(d))]",
    "[f(a=1/0)]",
    "[f(a=x+1)]",
    "[f(a='%s' % 1)]",
    "[f(a=[0]*9)]",
    "[f(a=[(y)for(y)in(z)])]",
    "[f(a=f'{b}')]",
    "[f(a=1)] and more",
    "[f(a='x]",
    "[f(a=\x00)]",
    "[f(a='\ud800')]",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_no_list_of_calls(text: str) -> None:
    found = verdict(text, {"a": 1}, a="integer")
    assert (found.valid, found.error_type, found.raises) == (False, "wrong_output_format", None)
    assert found.error[0].startswith("no list of calls: ")


def test_what_is_no_text_is_no_list_of_calls() -> None:
    assert kind(acebench.check(None, entry({"f": {}}))) == "wrong_output_format"  # ty: ignore[invalid-argument-type]


HUGE = 100_000
HOSTILE = {
    "brackets": "[" * HUGE,
    "calls": "f(" * HUGE,
    "objects": "[f(a=" + "{1:" * HUGE,
    "closed": "[" * 150 + "]" * 150,
    "signs": "[f(a=" + "-" * 90_000 + "1)]",
    "sums": "[f(a=1" + "+1" * 40_000 + ")]",
    "powers": "[f(a=" + "9**" * 6 + "9)]",
    "power": "[f(a=9**9**9)]",
    "shift": "[f(a=1<<10**9)]",
    "shift back": "[f(a=(1<<9999)<<19999)]",
    "product": "[f(a=(9**5000)*(9**5000))]",
    "repeats": "[f(a='x'*10**9)]",
    "repeated": "[f(a=10**9*'x')]",
    "lists": "[f(a=[[[0]*9999]*9999]*9999)]",
    "format": "[f(a='%999999999d'%1)]",
    "digits": f"[f(a={'9' * 90_000})]",
    "hex digits": f"[f(a=0x{'f' * 90_000})]",
    "names": "[f" + ".a" * 45_000 + "(a=1)]",
    "chained": "[f" + "()" * 45_000 + "]",
    "subscripts": "[f(a=b" + "[0]" * 30_000 + ")]",
    "lambdas": "[f(a=" + "lambda:" * 14_000 + "1)]",
    "keywords": "[f(" + "a=1," * 20_000 + ")]",
    "long": "[f(a='" + "x" * 10_000_000 + "')]",
    "spaces": " \n" * 5_000_000,
    "surrogate": "[f(a='\udfff\ud800')]",
    "null": "[f(a='\x00')]",
    "backslash": "[f(a='\\",
    "dunder": "[f(a=().__class__.__bases__[0].__subclasses__())]",
    "import": "[f(a=__import__('os').system('exit 3'))]",
    "import in a sum": "[f(a=__import__('sys').exit(3)+1)]",
    "exit in a sum": "[f(a=''+exit())]",
    "dunder names": "[__import__(__name__='os'), eval(a='1')]",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("declared", ["integer", "string", "object"])
def test_no_text_raises_or_is_run(name: str, declared: str) -> None:
    answer = {"integer": 1, "string": "x", "object": {"k": 1}}
    found = verdict(HOSTILE[name], {"a": answer[declared]}, a=declared)
    assert isinstance(found, Verdict)
    assert len("".join(found.error)) < 1000
    if name not in ("keywords", "hex digits", "names"):
        assert not found.valid


def test_an_answer_may_be_so_long_and_no_longer() -> None:
    def padded(length: int) -> str:
        return "[f(a='" + "x" * (length - 9) + "')]"

    assert verdict(padded(MAX_CHARS), {"a": "x"}, a="string").valid
    assert kind(verdict(padded(MAX_CHARS + 1), {"a": "x"}, a="string")) == "wrong_output_format"


def test_a_computed_value_may_be_so_large_and_no_larger() -> None:
    for text in ("'x'*10_000", "10_000*'x'", "1<<19_999", "2**10_000", "'x'*-5"):
        assert decode(f"[f(a={text})]")
    for text in ("'x'*10_001", "10_001*'x'", "1<<20_000", "3**10_001", "(1<<9999)*(1<<10_001)"):
        with pytest.raises(Unreadable, match="would grow too"):
            decode(f"[f(a={text})]")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("[](){}fa=,:'\"1-+*.\\x \n#é你"), max_size=40) | st.text())
def test_any_text_has_a_verdict(text: str) -> None:
    found = verdict(text, {"a": "x"}, a="string")
    assert found.valid or found.error_type or found.raises


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(...),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=6,
)
json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "x", "true"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)
declared_types = st.sampled_from([*TYPES, "strange"])


@settings(max_examples=200, deadline=None)
@given(values, json_values, declared_types, st.none() | declared_types)
def test_any_value_has_a_verdict(value: Any, answer: Any, declared: str, of: str | None) -> None:
    schema: dict[str, Any] = {"type": declared}
    if of:
        schema["items"] = {"type": of}
    asked = entry({"f": {"a": answer}}, {"a": schema})
    before = copy.deepcopy(asked)
    found = acebench.check(f"[f(a={value!r})]", asked)
    assert found.valid or found.error_type or found.raises
    assert asked == before


# --- the rules, one by one ---------------------------------------------------


def test_calls_are_counted_and_named() -> None:
    two = entry({"f_1": {"a": "x"}, "f_2": {"a": "y"}}, {"a": {"type": "string"}})
    assert kind(acebench.check("[f(a='x')]", two)) == "wrong functions number"
    assert kind(acebench.check("[f(a='x'), g(a='y')]", two)) == "function_mismatch"
    assert kind(acebench.check("[f(a='y'), f(a='x')]", two)) == "valid"
    # One call may stand for both.
    assert kind(acebench.check("[f(a='xy'), f(a='z')]", two)) == "valid"
    assert kind(acebench.check("[f(a='x'), f(a='z')]", two)) == "value_error:string"


def test_the_error_is_that_of_the_last_call() -> None:
    tools = [
        {"name": name, "parameters": {"properties": {"a": {"type": "string"}}, "required": []}}
        for name in ("f", "g")
    ]
    both = {"tools": tools, "possible_answer": {"f": {"a": "x"}, "g": {"a": "y"}}}
    bad = "simple_function_checker:unclear"
    assert kind(acebench.check("[f(a='no'), g(a='y')]", both)) == bad
    assert kind(acebench.check("[g(a='y'), f(a='no')]", both)) == "value_error:string"


def test_the_tool_is_the_first_whose_name_is_a_part_of_the_answers() -> None:
    tools = [
        {"name": name, "parameters": {"properties": {"a": {"type": "string"}}, "required": []}}
        for name in ("send", "resend")
    ]
    asked = {"tools": tools, "possible_answer": {"resend": {"a": "x"}}}
    assert kind(acebench.check("[resend(a='x')]", asked)) == "wrong_function_name"
    asked["tools"] = tools[::-1]
    assert kind(acebench.check("[resend(a='x')]", asked)) == "valid"


def test_parameters_are_asked_for() -> None:
    schemas = {"a": {"type": "string"}, "b": {"type": "string"}}
    asked = entry({"f": {"a": "x", "b": "y"}}, schemas, required=("a",))
    assert kind(acebench.check("[f(b='y')]", asked)) == "lack_args"
    assert kind(acebench.check("[f(a='x')]", asked)) == "valid"  # b may be missing
    assert kind(acebench.check("[f(a='x', c='z')]", asked)) == "addition_args"
    fewer = entry({"f": {"a": "x"}}, schemas, required=("a",))
    assert kind(acebench.check("[f(a='x', b='y')]", fewer)) == "addition_args"
    assert kind(acebench.check("[f()]", asked)) == "wrong_param"
    assert kind(acebench.check("[f(a='x')]", entry({"f": {}}, schemas))) == "wrong_param"


def test_a_tool_without_parameters() -> None:
    asked = {"tools": [{"name": "f", "parameters": {}}], "possible_answer": {"f": {}}}
    assert kind(acebench.check("[f()]", asked)) == "valid"
    assert kind(acebench.check("[f(a=1)]", asked)) == "wrong_param"


@pytest.mark.parametrize(
    ("declared", "answer", "given", "expected"),
    [
        ("integer", 5, "99", "valid"),  # numbers and booleans are not compared
        ("boolean", True, "False", "valid"),
        ("number", 5, "7", "valid"),
        ("float", 1.5, "2", "valid"),
        ("integer", 5, "5.0", "valid"),  # equal to the answer: a variable
        ("integer", 5, "5.5", "type_error"),
        ("integer", 5, "'5'", "type_error"),
        ("integer", 1, "True", "valid"),
        ("boolean", True, "1", "valid"),
        ("boolean", True, "0", "type_error"),
        ("boolean", True, "'true'", "valid"),
        ("boolean", True, "'True'", "type_error"),
        ("string", "New York", "'new-york city'", "valid"),
        ("string", "New York", "'York'", "value_error:string"),
        ("string", "a!b", "'ab'", "value_error:string"),
        ("string", "", "'anything'", "valid"),
        ("string", "true", "'true'", "type_error"),
        ("string", 5, "7", "valid"),  # the answer is no text: a variable
        ("string", 5, "'seven'", "valid"),
        ("enum", "x", "'y'", "valid"),
        ("list", ["a b"], "['A-B']", "valid"),
        ("list", ["a", "b"], "['b', 'a']", "value_error:list/tuple"),
        ("list", [1], "[1.0]", "valid"),
        ("list", [1], "(1,)", "type_error"),
        ("tuple", [1], "(1,)", "value_error"),  # elements of no type are objects
        ("array", [{"k": "v"}], "[{'k': 'v'}]", "valid"),
        ("array", [{"k": "v"}], "[]", "value_error:list_dict_count"),
        ("array", ["x"], "['x']", "value_error"),
        ("array", [], "[]", "type_error"),
        ("object", {}, "{}", "type_error"),
        ("object", {"k": 5}, "{'k': 15}", "valid"),  # as text
        ("object", {"k": "5"}, "{'k': 51}", "valid"),
        ("object", {"k": 5}, "{'k': 4}", "value_error"),
        ("object", {"k": 5}, "{'l': 5}", "value_error"),
        ("object", {"k": 5}, "{'k': 5, 'l': 6}", "value_error"),
        ("object", {"k": {"l": "A b"}}, "{'k': {'l': 'ab'}}", "valid"),
        ("object", {"k": {"l": "x"}}, "{'k': 'x'}", "value_error"),
        ("object", {"k": ["New York"]}, "{'k': ['New York']}", "value_error"),
        ("object", {"k": True}, "{'k': 'true'}", "valid"),
        ("strange", 5, "5", "KeyError"),
        ("dict", "", "{'k': 1}", "AttributeError"),
        ("array", 5, "[1]", "TypeError"),
        ("objectArray", [{"k": 1}], "[{'k': 1}]", "TypeError"),
        ("objectArray", [{"k": 1}], "[]", "value_error:dict_items"),
        ("object", {"k": 5}, "{'k': 0x" + "f" * 5000 + "}", "ValueError"),
        ("float", 1.5, "0x" + "f" * 5000, "OverflowError"),
    ],
)
def test_an_argument(declared: str, answer: Any, given: str, expected: str) -> None:
    found = verdict(f"[f(a={given})]", {"a": answer}, a=declared)
    assert kind(found) == expected
    assert found.error_type is None or found.raises is None


def test_elements_have_types() -> None:
    numbers = {"type": "array", "items": {"type": "number"}}
    assert verdict("[f(a=[1, 2])]", {"a": [1, 2]}, a=numbers).valid
    # Elements of a list are only typed where the expected ones are lists.
    assert kind(verdict("[f(a=['x', 2])]", {"a": [1, 2]}, a=numbers)) == "value_error:list/tuple"
    assert kind(verdict("[f(a=['x'])]", {"a": [[1]]}, a=numbers)) == "type_error"
    for declared in ("array", "objectArray"):
        texts = {"type": declared, "items": {"type": "string"}}
        assert verdict("[f(a=['A b'])]", {"a": ["ab"]}, a=texts).valid


def test_any_alternative_will_do_and_the_first_ones_error_is_told() -> None:
    schemas = {"a": {"type": "string"}, "b": {"type": "integer"}}
    asked = entry([{"f": {"a": "x"}}, {"f": {"b": 1}}], schemas)
    assert kind(acebench.check("[f(b=1)]", asked)) == "valid"
    assert kind(acebench.check("[f(a='y')]", asked)) == "value_error:string"
    assert kind(acebench.check("[f(b='y')]", asked)) == "addition_args"


def test_what_the_official_checker_raises_on() -> None:
    asked = entry({"f": {"a": "x"}}, {"a": {"type": "string"}})
    del asked["tools"][0]["parameters"]["required"]
    assert acebench.check("[f(a='x')]", asked).raises == "KeyError"
    asked["tools"] = []
    found = acebench.check("[f(a='x')]", asked)
    assert (found.valid, found.error_type, found.raises) == (False, None, "TypeError")
    assert found.error == ("the official checker ends with TypeError",)


def test_chinese_is_judged_alike() -> None:
    asked = entry({"f": {"城市": "上海 市", "日": ["周一"]}}, {"城市": {"type": "string"}})
    asked["tools"][0]["parameters"]["properties"]["日"] = {"type": "list"}
    assert kind(acebench.check("[f(城市='上海市', 日=['周一'])]", asked)) == "valid"
    assert kind(acebench.check("[f(城市='北京', 日=['周一'])]", asked)) == "value_error:string"


def test_an_entry_may_be_spelled_as_in_the_files() -> None:
    asked = entry({"f": {"a": "x"}}, {"a": {"type": "string"}})
    official = {"id": "x", "function": asked["tools"], "ground_truth": asked["possible_answer"]}
    assert acebench.check("[f(a='x')]", official) == Verdict(True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tools": None}, "entry x: function: is missing: make it a list of tools"),
        ({"tools": [{"a": 1}]}, "entry x: function[0]: is {'a': 1}: make it an object with a name"),
        ({"possible_answer": []}, "entry x: ground_truth: is []: make it an object of calls, or"),
        ({"possible_answer": "f"}, "entry x: ground_truth: is 'f': make it an object of calls, or"),
    ],
)
def test_an_entry_that_is_none_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        acebench.check("[]", entry({"f": {}}) | change)


# --- what it needs -----------------------------------------------------------

IMPORT = """
import sys, time
start = time.process_time()
from star_jax.evals import acebench
spent = time.process_time() - start
entry = acebench.read(acebench.MINI)[0]
acebench.messages(entry), acebench.check("[f()]", entry), acebench.aggregate({})
heavy = {"numpy", "jax", "flax", "transformers", "jaxtyping", "yaml"} & set(sys.modules)
assert not heavy, heavy
print(spent)
"""


def test_the_standard_library_is_enough_and_loads_at_once() -> None:
    def load() -> float:
        ran = subprocess.run(
            [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True
        )
        return float(ran.stdout)

    assert min(load() for _ in range(3)) < 0.2
