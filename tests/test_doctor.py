"""The doctor names the rows that would spoil a training, and no others."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from star_jax import chat
from star_jax.data import doctor, encode, report, symptoms
from star_jax.data.__main__ import main
from star_jax.data.doctor import Finding
from star_jax.data.encode import Examples, Tokenizer
from tests import tiny

CUE = "<|im_start|>assistant\n"
END = "<|im_end|>"
# One token a byte: the cue is 11 tokens, so is every prompt of one letter 12.
MAX_TOKENS, MAX_TARGETS = 40, 20

Read = Callable[..., Examples]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny.tokenizer(tmp_path_factory.mktemp("model")))


@pytest.fixture
def read(tokenizer: Tokenizer, tmp_path: Path) -> Read:
    """(prompt, target) pairs as the examples of a file, with ids a, b, c, …"""

    def read(*pairs: tuple[str, str], name: str = "train.jsonl") -> Examples:
        return encode.examples(write(tmp_path / name, pairs), tokenizer, chat.render)

    return read


def write(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    rows = [
        {"id": chr(ord("a") + number), "inputs": prompt, "targets": target}
        for number, (prompt, target) in enumerate(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def examine(examples: Examples, tokenizer: Tokenizer, **changes: Any) -> list[Finding]:
    limits: dict[str, Any] = {"max_tokens": MAX_TOKENS, "max_targets": MAX_TARGETS}
    return doctor.examine(examples, tokenizer, **(limits | changes))


def asked(question: str, opening: str = "") -> str:
    return question + CUE + opening


GOOD = [
    (asked("q"), f"yes{END}"),
    (asked("r", "<think>"), f"</think>yes{END}\n"),  # as STAR's converter writes it
    (asked("s", "<think>\n"), f"hm\n</think>\nyes{END}"),
    (asked("t", "<think>\n\n</think>\n\n"), f"y{END}"),
    (asked("12345678"), f"{'y' * 19}{END}"),  # 19 of prompt, 20 of target: both limits but one
    (asked("123456789"), f"{'z' * 19}{END}"),  # 40 in all
]

NOTHING = "give it an answer, or allow nothing_to_learn to leave it out"
RAISE_PROMPT = "raise it, shorten the prompt, or allow prompt_cut to leave the row out"
RAISE_TARGET = "raise it, shorten the target, or allow target_cut to learn only its beginning"
BLANK = "has a target of special tokens and white space alone,"
NO_END = f"has a target that does not end in {END} but in"
APPEND = "append it, or allow end_missing to keep the row as it is"
KEEP_LAST = "keep the last one, or allow end_double to keep the row as it is"
NO_CUE = f"has a prompt that does not end in the assistant's cue {CUE!r}"
RENDER = "render it with the generation prompt, or allow cue_missing to keep the row as it is"
BAD = {
    "bare end": (asked("a"), END, f"nothing_to_learn: row b {BLANK} '{END}': {NOTHING}"),
    "blanks": (
        asked("a"),
        f"<think>\n\n</think>\n\n \t{END}{END}",
        f"nothing_to_learn: row b {BLANK} '<think>\\n\\n</think>\\n\\n \\t{END}{END}': {NOTHING}",
    ),
    "long blanks": (
        asked("a"),
        "\n" * 50,
        f"nothing_to_learn: row b {BLANK} {chr(10) * 20!r}: {NOTHING}",
    ),
    "long target": (
        asked("a"),
        f"{'y' * 20}{END}",
        f"target_cut: row b has a target of 21 tokens, max_targets is 20: {RAISE_TARGET}",
    ),
    "long row": (
        asked("1234567890"),
        f"{'y' * 19}{END}",
        "target_cut: row b has 41 tokens, 21 of prompt and 20 of target, max_tokens is 40: "
        + RAISE_TARGET,
    ),
    "full prompt": (
        asked("1" * 29),
        f"y{END}",
        f"prompt_cut: row b has a prompt of 40 tokens, max_tokens is 40: {RAISE_PROMPT}",
    ),
    "no end": (asked("a"), "yes", f"end_missing: row b {NO_END} 'yes': {APPEND}"),
    "newlines after the end": (
        asked("a"),
        f"yes{END}\n\n",
        f"end_missing: row b {NO_END} 'yes{END}\\n\\n': {APPEND}",
    ),
    "two ends": (
        asked("a"),
        f"yes{END}{END}",
        f"end_double: row b has {END} 2 times in its target: {KEEP_LAST}",
    ),
    "the ends of STAR's trainer": (
        asked("a"),
        f"yes{END}\n{END}",
        f"end_double: row b has {END} 2 times in its target: {KEEP_LAST}",
    ),
    "no cue": ("a", f"yes{END}", f"cue_missing: row b {NO_CUE}: {RENDER}"),
    "text after the cue": (
        asked("a", "<think>x"),
        f"yes{END}",
        f"cue_missing: row b {NO_CUE}: {RENDER}",
    ),
    "a user's cue": ("<|im_start|>user\n", f"yes{END}", f"cue_missing: row b {NO_CUE}: {RENDER}"),
}


def test_a_clean_file_gives_nothing(read: Read, tokenizer: Tokenizer) -> None:
    assert examine(read(*GOOD), tokenizer) == []
    # And it is given back as it was.
    examples = read(*GOOD)
    treated = doctor.treat(examples, [], max_tokens=MAX_TOKENS, max_targets=MAX_TARGETS)
    assert treated.examples is examples
    np.testing.assert_array_equal(treated.kept, np.arange(len(GOOD)))


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_found_in_its_row_alone(read: Read, tokenizer: Tokenizer, name: str) -> None:
    prompt, target, sentence = BAD[name]
    examples = read(GOOD[0], (prompt, target), *GOOD[1:])
    (found,) = examine(examples, tokenizer)
    assert str(found) == sentence
    assert (found.row_id, found.line) == ("b", 2)


def test_the_last_row_is_judged_as_any_other(read: Read, tokenizer: Tokenizer) -> None:
    for prompt, target, sentence in BAD.values():
        examples = read(*GOOD[:1], (prompt, target))
        assert [str(found) for found in examine(examples, tokenizer)] == [sentence]


def test_a_row_without_target(read: Read, tokenizer: Tokenizer) -> None:
    """No file gives one, a cut set of examples may."""
    examples = read(*GOOD[:3])
    limit = np.array([12, 10**6, 10**6])
    for order in ([0, 1, 2], [1, 2, 0]):
        (found,) = examine(examples.take(order, limit[order]), tokenizer)
        assert str(found) == f"nothing_to_learn: row a has no target: {NOTHING}"
    # The words of a prompt after it are none of a bare target's.
    bare = read((asked("a"), END), GOOD[0]).take([0, 1], np.array([10**6, 12]))
    assert [one.kind for one in examine(bare, tokenizer)] == ["nothing_to_learn"] * 2


def test_several_faults_of_a_row_are_all_named(read: Read, tokenizer: Tokenizer) -> None:
    examples = read(("a", f"{END}{'y' * 30}{END} "), GOOD[0], ("a", END))
    found = [(one.line, one.kind) for one in examine(examples, tokenizer)]
    first = ("target_cut", "end_missing", "end_double", "cue_missing")
    assert found == [
        *((1, kind) for kind in first),
        (3, "nothing_to_learn"),
        (3, "cue_missing"),
    ]


def test_no_limit_for_targets(read: Read, tokenizer: Tokenizer) -> None:
    examples = read((asked("a"), f"{'y' * 25}{END}"))
    assert examine(examples, tokenizer, max_targets=None) == []
    assert [one.kind for one in examine(examples, tokenizer)] == ["target_cut"]


def test_the_same_example_twice(read: Read, tokenizer: Tokenizer) -> None:
    moved = (GOOD[0][0][:-1], "\n" + GOOD[0][1])  # the same ids, another prompt
    found = examine(read(GOOD[1], GOOD[0], GOOD[1], moved, GOOD[1]), tokenizer)
    again = "is the example of line 1 again: remove one, or allow duplicate to keep both"
    assert [str(one) for one in found if one.kind == "duplicate"] == [
        f"duplicate: row c {again}",
        f"duplicate: row e {again}",
    ]


def test_rows_of_the_evaluation(read: Read, tokenizer: Tokenizer) -> None:
    """The question counts, whatever opens or follows the answer."""
    evaluation = read(
        ("w" + GOOD[0][0], "no"),
        (asked("r"), "no"),
        (asked("q", "<think>\n"), "no"),
        name="eval.jsonl",
    )
    examples = read(*GOOD, (asked("w"), f"yes{END}"))
    found = examine(examples, tokenizer, evaluation=evaluation)
    remedy = "take it out of one of the two, or allow evaluation_row to keep it in both"
    assert [str(one) for one in found] == [
        f"evaluation_row: row a has the prompt of {evaluation.path}:3: {remedy}",
        f"evaluation_row: row b has the prompt of {evaluation.path}:2: {remedy}",
    ]
    assert examine(examples, tokenizer, evaluation=evaluation.take([])) == []


# What is done about it


def treat(examples: Examples, found: list[Finding], *allow: str) -> doctor.Treated:
    return doctor.treat(examples, found, allow, max_tokens=MAX_TOKENS, max_targets=MAX_TARGETS)


@pytest.fixture
def spoilt(read: Read) -> Examples:
    """Rows a to h, of which a and g are good and every other has one fault."""
    names = ["bare end", "long target", "long row", "full prompt", "no end"]
    return read(GOOD[0], *(BAD[name][:2] for name in names), GOOD[1], GOOD[1])


EVERY = ("nothing_to_learn", "target_cut", "prompt_cut", "end_missing", "duplicate")


def test_what_is_not_allowed_is_refused(spoilt: Examples, tokenizer: Tokenizer) -> None:
    found = examine(spoilt, tokenizer)
    with pytest.raises(ValueError, match="nothing_to_learn: row b") as caught:
        treat(spoilt, found)
    *named, last = str(caught.value).splitlines()
    assert named == [f"{spoilt.path}:{one.line}: {one}" for one in found]
    counts = "1 nothing_to_learn, 2 target_cut, 1 prompt_cut, 1 end_missing, 1 duplicate"
    kinds = "nothing_to_learn, target_cut, prompt_cut, end_missing, duplicate"
    assert last == (
        f"{counts}: mend the file, or allow {kinds} (one row alone: nothing_to_learn:b)"
        " by --allow, in a run by --data.allow"
    )


def test_ten_are_named_and_all_are_counted(read: Read, tokenizer: Tokenizer) -> None:
    examples = read(*((asked(f"{i}"), "yes") for i in range(13)))
    with pytest.raises(ValueError, match="row a") as caught:
        treat(examples, examine(examples, tokenizer))
    rows = str(caught.value).splitlines()
    assert rows[10] == "and 3 more"
    assert rows[11].startswith("13 end_missing: mend the file, or allow end_missing (")


def test_what_is_allowed_is_done(
    spoilt: Examples, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    treated = treat(spoilt, examine(spoilt, tokenizer), *EVERY)
    np.testing.assert_array_equal(treated.kept, [0, 2, 3, 5, 6, 7])
    assert treated.examples.row_ids == ("a", "c", "d", "f", "g", "h")
    for example, index in zip(treated.examples, treated.kept.tolist(), strict=True):
        whole = spoilt[index]
        assert example.n_prompt == whole.n_prompt
        np.testing.assert_array_equal(example.ids, whole.ids[: len(example.ids)])
    # c loses what is beyond 20 tokens of target, d what is beyond 40 in all.
    assert treated.examples.n_target.tolist() == [4, 20, 19, 3, *spoilt.n_target[6:]]
    assert treated.examples.lengths[2] == MAX_TOKENS
    assert [record.getMessage() for record in caplog.records] == [
        f"{spoilt.path}: 1 nothing_to_learn: left out",
        f"{spoilt.path}: 2 target_cut: cut to fit",
        f"{spoilt.path}: 1 prompt_cut: left out",
        f"{spoilt.path}: 1 end_missing: kept as they are",
        f"{spoilt.path}: 1 duplicate: kept as they are",
    ]


def test_one_row_is_allowed(spoilt: Examples, tokenizer: Tokenizer) -> None:
    found = examine(spoilt, tokenizer)
    rest = [kind for kind in EVERY if kind != "target_cut"]
    with pytest.raises(ValueError, match=r"^\S+train\.jsonl:4: target_cut: row d") as caught:
        treat(spoilt, found, *rest, "target_cut:c")
    assert "1 target_cut: mend" in str(caught.value)
    treated = treat(spoilt, found, *rest, "target_cut:c", "target_cut:d")
    np.testing.assert_array_equal(treated.kept, treat(spoilt, found, *EVERY).kept)


def test_rows_keep_what_was_not_found_in_them(spoilt: Examples, tokenizer: Tokenizer) -> None:
    """Only a row whose finding was allowed is touched, whatever its length."""
    found = [one for one in examine(spoilt, tokenizer) if one.row_id == "c"]
    treated = treat(spoilt, found, "target_cut")
    assert treated.examples.lengths.tolist() == [
        n - (1 if i == 2 else 0) for i, n in enumerate(spoilt.lengths)
    ]


def test_row_ids_may_hold_colons(read: Read, tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"id": "x:1", "inputs": asked("a"), "targets": "yes"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    examples = encode.examples(tmp_path / "rows.jsonl", tokenizer, chat.render)
    assert len(treat(examples, examine(examples, tokenizer), "end_missing:x:1").examples) == 1


def test_an_allowance_that_nothing_needs_is_logged(
    spoilt: Examples, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    found = examine(spoilt, tokenizer)
    caplog.set_level(logging.WARNING)
    doctor.divide(found, ["end_double", "target_cut:a", "target_cut"])
    assert [record.getMessage() for record in caplog.records] == [
        "allow end_double: there is no such finding: remove it",
        "allow target_cut:a: there is no such finding: remove it",
    ]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("duplicates", "there is no kind 'duplicates' of finding: did you mean duplicate?"),
        ("target_cutt:c", "there is no kind 'target_cutt' of finding: did you mean target_cut?"),
        ("", "there is no kind '' of finding: choose among nothing_to_learn, prompt_cut, "),
        ("target_cut:", "names no row: write target_cut:ROW_ID, or target_cut for all"),
    ],
)
def test_an_allowance_that_cannot_be(spoilt: Examples, entry: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="allow ") as caught:
        treat(spoilt, [], entry)
    assert sentence in str(caught.value)


def test_nothing_left_is_an_error(read: Read, tokenizer: Tokenizer) -> None:
    examples = read((asked("a"), END))
    with pytest.raises(ValueError, match=r"train\.jsonl: every row is left out: mend the file"):
        treat(examples, examine(examples, tokenizer), "nothing_to_learn")


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_tokens": 1}, "max_tokens is 1: give at least 2"),
        ({"max_targets": 0}, "max_targets is 0: give at least 1, or none for no limit"),
    ],
)
def test_limits_that_no_row_could_meet(
    read: Read, tokenizer: Tokenizer, limits: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        examine(read(GOOD[0]), tokenizer, **limits)


def test_another_tokenizers_ids_are_refused(read: Read, tokenizer: Tokenizer) -> None:
    examples = read(GOOD[0])
    for other in (tokenizer.size, -1):
        spoilt = synthetic([[other, *examples.ids]], [12])
        with pytest.raises(ValueError, match=f"x.jsonl: holds id {other}, the tokenizer has 0 to"):
            examine(spoilt, tokenizer)


# Any rows, and many


def synthetic(rows: Sequence[Sequence[int]], n_prompt: Sequence[int]) -> Examples:
    return Examples(
        "x.jsonl",
        np.array([token for row in rows for token in row], np.int32),
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        np.array(n_prompt, np.int32),
        np.arange(1, len(rows) + 1),
        tuple(f"r{number}" for number in range(len(rows))),
    )


def plain(row: Sequence[int], n_prompt: int, tokenizer: Tokenizer) -> set[str]:
    """The kinds of one row alone, found without arrays."""
    prompt, target = list(row[:n_prompt]), list(row[n_prompt:])
    text = tokenizer.decode(target)
    for tag in tiny.SPECIAL:
        text = text.replace(tag, "")
    endings = [tokenizer.encode([CUE + opening])[0] for opening in symptoms.OPENINGS]
    kinds = set()
    if not any(prompt[-len(ids) :] == ids for ids in endings):
        kinds.add("cue_missing")
    if n_prompt >= 24:
        kinds.add("prompt_cut")
    if not text.strip():
        return kinds | {"nothing_to_learn"}
    if n_prompt < 24 and (len(row) > 24 or len(target) > 6):
        kinds.add("target_cut")
    end = tokenizer.end_of_turn
    if target.count(end) > 1:
        kinds.add("end_double")
    newline = tokenizer.encode(["\n"])[0]
    if target[-1:] != [end] and target[-2:] != [end, *newline]:
        kinds.add("end_missing")
    return kinds


PIECES = st.sampled_from(["", "q", "é", "\n", " ", CUE, END, "<think>", "</think>", "\n\n"])
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=6), allow=st.sets(st.sampled_from(EVERY)))
def test_any_rows(tokenizer: Tokenizer, rows: list[tuple[str, str]], allow: set[str]) -> None:
    prompts, targets = (tokenizer.encode([row[i] for row in rows]) for i in (0, 1))
    ids = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
    examples = synthetic(ids, [len(prompt) for prompt in prompts])
    found = doctor.examine(
        examples, tokenizer, max_tokens=24, max_targets=6, evaluation=examples.take([])
    )
    for i, row in enumerate(ids):
        kinds = {one.kind for one in found if one.line == i + 1} - {"duplicate"}
        assert kinds == plain(row, len(prompts[i]), tokenizer)
    others = {one.kind for one in found} - allow
    if others:
        with pytest.raises(ValueError, match="mend the file"):
            doctor.treat(examples, found, [*allow], max_tokens=24, max_targets=6)
    gone = {one.line - 1 for one in found if doctor.DONE[one.kind] == "left out"}
    if len(gone) < len(rows):
        treated = doctor.treat(examples, found, [*doctor.DONE], max_tokens=24, max_targets=6)
        assert treated.kept.tolist() == [i for i in range(len(rows)) if i not in gone]
        assert symptoms.fits(treated.examples, 24, 6).all()


def test_many_rows(tokenizer: Tokenizer) -> None:
    """200,000 examples of 30 tokens, one of each kind among them; the bound is generous."""
    rng = np.random.default_rng(0)
    (cue,) = tokenizer.encode([CUE])
    count, length = 200_000, 30
    ids = rng.integers(0, 200, (count, length), np.int32)
    ids[:, 9:20] = cue
    ids[:, -1] = tokenizer.end_of_turn
    ids[3, -1] = 5
    ids[70_000] = ids[500]
    ids[199_999, 20:] = tokenizer.end_of_turn
    examples = Examples(
        "x.jsonl",
        ids.ravel(),
        np.arange(count + 1) * length,
        np.full(count, 20, np.int32),
        np.arange(1, count + 1),
        tuple(map(str, range(count))),
    )
    began = time.perf_counter()
    found = doctor.examine(
        examples, tokenizer, max_tokens=30, max_targets=10, evaluation=examples.take([777])
    )
    assert time.perf_counter() - began < 30
    assert [(one.row_id, one.kind) for one in found] == [
        ("3", "end_missing"),
        ("777", "evaluation_row"),
        ("70000", "duplicate"),
        ("199999", "nothing_to_learn"),
    ]


# The command


def run(path: Path, tokenizer: Tokenizer, *arguments: str) -> int:
    limits = ["--max-tokens", str(MAX_TOKENS), "--max-targets", str(MAX_TARGETS)]
    return main(["doctor", str(path), "--model", str(tokenizer.path.parent), *limits, *arguments])


def test_the_command_names_every_row_and_counts(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [BAD["bare end"], BAD["long target"]]
    path = write(tmp_path / "rows.jsonl", [*GOOD[:2], *(fault[:2] for fault in faults)])
    assert run(path, tokenizer, "--allow", "target_cut") == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}:3: {faults[0][2].replace('row b', 'row c')}",
        f"{path}:4: {faults[1][2].replace('row b', 'row d')}",
        "                    found  allowed",
        "nothing_to_learn        1        0",
        "target_cut              1        1",
        "tokens             median      p95      max",
        "prompt                 12       13       13",
        "target                  6       21       21",
        "together               19       33       33",
        "3 of 4 examples fit whole (max_tokens 40, max_targets 20)",
        "targets that end in <|im_end|> and a newline, as STAR's converter writes them: 1",
    ]
    assert run(path, tokenizer, "--allow", "target_cut", "nothing_to_learn:c") == 0


def test_the_command_as_json(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "rows.jsonl", [GOOD[0], ("x", f"yes{END}"), GOOD[0]])
    assert run(path, tokenizer, "--json", "--eval", str(path), "--allow", "evaluation_row") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == found["fit"] == 3
    assert found["tokens"]["target"] == {"median": 4, "p95": 4, "max": 4}
    assert found["kinds"]["evaluation_row"] == {"found": 3, "allowed": 3}
    assert [
        (one["kind"], one["row_id"], one["line"], one["allowed"]) for one in found["findings"]
    ] == [
        ("evaluation_row", "a", 1, True),
        ("cue_missing", "b", 2, False),
        ("evaluation_row", "b", 2, True),
        ("duplicate", "c", 3, False),
        ("evaluation_row", "c", 3, True),
    ]


def test_conversations_are_rendered_with_the_folders_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.tokenizer(tmp_path / "m")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": 1, "messages": messages}))
    call = ["doctor", str(path), "--model", str(model), "--max-tokens", "100"]
    assert main(call) == 0
    assert "1 of 1 examples fit whole (max_tokens 100)\n" in capsys.readouterr().out
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]"
        "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
        "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert main(call) == 1
    assert "rows.jsonl:1: cue_missing: row 1 has a prompt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--allow", "duplicat"], "did you mean duplicate?"),
        (["--max-tokens", "0"], "max_tokens is 0: give at least 2"),
        (["--eval", "no.jsonl"], "no.jsonl: there is no such file: check the path"),
        (["--model", "nowhere"], "nowhere/tokenizer.json: there is no such file"),
    ],
)
def test_a_wrong_call(
    tokenizer: Tokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD[:1])
    assert run(path, tokenizer, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("star_jax.data: ")
    assert sentence in printed.err


def test_lengths_of_no_example_are_none(read: Read, tokenizer: Tokenizer) -> None:
    described = report.describe(read(GOOD[0]).take([]), tokenizer, [], [], max_tokens=9)
    assert described["tokens"]["prompt"] == {"median": 0, "p95": 0, "max": 0}


def test_rows_without_the_part_that_is_learnt() -> None:
    """Ids by hand: 9 ends thinking; each target is what follows one prompt token."""
    targets = [[1, 9, 2], [1, 2], [1, 9], [1, 1, 1, 9, 2], [9]]
    ids = [[5, *target] for target in targets]
    held = Examples(
        "rows.jsonl",
        np.concatenate(ids).astype(np.int32),
        np.cumsum([0, *map(len, ids)]),
        np.ones(len(ids), np.int32),
        np.arange(1, len(ids) + 1),
        tuple("abcde"),
    )

    class Nine:
        end_of_think = 9

    def without(part: str, **limits: int) -> list[str]:
        given = {"max_tokens": 100} | limits
        found = doctor.partless(held, Nine(), part, **given)  # ty: ignore
        assert all(each.kind == "nothing_to_learn" for each in found)
        return [each.row_id for each in found]

    assert without("all") == without("alternating") == []
    assert without("think") == ["b"]
    assert without("answer") == ["c", "e"]
    # Cut after three targets, the thinking of d does not end, and nothing of it is an answer.
    assert without("think", max_targets=3) == ["b", "d"]
    assert without("answer", max_targets=3) == ["c", "d", "e"]
    assert without("answer", max_tokens=4) == ["c", "d", "e"]
