"""Verifying a cache: nothing differs in one that is right, one altered number is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.data import __main__ as command
from star_jax.data import cache
from star_jax.data.cache import cli, compare, manifest, scoring, shard
from star_jax.data.cache.reader import Read
from star_jax.data.cache.scoring import Scores
from star_jax.data.cache.verify import NOISE
from tests import cached, tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    cached.teacher(folder / "big")
    cached.rows(folder / "rows.jsonl")
    made = cached.origin(folder / "big", folder / "rows.jsonl")
    cached.make(folder / "c", made)
    return folder


@pytest.fixture
def mine(world: Path, tmp_path: Path) -> Path:
    """The same, to be altered."""
    shutil.copytree(world, tmp_path / "w")
    return tmp_path / "w"


def verify(folder: Path, *more: str) -> int:
    named = ["--teacher", str(folder / "big"), "--rows", str(folder / "rows.jsonl")]
    form = ["--batch-tokens", "1024"]
    return command.main(["cache", "verify", str(folder / "c"), *named, *form, *more])


@pytest.fixture(autouse=True)
def one_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for a mesh take long to compile; a slow test has one."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr("star_jax.data.cache.cli._mesh", lambda arguments: None)


def alter(folder: Path, index: int, field: str, change: Any) -> None:
    """A shard rewritten with a right checksum: only the teacher can tell."""
    made = manifest.read(folder / "c")
    content = cache.Cache(folder / "c").shards[index].map()
    array = getattr(content, field).copy()
    change(array)
    shard.write(folder / "c" / shard.name_of(index), made, content._replace(**{field: array}))


def test_nothing_differs_in_a_cache_that_is_right(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(world) == 0
    said = capsys.readouterr().out
    assert "3 shards intact; teacher, tokenizer, template and rows as built" in said
    targets = manifest.read(world / "c").positions
    assert f"12 of 12 rows scored again, {targets} targets: log-probs differ by up to 0.0" in said
    assert "which storing and computing explain" in said


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_nothing_differs_on_more_devices_than_it_was_built_with(
    world: Path, mesh: tuple[int, int, int]
) -> None:
    sizes = [f"--mesh.{axis}={n}" for axis, n in zip(("data", "fsdp", "tensor"), mesh, strict=True)]
    assert verify(world, *sizes, "--batch-tokens", "512") == 0


@pytest.mark.slow
def test_bfloat16_rounds_more_on_a_mesh(world: Path, tmp_path: Path) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    for name in ("big", "rows.jsonl"):
        (tmp_path / name).symlink_to(world / name)
    cached.make(tmp_path / "c", made, compute_dtype="bfloat16")
    assert verify(tmp_path) == 0
    # What is allowed of float32 would be too narrow.
    assert verify(tmp_path, "--tolerance", "0.001") == 1


@pytest.mark.parametrize(
    ("field", "at", "by", "what"),
    [
        ("logp", (3, 7), 0.02, "a token's log-prob"),
        ("logp", (3, 7), -0.02, "a token's log-prob"),
        ("tail_logp", 3, 0.002, "the log of the mass outside the list"),
        ("label_logp", 3, -0.002, "the target's log-prob"),
    ],
)
def test_one_altered_number_is_found(
    mine: Path, capsys: pytest.CaptureFixture[str], field: str, at: Any, by: float, what: str
) -> None:
    def change(array: np.ndarray) -> None:
        array[at] += by

    alter(mine, 1, field, change)
    assert verify(mine) == 1
    said = capsys.readouterr().out
    # The sixth row is the second shard's first.
    assert f"rows.jsonl:6: row '5': target 3: {what} is " in said
    assert "(1 of " in said
    assert said.rstrip().endswith("see above")


@pytest.mark.parametrize("column", [0, 10, 19])
def test_one_altered_id_is_found(
    mine: Path, capsys: pytest.CaptureFixture[str], column: int
) -> None:
    """The best, one in the middle, and the last, for one that is not on the list."""
    ids_PC = cache.Cache(mine / "c").shards[0].map().ids
    strange = next(i for i in range(cached.V) if i not in ids_PC[2])

    def change(array: np.ndarray) -> None:
        array[2, column] = strange

    alter(mine, 0, "ids", change)
    assert verify(mine) == 1
    assert "rows.jsonl:1: row '0': target 2: a token's log-prob is " in capsys.readouterr().out


def test_one_flipped_bit_is_found_wherever_it_is(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mine / "c" / shard.name_of(2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert verify(mine, "--sample", "1") == 1
    said = capsys.readouterr().out
    assert f"{path}: its bytes are not those that were written: remove it, then python -m" in said
    assert said.count("\n") == 1


def test_the_sample_is_as_large_as_asked_and_the_seed_s(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(world, "--sample", "2", "--seed", "1") == 0
    first = capsys.readouterr().out
    assert "2 of 12 rows scored again" in first
    assert verify(world, "--sample", "2", "--seed", "1") == 0
    assert capsys.readouterr().out == first


def test_another_teacher_is_found_without_running_it(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("star_jax.models.load", None)
    shutil.rmtree(mine / "big")
    cached.teacher(mine / "big", seed=1)
    assert verify(mine) == 1
    said = capsys.readouterr().out
    held = manifest.read(mine / "c").teacher_hash
    new = cache.teacher_hash(mine / "big")
    assert said == f"the teacher {mine / 'big'} has hash {new}, the cache is of {held}\n"


def test_other_rows_are_found(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace(".", ",", 1)
    lines[8] = lines[8].replace(".", ",", 1)
    path.write_text("".join(lines[:-1]))
    assert verify(mine) == 1
    said = capsys.readouterr().out.splitlines()
    wanted = f"{path}:4: row '3' is not what the cache has there, nor do 1 rows after it"
    assert said == [wanted, f"{path} holds 11 rows, the cache 12"]


def test_another_template_is_found(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = tiny.tokenizer(mine / "small")
    (student / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
        "\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    # The rows it makes are the same.
    assert verify(mine, "--model", str(student)) == 1
    said = capsys.readouterr().out
    assert said.startswith("the chat template has hash ")
    assert said.endswith("the cache is of star_jax.chat.render/1\n")
    assert said.count("\n") == 1


def test_what_cannot_be_verified_is_no_difference(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "c" / shard.name_of(1)).unlink()
    assert verify(mine) == 2
    assert "is not finished, 2 of 3 shards" in capsys.readouterr().err


def lists(rng: np.random.Generator, n: int, V: int, C: int) -> tuple[Scores, np.ndarray]:
    """What a teacher says, one token more than is stored; and all its log-probs."""
    logits_nV = rng.normal(0, 3, (n, V))
    logp_nV = logits_nV - np.log(np.exp(logits_nV).sum(axis=1, keepdims=True))
    ids_nE = np.argsort(-logp_nV, axis=1)[:, : C + 1]
    top_nE = np.take_along_axis(logp_nV, ids_nE, axis=1)
    rest_nV = np.exp(logp_nV)
    np.put_along_axis(rest_nV, ids_nE, 0, axis=1)
    fresh = Scores(
        ids_nE.astype(np.int32),
        top_nE.astype(np.float32),
        np.log(rest_nV.sum(axis=1)).astype(np.float32),
        logp_nV[:, 0].astype(np.float32),
    )
    return fresh, logp_nV


def store(logp_nV: np.ndarray, ids_nC: np.ndarray, dtype: str) -> Read:
    rest_nV = np.exp(logp_nV)
    np.put_along_axis(rest_nV, ids_nC, 0, axis=1)
    return Read(
        ids_nC.astype(np.int32),
        np.take_along_axis(logp_nV, ids_nC, axis=1).astype(shard.DTYPES[dtype][1]),
        np.log(rest_nV.sum(axis=1)).astype(np.float32),
        logp_nV[:, 0].astype(np.float32),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(shard.DTYPES)), st.booleans())
def test_storing_and_noise_are_no_difference(seed: int, dtype: str, approximate: bool) -> None:
    """A second run whose log-probs are all off by up to the noise, and which lists what it finds
    best; an approximate one leaves tokens out."""
    rng = np.random.default_rng(seed)
    fresh, logp_nV = lists(rng, n=6, V=50, C=8)
    noise = 0.05
    other_nV = logp_nV + rng.uniform(-0.4, 0.4, logp_nV.shape) * noise
    other_nV -= np.log(np.exp(other_nV).sum(axis=1, keepdims=True))
    order_nV = np.argsort(-other_nV, axis=1)
    ids_nC = np.delete(order_nV, [2, 5], axis=1)[:, :8] if approximate else order_nV[:, :8]
    stored = store(other_nV, ids_nC, dtype)
    found = compare.compare(stored, fresh, dtype=dtype, noise=noise + 1e-5, approximate=approximate)
    assert found.differences == []
    assert found.largest <= noise + 0.05  # and bfloat16's rounding
    if approximate:
        exact = compare.compare(stored, fresh, dtype=dtype, noise=1e-3)
        assert "the list's order" in {one.what for one in exact.differences}


@pytest.mark.parametrize("dtype", shard.DTYPES)
def test_what_rounding_does_not_explain_is_a_difference(dtype: str) -> None:
    """Of every number of a list: moved by twice its unit in the last place."""
    fresh, logp_nV = lists(np.random.default_rng(0), n=4, V=50, C=8)
    stored = store(logp_nV, fresh.ids_PC[:, :8], dtype)
    assert compare.compare(stored, fresh, dtype=dtype, noise=1e-6).count == 0
    for n in range(4):
        for c in range(8):
            moved_nC = stored.logp_nC.copy()
            moved_nC[n, c] *= np.asarray(1 + 2.0**-6 if dtype == "bfloat16" else 1 + 2.0**-9)
            changed = stored._replace(logp_nC=moved_nC)
            found = compare.compare(changed, fresh, dtype=dtype, noise=1e-6)
            assert found.count == 1
            assert {one.position for one in found.differences} == {n}


def test_a_list_of_the_whole_vocabulary_compares() -> None:
    rng = np.random.default_rng(0)
    with np.errstate(divide="ignore"):  # nothing is left: the log of its mass is -inf
        fresh, logp_nV = lists(rng, n=3, V=8, C=8)
        stored = store(logp_nV, fresh.ids_PC, "float32")
    assert np.isneginf(fresh.tail_logp_P).all()
    found = compare.compare(stored, fresh, dtype="float32", noise=1e-6)
    assert found.differences == []


def test_a_row_without_targets_compares() -> None:
    fresh, logp_nV = lists(np.random.default_rng(0), n=1, V=20, C=4)
    none = Scores(*(x[:0] for x in fresh))
    stored = store(logp_nV[:0], fresh.ids_PC[:0, :4], "float16")
    assert compare.compare(stored, none, dtype="float16", noise=0) == compare.Outcome([], 0, 0.0)


def test_the_reasoning_is_read_as_it_was_built(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "big").symlink_to(world / "big")
    thought = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    row = {"id": "a", "messages": [{"role": "user", "content": "x"}, thought]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    made = cached.origin(tmp_path / "big", tmp_path / "rows.jsonl", reasoning="drop")
    kept = cached.origin(tmp_path / "big", tmp_path / "rows.jsonl")
    assert len(made.examples.ids) < len(kept.examples.ids)
    cached.make(tmp_path / "c", made)
    with pytest.raises(ValueError, match="--reasoning was drop and is now keep"):
        cached.plan(tmp_path / "c", kept)
    assert verify(tmp_path) == 0


@pytest.mark.slow
def test_an_approximate_cache_is_verified_as_one(world: Path, tmp_path: Path) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    for name in ("big", "rows.jsonl"):
        (tmp_path / name).symlink_to(world / name)
    cached.make(tmp_path / "c", made, approximate=True)
    assert manifest.read(tmp_path / "c").approximate
    assert verify(tmp_path) == 0


def test_what_help_says_is_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["build", "c", "--teacher", "t", "--rows", "r"]
    assert cli._parser().parse_args(given).batch_tokens == scoring.BATCH_TOKENS
    with pytest.raises(SystemExit):
        cli.main(["verify", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{nats:g} in {dtype}" in said for dtype, nats in NOISE.items())
