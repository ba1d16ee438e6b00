"""Rows of every kind and container read alike; every fault has file, line, field and remedy."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from star_jax.data.read import Bad, Conversation, Pair, read, scan

TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"default": None}}}}
MESSAGES = [
    {"role": "user", "content": "é?"},
    {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a":1}'}]},
]
CHAT = {"id": "c", "messages": MESSAGES, "tools": [TOOL]}
PAIR = {"id": 7, "inputs": "in", "targets": "out"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        data = b"".join(line + b"\n" for line in lines)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


# --- Kinds and containers -------------------------------------------------------------------------


def test_three_kinds_of_row(write: Write) -> None:
    path = write(
        CHAT,
        PAIR | {"tools": [TOOL]},
        {"id": 1, "prompt": "in", "completion": "out"},
        {"id": 2, "prompt": MESSAGES[:1], "completion": MESSAGES[1:], "tools": None},
    )
    assert list(read(path)) == [
        Conversation("c", tuple(MESSAGES), (TOOL,), 1),
        Pair(7, "in", "out", (TOOL,), 2),
        Pair(1, "in", "out", None, 3),
        Conversation(2, tuple(MESSAGES), (), 4),
    ]
    assert [row.line for row in read(path)] == [1, 2, 3, 4]


def test_lists_may_be_json_text(write: Write) -> None:
    row = CHAT | {"messages": json.dumps(MESSAGES), "tools": json.dumps([TOOL])}
    assert list(read(write(row))) == list(read(write(CHAT)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.b.jsonl", "a.b.jsonl.gz"])
def test_containers_of_lines(write: Write, name: str) -> None:
    assert len(list(read(write(CHAT, PAIR, name=name)))) == 2


def test_marks_returns_and_empty_lines_are_no_rows(write: Write) -> None:
    path = write(b"\xef\xbb\xbf" + json.dumps(CHAT).encode() + b"\r", b"", b"  ", PAIR)
    assert [row.line for row in read(path)] == [1, 4]


def test_parquet_reads_like_lines(write: Write, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": str(number), "messages": MESSAGES, "tools": json.dumps([TOOL]), "more": number}
        for number in range(200)
    ]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)
    assert list(read(path)) == list(read(write(*rows)))
    assert [row.line for row in read(path)] == list(range(1, 201))


def test_a_null_that_parquet_may_have_made_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def faults(*rows: dict[str, Any]) -> list[str]:
        parquet.write_table(pa.Table.from_pylist(list(rows)), tmp_path / "rows.parquet")
        items = list(scan(tmp_path / "rows.parquet"))
        faults = [fault for item in items if isinstance(item, Bad) for fault in item.faults]
        return [f"{fault.field}: {fault.what}"[:60] for fault in faults]

    user, arguments = {"role": "user", "content": "?"}, [{"a": 1}, {"b": 2}]
    calls = [
        [
            user,
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": one}]},
        ]
        for one in arguments
    ]
    assert faults({"messages": calls[0]}) == []
    assert faults({"messages": calls[0]}, {"messages": calls[1]}) == [
        "messages[1].tool_calls[0].arguments.b: is null, perhaps beca",
        "messages[1].tool_calls[0].arguments.a: is null, perhaps beca",
    ]
    tools = [{"name": "f", "parameters": {"a": {"type": "int"}}}, {"name": "g", "parameters": {}}]
    assert faults({"messages": [user], "tools": tools}) == [
        "tools[1].parameters.a: is null, perhaps because other rows h"
    ]
    assert faults({"messages": [user], "tools": [{"name": "f", "n": float("nan")}]}) == [
        "tools[0].n: is nan, which JSON has not"
    ]
    assert faults({"messages": [user], "tools": [{"name": "f", "n": b"x"}]}) == [
        "tools[0].n: is b'x', which JSON has not"
    ]


def test_a_null_in_a_message_is_no_field(write: Write) -> None:
    nulls = {"tool_calls": None, "reasoning_content": None, "tool_call_id": None}
    row = CHAT | {"messages": [MESSAGES[0] | nulls, MESSAGES[1] | {"content": None}]}
    assert list(read(write(row))) == list(read(write(CHAT)))
    (bad,) = scan(write(CHAT | {"messages": [{"role": "user", "content": None}]}))
    assert "messages[0].content: is missing: give a string" in str(bad)


# --- Identity -------------------------------------------------------------------------------------


def test_a_row_without_id_gets_one_from_its_content(write: Write) -> None:
    bare = {name: CHAT[name] for name in ("tools", "messages")}
    (first,) = read(write(bare))
    second, third = read(write(PAIR, bare | {"id": None}))
    assert isinstance(first.id, str)
    assert first.id.startswith("row-")
    assert (second.id, third.id) == (7, first.id)
    (turned,) = read(write({name: bare[name] for name in reversed(bare)}))
    tool = {name: TOOL[name] for name in reversed(TOOL)}
    (keys_turned,) = read(write(bare | {"tools": [tool]}))
    assert turned.id == keys_turned.id == first.id
    (other,) = read(write(bare | {"tools": []}))
    assert other.id != first.id


def test_an_id_is_used_once(write: Write) -> None:
    path = write(PAIR, CHAT, PAIR | {"inputs": "other"}, CHAT | {"id": "7"})
    bad = [item for item in scan(path) if isinstance(item, Bad)]
    assert [str(item) for item in bad] == [
        f"{path}:3: id: is 7 again, as on line 1: give every row its own, or remove one",
        f"{path}:4: id: is '7' again, as on line 1: give every row its own, or remove one",
    ]


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (b"{", "row: is not JSON (Expecting property name"),
        (b"[1]", "row: is no object: give one JSON object per line"),
        (b"\xff", "row: is not valid Unicode (invalid start byte): write it as UTF-8"),
        (b'{"inputs": "\\ud800", "targets": "x"}', "row: is not valid Unicode (surrogates not all"),
        (b'{"inputs": NaN}', "row: is not JSON (NaN is no number)"),
        (b'{"inputs": 1e999}', "row: is not JSON (1e999 is too large a number)"),
        (b"[" * 100_000, "row: is not JSON ("),
        (b'{"id": ' + b"[" * 100 + b"]" * 100 + b"}", "row: nests deeper than 100 levels: flat"),
        ({}, "row: has only []: give messages, or inputs and targets, or prompt and completion"),
        ({"query": "x", "answers": "y"}, "row: has only ['answers', 'query']: give messages"),
        (
            {"inputs": "x", "outputs": "y"},
            "targets: is missing: give the text that follows inputs (o",
        ),
        ({"prompt": "x"}, "completion: is missing: give the text that follows prompt"),
        (PAIR | {"id": True}, "id: is True: give a string or a whole number"),
        (PAIR | {"id": 1.5}, "id: is 1.5: give"),
        (PAIR | {"id": ""}, "id: is '': give"),
        (PAIR | {"targets": ""}, "targets: is empty: give the rendered text"),
        (PAIR | {"inputs": ["x"]}, "inputs: is no text: give the rendered text"),
        (PAIR | {"tools": {}}, "tools: is an object: give a list"),
        (PAIR | {"tools": "{"}, "tools: is a string that is not JSON: give a list"),
        ({"prompt": MESSAGES, "completion": "x"}, "prompt: is no text: give"),
        ({"messages": "x"}, "messages: is a string that is not JSON"),
        ({"messages": []}, "messages: is an empty list: give a list"),
        ({"messages": 1}, "messages: is a number: give a list"),
        ({"messages": [{"role": "usr"}]}, "messages[0].role: is 'usr': use system, user"),
        (CHAT | {"tools": [{}]}, "tools[0].name: is missing: give the function's name"),
    ],
)
def test_faults_are_named_and_placed(write: Write, row: Any, fault: str) -> None:
    path = write(PAIR, row, CHAT)
    first, bad, last = scan(path)  # the others are read all the same
    assert isinstance(bad, Bad)
    assert str(bad).startswith(f"{path}:2: {fault}")
    assert (type(first), type(last)) == (Pair, Conversation)


def test_every_fault_of_a_row_is_reported(write: Write) -> None:
    path = write({"messages": [{"role": "user"}, {"role": "x"}], "tools": [1]})
    (bad,) = scan(path)
    assert [line.split(": ")[:2] for line in str(bad).splitlines()] == [
        [f"{path}:1", "messages[0].content"],
        [f"{path}:1", "messages[1].role"],
        [f"{path}:1", "tools[0]"],
    ]


def test_bad_rows_are_tolerated_up_to_a_number(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(CHAT, b"{", PAIR, b"[]", PAIR | {"id": 8})
    with pytest.raises(
        ValueError, match=r"rows.jsonl:2: row: is not JSON .*\n1 bad row, 0 allowed"
    ):
        list(read(path))
    with pytest.raises(ValueError, match=r"rows.jsonl:4: row: is no object.*\n2 bad rows, 1 allow"):
        list(read(path, skip_bad=1))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "star_jax.data.read"):
        assert [row.line for row in read(path, skip_bad=2)] == [1, 3, 5]
    assert "rows.jsonl:2: row" in caplog.records[0].message
    assert "rows.jsonl:4: row" in caplog.records[1].message
    assert caplog.records[2].message == "2 of 5 rows were bad and left out"


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("a.jsonl", None, "a.jsonl: there is no such file: check the path"),
        ("a.csv", b"x", "a.csv: is of no known kind: name it"),
        ("a.json.gz", b"x", "a.json.gz: is of no known kind"),
        ("a.jsonl.gz", b"x", "a.jsonl.gz:1: the gzip stream is damaged .Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' * 9, mtime=0)[:-9],
            "damaged .Compressed file ended",
        ),
        ("a.parquet", b"x", "a.parquet: cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(
    tmp_path: Path, name: str, data: bytes | None, error: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=error):
        list(scan(tmp_path / name))


def test_parquet_without_a_known_column(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no column that rows need: see id, messages"):
        list(scan(tmp_path / "a.parquet"))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.binary(max_size=30)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            *(
                                "id",
                                "messages",
                                "tools",
                                "inputs",
                                "targets",
                                "prompt",
                                "completion",
                            ),
                            *("role", "content", "tool_calls", "function", "name", "arguments"),
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
        max_size=4,
    )
)
def test_any_lines_are_rows_or_bad(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    for item in scan(path):
        if isinstance(item, Bad):
            assert str(item).startswith(f"{path}:{item.line}: ")


def test_a_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with open(path, "w") as file:
        for number in range(2_000):
            file.write(json.dumps(PAIR | {"id": number, "inputs": "x" * 10_000}) + "\n")
    tracemalloc.start()
    count = sum(1 for _ in scan(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2_000
    assert peak < 2e6 < path.stat().st_size
