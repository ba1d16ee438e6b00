"""Porter's stemmer over [a-z0-9]+, as ROUGE uses it: "conflated" → "conflat", "happy" → "happi".

M. F. Porter, "An algorithm for suffix stripping" (1980), with the departures of NLTK's
PorterStemmer that rouge_score inherits: irregular words, words of up to two letters left alone,
`ies`/`ied` of four-letter words, `y` → `i` only after a consonant, and the `fulli`, `logi`, `bli`
and repeated `alli` rules. Equal to it on every word (a test proves it); this one imports nothing.

A word's shape writes its letters as c (consonant) and v (vowel). Its measure m is the number of
"vc" in the shape. Whether y is a vowel depends on the letter before it alone, so the shape of a
prefix is a prefix of the shape.
"""

from __future__ import annotations

from functools import lru_cache

IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
}
KEPT = frozenset(
    ("sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed")
)

# (suffix, replacement), in the order in which they are tried; the first that fits decides.
STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
)
STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"),
    *("ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)
VOWELS = frozenset("aeiou")
LETTERS = str.maketrans({chr(code): "c" for code in range(128)} | dict.fromkeys(VOWELS, "v"))

# Most words end in none of a step's suffixes: one look at all of them says so.
ENDS_2 = tuple(suffix for suffix, _ in STEP_2)
ENDS_3 = tuple(suffix for suffix, _ in STEP_3)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a lower-case word of letters a-z and digits."""
    if word in KEPT or len(word) <= 2:
        return word
    if word in IRREGULAR:
        return IRREGULAR[word]
    word = _verb_ending(_plural(word))
    if word.endswith("y") and len(word) > 2 and _shape(word)[-2] == "c":
        word = word[:-1] + "i"
    word = _long_suffix(word)
    if word.endswith(ENDS_3):
        word = _replace(word, STEP_3)
    word = _bare_suffix(word)
    return _final_letters(word)


def _shape(word: str) -> str:
    if "y" not in word:
        return word.translate(LETTERS)
    shape: list[str] = []
    for letter in word:
        after_consonant = bool(shape) and shape[-1] == "c"
        is_vowel = letter in VOWELS or (letter == "y" and after_consonant)
        shape.append("v" if is_vowel else "c")
    return "".join(shape)


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _ends_short(word: str) -> bool:
    """Ends consonant-vowel-consonant, the last not w, x or y; or is just vowel-consonant."""
    shape = _shape(word)
    return shape == "vc" or (shape.endswith("cvc") and word[-1] not in "wxy")


def _plural(word: str) -> str:  # step 1a
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _verb_ending(word: str) -> str:  # step 1b
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix) and "v" in _shape(word[: -len(suffix)]):
            return _mend(word[: -len(suffix)])
    return word


def _mend(word: str) -> str:
    """What step 1b does to the stem that -ed or -ing left: hopp → hop, fil → file."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    shape = _shape(word)
    if len(word) > 1 and word[-1] == word[-2] and shape[-1] == "c":
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if shape.count("vc") == 1 and _ends_short(word) else word


def _long_suffix(word: str) -> str:  # step 2
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _long_suffix(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replace(word, STEP_2) if word.endswith(ENDS_2) else word


def _replace(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply the first rule whose suffix fits, if what stands before it has m > 0."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            head = word[: -len(suffix)]
            return head + replacement if _measure(head) > 0 else word
    return word


def _bare_suffix(word: str) -> str:  # step 4
    if not word.endswith(STEP_4):
        return word
    for suffix in STEP_4:
        if word.endswith(suffix):
            head = word[: -len(suffix)]
            fits = _measure(head) > 1 and (suffix != "ion" or head[-1] in "st")
            return head if fits else word
    return word


def _final_letters(word: str) -> str:  # step 5
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_short(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and _measure(word[:-1]) > 1:
        word = word[:-1]
    return word
