"""ROUGE-L F1 between two texts: how much of one can be read, in order, in the other.

    P = lcs / |prediction|     R = lcs / |reference|     F1 = 2PR / (P + R)

over sequences of words, lcs being the length of their longest common subsequence.

Two ways to cut words. `ascii_words` is rouge_score's with its stemmer (rouge_scorer.py,
tokenize.py): runs of [a-z0-9], stemmed when longer than three letters; whatever is not ASCII
separates words. `unicode_words` knows every script: runs of letters, digits and marks are words,
and where a script writes no spaces each of its letters is one. On ASCII text both are the same.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz.distance import LCSseq

from star_jax.rewards.stem import stem

WORD = re.compile("[a-z0-9]+")
CACHED_TEXTS = 1 << 14

# Scripts written without spaces between words, as their letters' Unicode names begin.
UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "YI SYLLABLE",
    "JAVANESE",
    "BALINESE",
    "TAI ",
    "NEW TAI ",
)

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A text ready to be compared with many: each distinct word has a character of its own."""

    count: int
    letter_of: dict[str, str]
    letters: str


@lru_cache(maxsize=CACHED_TEXTS)
def ascii_words(text: str) -> Words:
    """The words of rouge_score's tokenizer with use_stemmer=True."""
    return tuple(stem(word) if len(word) > 3 else word for word in WORD.findall(text.lower()))


@lru_cache(maxsize=CACHED_TEXTS)
def unicode_words(text: str) -> Words:
    """Words of any script; letters of scripts without spaces are words by themselves."""
    if text.isascii():
        return ascii_words(text)
    spaced = []
    last = "space"
    for character in fold(text):
        kind = _kind(character)
        joins = kind == "word" == last or (kind == "mark" and last != "space")
        if joins:
            spaced.append(character)
        else:
            spaced.append(" " + character if kind in ("word", "letter") else " ")
        last = last if kind == "mark" else kind  # a mark belongs to what it stands on
    return tuple(_stem_if_ascii(word) for word in "".join(spaced).split())


@lru_cache(maxsize=CACHED_TEXTS)
def ascii_reference(text: str) -> Reference:
    """A reference text in ASCII words."""
    return reference(ascii_words(text))


@lru_cache(maxsize=CACHED_TEXTS)
def unicode_reference(text: str) -> Reference:
    """A reference text in words of any script."""
    return reference(unicode_words(text))


def reference(words: Words) -> Reference:
    """Words as characters: a comparison of strings is what the C code does fastest."""
    letter_of: dict[str, str] = {}
    for word in words:
        letter_of.setdefault(word, chr(len(letter_of)))
    return Reference(len(words), letter_of, "".join(letter_of[word] for word in words))


def rouge_l(words: Words, against: Reference) -> float:
    """ROUGE-L F1, the same double as rouge_score's `fmeasure`; 0 where either has no words."""
    if not words or not against.count:
        return 0.0
    letter_of = against.letter_of
    # A word that the reference lacks is in no common subsequence, so it needs no character.
    letters = "".join([letter_of[word] for word in words if word in letter_of])
    common = LCSseq.similarity(letters, against.letters) if letters else 0
    if not common:
        return 0.0
    precision = common / len(words)
    recall = common / against.count
    return 2 * precision * recall / (precision + recall)


def star_similarity(prediction: str, gold: str) -> float:
    """The reference's score of two strings (simrl.py:104): 1 if equal, else ROUGE-L F1.

    Its case of a blank text needs no line: a text without words scores 0.
    """
    if prediction == gold:
        return 1.0
    return rouge_l(ascii_words(prediction), ascii_reference(gold))


def text_similarity(prediction: str, gold: str) -> float:
    """ROUGE-L F1 over words of any script; texts without a word are equal or unlike."""
    if prediction == gold:
        return 1.0
    words = unicode_words(prediction)
    against = unicode_reference(gold)
    if not words and not against.count:
        return float(fold(prediction).split() == fold(gold).split())
    return rouge_l(words, against)


def fold(text: str) -> str:
    """The text without differences of case and of Unicode's compatible spellings."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """A `letter` of an unspaced script, another `word` character, a `mark` or a `space`."""
    category = unicodedata.category(character)[0]
    if category == "M":
        return "mark"
    if category not in "LN":
        return "space"
    unspaced = category == "L" and unicodedata.name(character, "").startswith(UNSPACED)
    return "letter" if unspaced else "word"


def _stem_if_ascii(word: str) -> str:
    return stem(word) if len(word) > 3 and word.isascii() else word
