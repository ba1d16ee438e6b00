"""The world's tokenizer: cut where copies need it, with Qwen3's special tokens, made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from star_jax import chat, world
from star_jax.chat import render_with
from star_jax.data import template, trainset
from star_jax.data.encode import Tokenizer
from star_jax.sampler import grammar
from star_jax.world import files
from star_jax.world import tokenizer as made_by

SPECIAL = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
ADDED = {
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
}
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}


@pytest.fixture(scope="module")
def raw() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(world.TOKENIZER / "tokenizer.json"))


@pytest.fixture(scope="module")
def hf() -> Any:
    return transformers.AutoTokenizer.from_pretrained(world.TOKENIZER)


def ids(raw: tokenizers.Tokenizer, text: str) -> list[int]:
    return raw.encode(text, add_special_tokens=False).ids


def tokens(raw: tokenizers.Tokenizer, text: str) -> list[str]:
    return [raw.decode([i], skip_special_tokens=False) for i in ids(raw, text)]


def all_rows(each: int, **given: Any) -> Iterator[world.Row]:
    for split in world.SPLITS:
        yield from world.rows(split, 9, each, **given)


def test_ids_go_from_zero_to_the_size(raw: tokenizers.Tokenizer) -> None:
    assert sorted(raw.get_vocab().values()) == list(range(2048))
    assert Tokenizer(world.TOKENIZER).size == 2048 == made_by.SIZE


def test_special_tokens_are_those_of_qwen3(raw: tokenizers.Tokenizer, shared: Path) -> None:
    added = {token.content: token for token in raw.get_added_tokens_decoder().values()}
    assert set(added) == SPECIAL | ADDED | set(made_by.frame())
    theirs = json.loads((shared / "qwen3-tokenizer" / "tokenizer.json").read_text())
    flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
    for token in theirs["added_tokens"]:
        if token["content"] in added:
            ours = added.pop(token["content"])
            assert {name: getattr(ours, name) for name in flags} == {n: token[n] for n in flags}
    assert set(added) == set(made_by.frame())


@pytest.mark.parametrize("thinking", [True, False])
def test_prompt_and_answer_are_cut_alone_as_together(
    raw: tokenizers.Tokenizer, thinking: bool
) -> None:
    for row in all_rows(60, thinking=thinking):
        messages, tools = row["messages"], row["tools"]
        text = chat.render(messages, tools)
        enable = None if thinking else False
        prompt = chat.render(
            messages[:-1], tools, add_generation_prompt=True, enable_thinking=enable
        )
        assert text.startswith(prompt)
        assert ids(raw, prompt) + ids(raw, text[len(prompt) :]) == ids(raw, text)
        # What a turn was when it was written, it is when it is history.
        ends = [at + 1 for at, i in enumerate(ids(raw, text)) if i == raw.token_to_id("<|im_end|>")]
        parts = text.split("<|im_end|>")
        assert [i for part in parts[:-1] for i in ids(raw, part + "<|im_end|>")] == (
            ids(raw, text)[: ends[-1]]
        )


def test_text_comes_back(raw: tokenizers.Tokenizer) -> None:
    odd = ["", "  two  spaces ", "Zürich, 東京 and 🙂\n\n\tx", '{"a": [1.5, -2]}', "don't", "\x00é"]
    texts = odd + [chat.render(row["messages"], row["tools"]) for row in all_rows(50)]
    for text in texts:
        assert raw.decode(ids(raw, text), skip_special_tokens=False) == text


@pytest.mark.parametrize("word", ["Rome", "zovek", "Ana Silva", "2026-03-14", "KX-4", "x@y.com"])
def test_a_value_is_the_same_tokens_wherever_it_stands(
    raw: tokenizers.Tokenizer, word: str
) -> None:
    alone = tokens(raw, word)
    for frame in ("in {}?", "to {}.", '": "{}"', '["{}", "x"]', "{}", "{} and", 'saying "{}".'):
        found = tokens(raw, frame.replace("{}", word))
        at = [i for i in range(len(found)) if found[i : i + len(alone)] == alone]
        assert at, (frame, found)


def test_no_token_of_letters_holds_a_space(raw: tokenizers.Tokenizer) -> None:
    added = raw.get_added_tokens_decoder()
    for number in range(2048):
        text = raw.decode([number], skip_special_tokens=False)
        if number in added or '"' in text or "{" in text:
            continue
        assert not (any(map(str.isalnum, text)) and any(map(str.isspace, text))), text


def test_the_texts_around_tools_are_one_token_each(raw: tokenizers.Tokenizer) -> None:
    system = chat.render([{"role": "user", "content": "x"}], [TOOL]).split("<|im_end|>")[0]
    before, after = made_by.frame()
    found = tokens(raw, system)
    assert found[0] == "<|im_start|>"
    assert found.count(before) == found.count(after) == 1
    assert found[-1] == after
    assert len(found) < 30


def test_hugging_face_reads_it(hf: Any) -> None:
    assert len(hf) == 2048
    assert (hf.eos_token, hf.pad_token, hf.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    ours = Tokenizer(world.TOKENIZER)
    for row in all_rows(50):
        text = chat.render(row["messages"], row["tools"])
        assert hf(text)["input_ids"] == ours.encode([text])[0]
        given = hf.apply_chat_template(row["messages"], row["tools"], tokenize=False)
        assert given == text


ODD = [
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
    [{"role": "user", "content": "a"}, {"role": "system", "content": "s"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nt\n</think>\n\nb"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "<think>\nt\n</think>\n\nd"},
    ],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "\n b", "reasoning_content": "\nt\n"},
        {
            "role": "assistant",
            "content": "\n",
            "tool_calls": [
                {"function": {"name": "f", "arguments": '{"a":1}'}},
                {"name": "g", "arguments": {"é": "ü"}},
            ],
        },
        {"role": "tool", "content": "3"},
    ],
    [
        {"role": "user", "content": "<tool_response>\nx\n</tool_response>"},
        {"role": "assistant", "content": "b", "reasoning_content": "t"},
    ],
    [{"role": "assistant", "content": "b", "reasoning_content": "t"}],
    [{"role": "tool", "content": "3"}],
]


@pytest.mark.parametrize("messages", ODD)
@pytest.mark.parametrize("tools", [None, [TOOL], [TOOL, {"type": "function", "function": TOOL}]])
def test_the_folders_template_is_our_rendering(messages: Any, tools: Any) -> None:
    text = (world.TOKENIZER / "chat_template.jinja").read_text()
    assert text == made_by.template()
    for cue in (False, True):
        for enable in (None, True, False):
            given = {"add_generation_prompt": cue, "enable_thinking": enable}
            wanted = chat.render(messages, tools, **given)
            assert render_with(text, messages, tools, **given) == wanted
            assert template.load(world.TOKENIZER)(messages, tools, **given) == wanted


def test_a_grammar_lets_every_right_answer_through() -> None:
    ours = Tokenizer(world.TOKENIZER)
    for row in all_rows(15):
        target = trainset.native(files.conversation(row), chat.render)["targets"]
        made = grammar.compile(ours, row["tools"], vocab_size=2048, stop_ids=(ours.end_of_turn,))
        found = ours.encode([target])[0]
        assert len(grammar.masks_of(made, found)) == len(found)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        made_by.make(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        made_by.make(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_fails_half_way_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_by, "train", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made_by.make(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    folder = made_by.make(tmp_path / "made")
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in world.TOKENIZER.iterdir()} == names
    for name in names:
        assert (folder / name).read_bytes() == (world.TOKENIZER / name).read_bytes(), name
