"""ROUGE-L is rouge_score's to the last bit, and default words are those of every script."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.rewards import stem as porter
from star_jax.rewards.stem import stem
from star_jax.rewards.text import (
    ascii_reference,
    ascii_words,
    reference,
    rouge_l,
    star_similarity,
    text_similarity,
    unicode_words,
)

SUFFIXES = sorted(
    {suffix for suffix, _ in (*porter.STEP_2, *porter.STEP_3)}
    | set(porter.STEP_4)
    | {"", "s", "es", "ies", "sses", "ed", "ied", "eed", "ing", "y", "e", "ll", "logi", "li"}
    | {"at", "bl", "iz", "ss", "ly"}
)
english = st.builds(
    lambda head, tail: head + "".join(tail),
    st.text("abcdefilnorstuvxyz1", max_size=5),
    st.lists(st.sampled_from(SUFFIXES), max_size=3),
).filter(bool)
sentences = st.lists(
    st.one_of(english, st.sampled_from(["Hello,", "im_end|>", "Zürich", "你好", "A4", "\n", "-"])),
    max_size=12,
).map(" ".join)


@lru_cache
def scorer() -> Any:
    module = pytest.importorskip("rouge_score.rouge_scorer")
    return module.RougeScorer(["rougeL"], use_stemmer=True)


@lru_cache
def stemmer() -> Any:
    return pytest.importorskip("nltk.stem.porter").PorterStemmer()


@settings(max_examples=1500, deadline=None)
@given(english)
def test_stems_are_nltks(word: str) -> None:
    assert stem(word) == stemmer().stem(word)


def test_stems_of_listed_words_and_all_suffixes_are_nltks() -> None:
    heads = ("", "b", "ab", "hopp", "sky", "relat", "xyy", "aaa", "control", "tann", "1a")
    made = {head + tail for head, tail in itertools.product(heads, SUFFIXES)}
    words = made | {head + tail for head, tail in itertools.product(made, SUFFIXES)}
    words |= set(porter.IRREGULAR) | porter.KEPT
    wrong = [word for word in sorted(words - {""}) if stem(word) != stemmer().stem(word)]
    assert not wrong


@settings(max_examples=600, deadline=None)
@given(sentences | st.text(max_size=40), sentences | st.text(max_size=40))
def test_rouge_l_is_rouge_scores_to_the_last_bit(prediction: str, gold: str) -> None:
    ours = rouge_l(ascii_words(prediction), ascii_reference(gold))
    assert ours == scorer().score(gold, prediction)["rougeL"].fmeasure


def test_rouge_l_is_rouge_scores_on_stored_rows(shared: Path) -> None:
    lines = (shared / "golden/rewards.jsonl").read_text().strip().split("\n")
    rows = [json.loads(line) for line in lines]
    for one, other in itertools.pairwise(rows[:400]):
        for prediction, gold in ((one["generation"], one["label"]), (one["label"], other["label"])):
            ours = rouge_l(ascii_words(prediction), ascii_reference(gold))
            assert ours == scorer().score(gold, prediction)["rougeL"].fmeasure


words = st.lists(st.sampled_from("abcd"), max_size=14).map(tuple)


@given(words, words)
def test_the_common_subsequence_is_the_textbooks(left: tuple[str, ...], right: tuple[str, ...]):
    row = [0] * (len(right) + 1)
    for item in left:
        before = 0
        for column, other in enumerate(right, 1):
            above = row[column]
            row[column] = before + 1 if item == other else max(above, row[column - 1])
            before = above
    common = row[-1]
    expected = 0.0
    if common:
        precision, recall = common / len(left), common / len(right)
        expected = 2 * precision * recall / (precision + recall)
    assert rouge_l(left, reference(right)) == expected


@given(st.text(max_size=30), st.text(max_size=30))
def test_both_similarities_are_symmetric_and_in_range(left: str, right: str) -> None:
    for similarity in (star_similarity, text_similarity):
        value = similarity(left, right)
        assert value == similarity(right, left)
        assert 0.0 <= value <= 1.0
        assert similarity(left, left) == 1.0


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_ascii_text_has_the_same_words_both_ways(text: str) -> None:
    assert unicode_words(text) == ascii_words(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，世界", ("你", "好", "世", "界")),
        ("hello2世界 ok", ("hello2", "世", "界", "ok")),
        ("カタカナ と", ("カ", "タ", "カ", "ナ", "と")),
        ("สวัสดี", ("ส", "วั", "ส", "ดี")),
        ("한국어 문장", ("한국어", "문장")),
        ("हिन्दी भाषा", ("हिन्दी", "भाषा")),
        ("Zürich ZÜRICH", ("zürich", "zürich")),
        ("２０ ﬁles — 21.5 °C", ("20", "file", "21", "5", "c")),
        ("👍 ❤️", ()),
        ("\u0301a\u0301", ("á",)),
    ],
)
def test_words_of_every_script(text: str, expected: tuple[str, ...]) -> None:
    assert unicode_words(text) == expected


def test_texts_without_words_are_equal_or_unlike() -> None:
    assert text_similarity("👍", "👎") == 0.0
    assert text_similarity("?!", " ?! ") == 1.0
    assert text_similarity("", "  ") == 1.0
    assert text_similarity("", "word") == 0.0


def test_rewards_import_neither_arrays_nor_rouge_score() -> None:
    code = "import sys, star_jax.rewards; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "jax", "nltk", "rouge_score", "scipy", "transformers", "jinja2"}
    assert not heavy & set(run.stdout.split())
