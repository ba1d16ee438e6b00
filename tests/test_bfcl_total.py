"""Nothing that a model may write raises, runs, or takes long; nothing needs more than Python.

The limit of every case is generous: what is slow here is quadratic and takes minutes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.evals import bfcl
from star_jax.evals.bfcl import java, javascript
from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.decode import Call
from star_jax.evals.verdict import Verdict

MEGABYTE = 1_000_000
TAGS = ["<tool_call>\n", "\n</tool_call>", "</think>", '{"name": "f", "arguments": {', "name"]
SIGNS = [*"\n ,:;\"'()[]{}=é\0\ud800", "{{", "}}", "()", "**"]
WORDS = ["new ", "int[]", "ArrayList<>", "HashMap<>", "Array(", "(Arrays.asList(", "add("]
ITEMS = ['put("a",', "1", "-2.5", "3L", "true", "null", "NaN", "__import__('os')"]
ALPHABET = st.sampled_from([*TAGS, *SIGNS, *WORDS, *ITEMS])
TEXTS = st.one_of(st.text(), st.lists(ALPHABET, max_size=40).map("".join))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@contextlib.contextmanager
def soon(seconds: float = 20) -> Iterator[None]:
    started = time.perf_counter()
    yield
    assert time.perf_counter() - started < seconds


def judge(calls: list[Call] | bfcl.Failure, category: str = "simple") -> Verdict:
    kinds = {"simple": "array", "java": "Array", "javascript": "array"}
    schema = {"type": kinds[category], "items": {"type": "any"}}
    parameters = {"type": "dict", "properties": {"a": schema}, "required": []}
    tools = [{"name": "f", "description": "d", "parameters": parameters}]
    return bfcl.check(calls, tools, [{"f": {"a": [[1], ""]}}], category)


def try_all(text: str) -> None:
    for version in ("v3", "v4"):
        for read in (bfcl.decode, bfcl.decode_turn, bfcl.decode_prompted):
            assert isinstance(judge(read(text, version)), Verdict)
        assert isinstance(bfcl.decode_execute(text, version), list | bfcl.Failure)
    calls: list[Call] = [{"name": "f", "arguments": {"a": text}}]
    for category in ("simple", "java", "javascript"):
        assert isinstance(judge(calls, category), Verdict)
    for convert, kinds in (
        (java.convert, ("Array", "ArrayList", "HashMap", "float", "double", "long", "integer")),
        (javascript.convert, ("array", "dict", "float", "Bigint", "integer", "String")),
    ):
        for kind in kinds:
            attempt(convert, text, kind)


def attempt(convert: Callable[..., Any], text: str, kind: str) -> None:
    for items in (None, "String"):
        with contextlib.suppress(Crash):
            convert(text, kind, items)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_no_text_raises(text: str) -> None:
    try_all(text)
    try_all(f"<tool_call>\n{text}\n</tool_call>")


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_no_call_tool_or_answer_raises(value: Any, schema: Any, accepted: Any) -> None:
    schemas = [schema, {"type": "array", "items": {"type": "dict"}}, {"type": "dict"}]
    for each in schemas:
        parameters = {"properties": {"a": each}, "required": []}
        tools = [{"name": "f", "parameters": parameters}]
        for answer in ([{"f": {"a": accepted}}], [{"f": {"a": [accepted]}}], [accepted]):
            for category in ("simple", "multiple", "parallel", "java", "javascript"):
                calls: list[Call] = [{"name": "f", "arguments": {"a": value}}]
                assert isinstance(bfcl.check(calls, tools, answer, category), Verdict)


def hostile(many: int) -> dict[str, str]:
    """Texts of `many` pieces, each of which something has to be looked for in what follows."""
    return {
        "brackets": "[" * many,
        "closed brackets": "[" * many + "]" * many,
        "objects": '{"a":' * many,
        "letters": "a" * 10 * many,
        "digits": "1" * 10 * many,
        "zeros": "\0" * 10,
        "half a character": "f(a='\ud800')\udfff",
        "opened calls": "<tool_call>\n" * many,
        "closed calls": "\n</tool_call>" * many,
        "thoughts": "</think>" * many,
        "spaces": "new" + " " * 10 * many,
        "java arrays": "new a[]{" * many,
        "java arrays on lines": "new a[]{" * many + "\n}",
        "java lists": "new ArrayList<>(Arrays.asList(" * many + "\n))",
        "java added": "new ArrayList<>() {{" + "add(" * many + "\n)}}",
        "java maps": "new HashMap<" * many + "\n>()",
        "java map": "new HashMap<>() {" + 'put("",' * many + "\n)}",
        "java keys": "new HashMap<>() {" + 'put("' * many + '",\n)}',
        "java pairs": "new HashMap<>() {" + 'put("",)' * many + "}",
        "java tails": "new HashMap<\n" + ">()" * many,
        "javascript rows": "[" + "[1]," * many + "\n[1\n]]",
        "javascript table": "[" + "[1]," * many + "[1]]",
        "javascript opened": "[" + "[" * many + "]",
        "javascript closed": "[[" + "]" * many + "x",
        "javascript colons": "{" + ":" * many + "}",
        "javascript commas": "{a:" + "," * many + "}",
        "javascript pairs": "{" + "a:1," * many + "}",
    }


PROMPTED = {
    "calls": "f(" * 40_000,
    "signs": "f(a=" + "-" * 90_000 + "1)",
    "sums": "f(a=" + "1+" * 40_000 + "1)",
    "dots": "f" + ".b" * 40_000 + "(a=1)",
    "items": "f(a=x" + "[0]" * 30_000 + ")",
    "nots": "f(a=" + "not " * 20_000 + "1)",
    "choices": "f(a=" + "x if y else " * 8_000 + "1)",
    "digits": "f(a=" + "9" * 90_000 + ")",
    "tuples": "f(a=" + "(1," * 20_000 + ")" * 20_000 + ")",
}


def wrapped(text: str) -> str:
    return f'<tool_call>\n{{"name": "f", "arguments": {{"a": {text}}}}}\n</tool_call>'


@pytest.mark.parametrize("name", hostile(0))
def test_no_text_takes_long(name: str) -> None:
    text = hostile(30_000)[name]
    with soon():
        try_all(text)
        try_all(wrapped(text))


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile(0))
def test_ten_megabytes_do_not_take_long(name: str) -> None:
    text = hostile(1_000_000)[name]
    with soon(100):
        try_all(text[: 10 * MEGABYTE])


@pytest.mark.parametrize("name", PROMPTED)
def test_python_that_nests_without_end_is_no_call(name: str) -> None:
    with soon():
        assert isinstance(bfcl.decode_prompted(PROMPTED[name]), bfcl.Failure)


def test_nothing_is_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    for code in (
        f"__import__('pathlib').Path({str(target)!r}).touch()",
        f"open({str(target)!r}, 'w')",
        f"().__class__.__base__.__subclasses__()[0](open({str(target)!r}, 'w'))",
        f"[open({str(target)!r}, 'w') for _ in (1,)]",
        f"1 + open({str(target)!r}, 'w')",
    ):
        try_all(code)
        try_all(f"[f(a={code})]")
        try_all(f"[{code}]")
        try_all(
            f"<tool_call>\n{json.dumps({'name': code, 'arguments': {code: code}})}\n</tool_call>"
        )
    assert not target.exists()


def test_a_name_may_be_any_word() -> None:
    for name in ("__class__", "__init__", "items", "", "f\n", "\ud800"):
        text = f"<tool_call>\n{json.dumps({'name': name, 'arguments': {name: 1}})}\n</tool_call>"
        assert bfcl.decode(text) == [{"name": name, "arguments": {name: 1}}]
        assert not judge(bfcl.decode(text)).valid


def test_numbers_without_end() -> None:
    for value in (10**10_000, -(10**10_000), float("nan"), float("inf")):
        for kind in ("integer", "float", "string", "dict"):
            parameters = {"properties": {"a": {"type": kind}}, "required": []}
            tools = [{"name": "f", "parameters": parameters}]
            calls: list[Call] = [{"name": "f", "arguments": {"a": value}}]
            assert not bfcl.check(calls, tools, [{"f": {"a": [1, "", "x"]}}], "simple").valid


IMPORTS = """
import sys, time
before, started = set(sys.modules), time.perf_counter()
from star_jax.evals import bfcl
taken = time.perf_counter() - started
foreign = {name.split('.')[0] for name in set(sys.modules) - before}
foreign -= set(sys.stdlib_module_names) | {'star_jax'}
print(taken, sorted(foreign))
"""


def test_the_checkers_are_python_alone_and_start_at_once() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    printed = [run.stdout.split(maxsplit=1) for run in runs]
    assert {foreign.strip() for _, foreign in printed} == {"[]"}
    assert min(float(taken) for taken, _ in printed) < 0.2
