"""Rows as ids: what a model meets when it is used is what it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from star_jax import chat
from star_jax.data import encode
from tests import tiny

ROWS = [
    {
        "id": "a",
        "messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "ok"}],
    },
    {"id": 7, "inputs": "x<|im_start|>assistant\n", "targets": "<think>\n</think>y<|im_end|>"},
]


def write(folder: Path, rows: list[object]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def tokenizer(tmp_path: Path) -> encode.Tokenizer:
    return encode.Tokenizer(tiny.tokenizer(tmp_path / "m"))


def test_conversations_are_rendered_and_pairs_are_taken_as_they_are(
    tokenizer: encode.Tokenizer, tmp_path: Path
) -> None:
    made = encode.examples(write(tmp_path, ROWS), tokenizer, chat.render)
    assert made.row_ids == ("a", "7")
    assert list(made.line) == [1, 2]
    texts = [
        (tokenizer.decode(x.ids[: x.n_prompt]), tokenizer.decode(x.ids[x.n_prompt :])) for x in made
    ]
    assert texts == [
        (
            "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n",
            "<think>\n\n</think>\n\nok<|im_end|>",
        ),
        ("x<|im_start|>assistant\n", "<think>\n</think>y<|im_end|>"),
    ]


def test_a_part_keeps_its_rows_and_can_cut_them(
    tokenizer: encode.Tokenizer, tmp_path: Path
) -> None:
    made = encode.examples(write(tmp_path, ROWS), tokenizer, chat.render)
    part = made.take([1, 0], limit=np.array([20, 10_000]))
    assert part.row_ids == ("7", "a")
    np.testing.assert_array_equal(part[0].ids, made[1].ids[:20])
    np.testing.assert_array_equal(part[1].ids, made[0].ids)
    assert len(made.take([])) == 0


def test_the_hash_of_an_example_is_its_ids_and_its_prompt(
    tokenizer: encode.Tokenizer, tmp_path: Path
) -> None:
    one = {**ROWS[1], "id": 1}
    moved = {
        **one,
        "id": 2,
        "inputs": one["inputs"] + "<think>",
        "targets": "\n</think>y<|im_end|>",
    }
    made = encode.examples(write(tmp_path, [one, {**one, "id": 3}, moved]), tokenizer, chat.render)
    np.testing.assert_array_equal(made[0].ids, made[2].ids)
    assert made.hash(0) == made.hash(1) != made.hash(2)


def test_the_hash_of_a_tokenizer_is_what_decides_about_ids(tmp_path: Path) -> None:
    path = tiny.tokenizer(tmp_path / "m") / "tokenizer.json"
    before = encode.Tokenizer(path.parent).hash
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "truncation": None}, indent=8))
    assert encode.Tokenizer(path.parent).hash == before
    raw["added_tokens"][0]["content"] = "<|other|>"
    path.write_text(json.dumps(raw))
    assert encode.Tokenizer(path.parent).hash != before


def test_prompts_tokenize_as_they_do_when_the_model_is_used(shared: Path, tmp_path: Path) -> None:
    """With Qwen3's own merges: a prompt's ids are those of the prompt alone, and of the whole."""
    real = encode.Tokenizer(shared / "qwen3-tokenizer")
    made = encode.examples(shared / "golden" / "xlam_messages.jsonl", real, chat.render)
    assert len(made) == 512
    for example in made[:50]:
        text = real.decode(example.ids)
        assert real.encode([text])[0] == list(example.ids)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json: there is no such file: copy"):
        encode.Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match=r"tokenizer\.json: is no tokenizer"):
        encode.Tokenizer(tmp_path)
    raw = json.loads((tiny.tokenizer(tmp_path) / "tokenizer.json").read_text())
    raw["added_tokens"] = [x for x in raw["added_tokens"] if x["content"] != "</think>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"has no token </think>: use a Qwen3"):
        encode.Tokenizer(tmp_path)


def test_bad_rows_are_named(tokenizer: encode.Tokenizer, tmp_path: Path) -> None:
    bad = {"id": "c", "messages": [{"role": "user", "content": "hm"}]}
    path = write(tmp_path, [*ROWS, bad])
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: messages\[0\]\.role: is user"):
        encode.examples(path, tokenizer, chat.render)
    assert len(encode.examples(path, tokenizer, chat.render, skip_bad=1)) == 2
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no row"):
        encode.examples(path, tokenizer, chat.render)
