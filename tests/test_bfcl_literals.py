"""Java and JavaScript literals: what the official converter takes, leaves, and trips over.

The expected values were read off the official converter, one literal after the other.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from star_jax.evals.bfcl import java, javascript
from star_jax.evals.bfcl.crash import Crash

BLOCK = 'new HashMap<String, Object>() {{ put("a", 1); put("b", "x"); }}'


@pytest.mark.parametrize(
    ("text", "kind", "items", "expected"),
    [
        ("5", "integer", None, 5),
        ("-05", "short", None, -5),
        ("5\n", "byte", None, 5),
        ("+5", "integer", None, "+5"),
        (" 5", "integer", None, " 5"),
        ("5L", "long", None, 5),
        ("5", "long", None, "5"),
        ("5f", "float", None, 5.0),
        ("1.5e-3F", "float", None, 0.0015),
        ("5.f", "float", None, "5.f"),
        ("5", "float", None, "5"),
        ("5", "double", None, 5.0),
        ("5d", "double", None, "5d"),
        ("5.0f", "double", None, "5.0f"),
        ("true", "boolean", None, True),
        ("true\n", "boolean", None, "true\n"),
        ("True", "boolean", None, "True"),
        ("'a'", "char", None, "'a'"),
        ('"a"', "String", None, '"a"'),
        ("5", "any", None, "5"),
        ("new int[]{1, 2}", "Array", "integer", [1, 2]),
        ("x = new int[] {1,,2,};", "Array", "integer", [1, 2]),
        ("new int[]{}", "Array", "integer", []),
        ("new int[]{1,\n2}", "Array", "integer", "new int[]{1,\n2}"),
        ("new int []{1}", "Array", "integer", "new int []{1}"),
        ("{1, 2}", "Array", "integer", "{1, 2}"),
        ('new String[]{"a", b}', "Array", "String", ['"a"', "b"]),
        ('new String[]{"a,b"}', "Array", "String", ['"a', 'b"']),
        ('new Object[]{1, "a", true, 2L, 3f, null}', "Array", None, [1, "a", True, 2, 3.0, "null"]),
        ("new Object[]{.5, 1e3, 5d}", "Array", None, [0.5, 1000.0, "5d"]),
        ("new int[]{1\n} new int[]{2}", "Array", "integer", [2]),
        ("new ArrayList<>(Arrays.asList(1, 2))", "ArrayList", "integer", [1, 2]),
        ("new ArrayList<>(Arrays.asList(1,,2))", "ArrayList", "integer", [1, "", 2]),
        ('new ArrayList<String>(Arrays.asList("a", bc))', "ArrayList", "String", ["a", ""]),
        ('new ArrayList<>(Arrays.asList("a"))', "ArrayList", "char", ["a"]),
        ('new ArrayList<>(Arrays.asList("a"))', "ArrayList", "any", ['"a"']),
        ("new ArrayList<>(asList())", "ArrayList", "any", "new ArrayList<>(asList())"),
        ("new ArrayList<>(Arrays.asList( ))", "ArrayList", "any", [""]),
        ("new ArrayList<Integer>() {{ add(1); add(2); }}", "ArrayList", "integer", [1, 2]),
        ("new ArrayList<Integer>() {{ }}add(1); }}", "ArrayList", "integer", [1]),
        ("new ArrayList<>() {{ add(f(1)); }}", "ArrayList", None, ["f(1"]),
        ("new ArrayList<>()", "ArrayList", "integer", []),
        ("List.of(1)", "ArrayList", "integer", "List.of(1)"),
        ("new HashMap<>()", "HashMap", None, {}),
        (BLOCK, "HashMap", None, {"a": 1, "b": "x"}),
        ('new HashMap<>(){put("a",\n1);}', "HashMap", None, {"a": 1}),
        ('new HashMap<>() {{ put("a" , 1); }}', "HashMap", None, {}),
        ('new HashMap<>() {{ put("k", new int[]{1}); }}', "HashMap", None, {}),
        ('new HashMap<>() {{ put("a", "}"); }}', "HashMap", None, {}),
        ('new HashMap<>() {{ put("a", x\n"b",\n2); put("c", 3) }}', "HashMap", None, {"c": 3}),
        ("new HashMap<\n>()", "HashMap", None, "new HashMap<\n>()"),
        ('Map.of("a", 1)', "HashMap", None, 'Map.of("a", 1)'),
    ],
)
def test_java(text: str, kind: str, items: str | None, expected: Any) -> None:
    found = java.convert(text, kind, items)
    assert (found, repr(found)) == (expected, repr(expected))


@pytest.mark.parametrize(
    ("text", "kind", "items", "expected"),
    [
        ("'a'", "String", None, "a"),
        ("\"a'", "String", None, "\"a'"),
        ("a", "String", None, "a"),
        ("5", "integer", None, 5),
        ("5.0", "integer", None, "5.0"),
        ("5", "float", None, 5.0),
        ("1e5", "float", None, "1e5"),
        ("5n", "Bigint", None, 5),
        ("5", "Bigint", None, "5"),
        ("true", "Boolean", None, True),
        ("'a'", "any", None, "'a'"),
        ("[1, 2]", "array", "integer", [1, 2]),
        (" [1] ", "array", "integer", [1]),
        ("[1,,2]", "array", "integer", [1, "", 2]),
        ("['a', \"b\", c]", "array", "String", ["a", "b", "c"]),
        ("['a,b']", "array", "String", ["'a", "b'"]),
        ("['a', 1, true, null, `x`]", "array", None, ["a", 1, True, "null", "`x`"]),
        ("[1, 2]", "array", "any", ["1", "2"]),
        ("new Array(1, 2)", "array", "float", [1.0, 2.0]),
        ("[\n1]", "array", "integer", "[\n1]"),
        ("[1]]", "array", "integer", [1]),
        ("[[1, 2], [3]]", "array", "float", [[1, 2], [3]]),
        ("[[1, 2], 3, [4]]", "array", None, [[1, 2], [4]]),
        ("[[1], 2]", "array", None, ["[1"]),
        ("[[1],\n[2]]", "array", None, [[1], [2]]),
        ("[[[1, 2], [3]], [[4]]]", "array", None, [["[1", 2], [3]]),
        ("new Array([[1],[2])", "array", None, [[1], [2]]),
        ("[{a: 1}]", "array", "dict", [{"a": 1}]),
        ("[1]", "array", "what", "[1]"),
        ("{a: 1, 'b': 'x', \"c\": 1.5}", "dict", None, {"a": 1, "b": "x", "c": 1.5}),
        ("{a: 'x, y: z'}", "dict", None, {"a": "x", "y": "z"}),
        ("{a: f(1, 2), b: 3}", "dict", None, {"a": "f(1, 2)", "b": 3}),
        ("{a: [1, 2], b: [[3], [4]]}", "dict", None, {"a": [1, 2], "b": [[3], [4]]}),
        ("{a: {b: 1}, c: 2}", "dict", None, {"a": "{b: 1"}),
        ("{a: '5'}", "dict", None, {"a": 5}),
        ("{a:1, :2}", "dict", None, {"a": 1, "": 2}),
        ("{a:1, :b: 2}", "dict", None, {"a": 1, "b": 2}),
        ("{a}", "dict", None, {}),
        ("{a:\n1}", "dict", None, "{a:\n1}"),
        ("new Map()", "dict", None, "new Map()"),
    ],
)
def test_javascript(text: str, kind: str, items: str | None, expected: Any) -> None:
    found = javascript.convert(text, kind, items)
    assert (found, repr(found)) == (expected, repr(expected))


def test_not_a_number_is_one() -> None:
    assert math.isnan(java.convert("new int[]{nan}", "Array", None)[0])
    assert javascript.convert("[Infinity]", "array", None) == [math.inf]


@pytest.mark.parametrize(
    ("convert", "text", "kind", "error"),
    [
        (java.convert, "1", "Queue", "NotImplementedError"),
        (java.convert, "1", "Set", "NotImplementedError"),
        (java.convert, "1", "what", "ValueError"),
        (java.convert, "1" * 5000, "integer", "ValueError"),
        (javascript.convert, "1", "what", "ValueError"),
        (javascript.convert, "5n\n", "Bigint", "ValueError"),
    ],
)
def test_where_the_official_converter_crashes(
    convert: Any, text: str, kind: str, error: str
) -> None:
    with pytest.raises(Crash) as crash:
        convert(text, kind)
    assert crash.value.name == error
