"""Building a cache: what it holds, how it goes on, and what it refuses."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import batch, models
from star_jax.data import __main__ as command
from star_jax.data import cache
from star_jax.data.cache import build, manifest, scoring, shard
from star_jax.train import distill
from tests import cached

# Half a unit in the last place of what is stored, relative to it.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 0.0}
ROUNDED = 2e-5  # what two float32 runs of the teacher may differ by, in nats


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, its rows, and a finished cache of them in each storage dtype."""
    folder = tmp_path_factory.mktemp("world")
    cached.teacher(folder / "big")
    cached.rows(folder / "rows.jsonl")
    made = cached.origin(folder / "big", folder / "rows.jsonl")
    for dtype in shard.DTYPES:
        cached.make(folder / dtype, made, dtype=dtype)
    return folder


@pytest.fixture
def begun(world: Path, tmp_path: Path) -> Path:
    return cached.begin(world, tmp_path)


def plan(folder: Path, **options: Any) -> build.Plan:
    made = cached.origin(folder / "big", folder / "rows.jsonl")
    return cached.plan(folder / "c", made, **options)


@functools.cache
def dense(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A live teacher: logits of every target position, and the targets."""
    made = cached.examples(folder / "big", folder / "rows.jsonl")
    padded = batch.pad(made, 256)
    teacher = models.load(folder / "big")
    logits_BTV = models.logits(teacher.params, teacher.config, padded.tokens_BT, made.lengths)
    is_target = padded.weight_BT != 0
    return np.asarray(logits_BTV)[is_target], padded.target_BT[is_target]


def read_all(folder: Path, dtype: str) -> cache.Read:
    held = cache.Cache(folder / dtype)
    made = cached.examples(folder / "big", folder / "rows.jsonl")
    found = [held.read(place, n) for place, n in zip(held.find(made), made.n_target, strict=True)]
    return cache.Read(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


@pytest.mark.parametrize("dtype", shard.DTYPES)
def test_a_cache_is_the_live_teacher_at_every_position(world: Path, dtype: str) -> None:
    logits_NV, label_N = dense(world)
    stored = read_all(world, dtype)
    logp_NV = np.asarray(jax.nn.log_softmax(logits_NV))
    assert stored.logp_nC.dtype == shard.DTYPES[dtype][1]
    assert stored.ids_nC.shape == (len(label_N), cached.TOP_K)
    best_NC = -np.sort(-logp_NV, axis=1)[:, : cached.TOP_K]
    own_NC = np.take_along_axis(logp_NV, stored.ids_nC, axis=1)
    allowed_NC = np.abs(best_NC) * ROUNDING[dtype] + ROUNDED
    assert (np.abs(stored.logp_nC.astype(np.float32) - own_NC) <= allowed_NC).all()
    # The ids are the best ones: their own log-probs are, in order, to what float32 tells apart.
    np.testing.assert_allclose(own_NC, best_NC, rtol=0, atol=ROUNDED)
    at = np.arange(len(label_N))
    np.testing.assert_allclose(stored.label_logp_n, logp_NV[at, label_N], rtol=0, atol=ROUNDED)
    tail_N = np.log(np.sort(np.exp(logp_NV), axis=1)[:, : -cached.TOP_K].sum(axis=1))
    np.testing.assert_allclose(stored.tail_logp_n, tail_N, rtol=0, atol=ROUNDED)


OBJECTIVES = {
    "constrained": {"kind": "fkl", "tail": "penalise"},
    "bucket": {"kind": "rkl", "tail": "bucket"},
    "with labels": {"kind": "fkl", "tail": "renormalise", "kd_ratio": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", shard.DTYPES)
def test_a_loss_is_that_of_the_live_teacher(world: Path, dtype: str, name: str) -> None:
    logits_NV, label_N = dense(world)
    student_NV = np.random.default_rng(1).normal(0, 2, logits_NV.shape).astype(np.float32)
    objective = distill.Objective(top_k=cached.TOP_K, student_top_m=10, **OBJECTIVES[name])
    live_N, live = objective(jnp.asarray(student_NV), distill.Dense(logits_NV, label_N))
    ids_NC, logp_NC, tail_N, label_logp_N = read_all(world, dtype)
    known = distill.TopK(ids_NC, logp_NC, tail_N, label_N, label_logp_N)
    stored_N, found = objective(jnp.asarray(student_NV), known)
    # Off by what the log-probs are off by, times how much p (log p - log q) and q (log q - log p)
    # move with log p: both at most 1 + |log p - log q| + that off, on masses of at most 1.
    logq_NV = np.asarray(jax.nn.log_softmax(student_NV))
    logp_NV = np.asarray(jax.nn.log_softmax(logits_NV))
    ratio_N = np.abs(logp_NV - logq_NV).max(axis=1)
    off_N = np.abs(logp_NC.astype(np.float32)).max(axis=1) * ROUNDING[dtype]
    allowed_N = 2 * off_N * (1 + ratio_N + off_N) + 1e-4
    assert (np.abs(stored_N - live_N) <= allowed_N).all()
    if dtype == "float32":
        np.testing.assert_allclose(stored_N, live_N, rtol=1e-5, atol=3e-5)
    nll = "distill/teacher_nll_nats"
    np.testing.assert_allclose(found[nll], live[nll], rtol=0, atol=ROUNDED)


def test_the_size_is_said_before(world: Path, tmp_path: Path) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    for dtype in shard.DTYPES:
        planned = cached.plan(tmp_path / "c", made, dtype=dtype)
        sizes = [path.stat().st_size for path in (world / dtype).iterdir()]
        assert planned.bytes_in_all == sum(sizes)
        assert planned.bytes_to_make == sum(sizes) - len(planned.manifest.to_json())
        assert not (tmp_path / "c").exists()


def test_the_default_shard_is_of_64_mb(world: Path, tmp_path: Path) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    planned = cached.plan(tmp_path / "c", made, rows_per_shard=None)
    rows = planned.manifest.rows_per_shard
    per_row = made.examples.n_target.mean() * (cached.TOP_K * 6 + 8)
    assert rows * per_row == pytest.approx(64 << 20, rel=1e-3)


def test_a_build_goes_on_with_what_is_missing(
    world: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(begun, rows_per_shard=None)  # as it was begun
    assert planned.to_make == (1,)
    untouched = (begun / "c" / shard.name_of(0)).stat().st_mtime_ns
    build.run(planned, tokens=1024)
    assert cached.shards_of(begun / "c") == cached.shards_of(world / "float16")
    assert (begun / "c" / shard.name_of(0)).stat().st_mtime_ns == untouched
    # Where nothing is missing the teacher is not even loaded.
    monkeypatch.setattr(models, "load", None)
    build.run(build.remaining(planned), tokens=1024)


def test_a_finished_cache_does_not_depend_on_where_its_rows_and_teacher_lie(
    world: Path, begun: Path
) -> None:
    for name in ("big", "rows.jsonl"):
        (begun / name).rename(begun / f"moved-{name}")
    made = cached.origin(begun / "moved-big", begun / "moved-rows.jsonl")
    cached.make(begun / "c", made)
    assert manifest.read(begun / "c").teacher == str(world / "big")
    sizes = [path.stat().st_size for path in (begun / "c").iterdir()]
    assert cached.plan(begun / "c", made).bytes_in_all == sum(sizes)
    assert cached.shards_of(begun / "c") == cached.shards_of(world / "float16")


def test_parts_make_what_one_build_makes(world: Path, tmp_path: Path) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    first = cached.plan(tmp_path / "c", made, part=(0, 2))
    second = cached.plan(tmp_path / "c", made, part=(1, 2))  # both know of no manifest
    assert (first.to_make, second.to_make) == ((0, 2), (1,))
    assert (
        first.bytes_to_make + second.bytes_to_make
        == cached.plan(tmp_path / "c", made).bytes_to_make
    )
    build.run(second, tokens=1024)
    with pytest.raises(ValueError, match=r"is not finished, 1 of 3 shards are there"):
        cache.Cache(tmp_path / "c")
    build.run(first, tokens=1024)
    assert cached.shards_of(tmp_path / "c") == cached.shards_of(world / "float16")
    assert manifest.read(tmp_path / "c") == manifest.read(world / "float16")


def test_two_builds_of_different_settings_do_not_mix(world: Path, tmp_path: Path) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    first = cached.plan(tmp_path / "c", made)
    other = cached.plan(tmp_path / "c", made, dtype="float32")
    (tmp_path / "c").mkdir()
    manifest.write(tmp_path / "c", other.manifest)
    going_on = build.Plan(**{**vars(first), "is_begun": True})
    with pytest.raises(ValueError, match="another build has begun here meanwhile: give each its"):
        build.run(going_on, tokens=1024)
    assert cached.shards_of(tmp_path / "c") == {}


def arguments(folder: Path, *more: str) -> list[str]:
    named = ["--teacher", str(folder / "big"), "--rows", str(folder / "rows.jsonl")]
    form = ["--top-k", str(cached.TOP_K), "--compute", "float32", "--rows-per-shard", "5"]
    return ["cache", "build", str(folder / "c"), *named, *form, *more]


def test_a_dry_run_prints_what_it_would_do(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (begun / "c").iterdir()}
    assert command.main(arguments(begun, "--dry-run")) == 0
    said = capsys.readouterr().out
    planned = plan(begun)
    for words in (
        "rows              12 of",
        f"target positions  {planned.manifest.positions:,}\n",
        "each              the best 20 of 272 tokens, float16",
        f"on disk           {planned.bytes_in_all:,} bytes when it is complete",
        "shards            3 of up to 5 rows",
        f"to make           1, {planned.bytes_to_make:,} bytes",
    ):
        assert words in said
    assert {path: path.read_bytes() for path in (begun / "c").iterdir()} == before
    assert command.main(arguments(begun, "--dry-run", "--part", "0/2")) == 0
    assert "to make           0, of this part's 2, 0 bytes" in capsys.readouterr().out


def test_a_mistake_is_one_sentence(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments(begun, "--top-k", "21")) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"cache: {begun / 'c'}: holds another cache, --top-k was 20")
    assert said.err.count("\n") == 1
    assert command.main(["cache", "info", str(begun / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--top-k", "0"], "--top-k: '0': give a whole number from 1 on"),
        (["--skip-bad", "-1"], "--skip-bad: '-1': give a whole number from 0 on"),
        (["--part", "2/2"], "--part: '2/2': give I/N, I from 0 to N - 1"),
        (["--part", "1"], "--part: '1': give I/N, I from 0 to N - 1"),
    ],
)
def test_a_wrong_option_is_named(
    begun: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments(begun, *wrong))
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: argument {said}\n")


def test_an_interrupted_build_says_that_it_goes_on(
    begun: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "score_examples", interrupt)
    assert command.main(arguments(begun)) == 130
    assert capsys.readouterr().err.endswith("interrupted; the same command goes on where it was\n")
    assert [path.name for path in (begun / "c").glob(".*")] == []


def test_info_says_what_a_cache_is_of(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["cache", "info", str(begun / "c")]) == 0
    said = capsys.readouterr().out
    held = sum(path.stat().st_size for path in (begun / "c").iterdir())
    made = manifest.read(begun / "c")
    for words in (
        made.teacher_hash,
        made.tokenizer_hash,
        "template star_jax.chat.render/1",
        "exact top-20 of 272 tokens, float16 log-probs",
        f"{held:,} bytes in 2 of 3 shards",
        f"unfinished, go on with {made.command(begun / 'c')}",
    ):
        assert words in said


def test_reading_and_describing_need_no_jax(begun: Path) -> None:
    code = (
        "import sys; from star_jax.data.__main__ import main; import star_jax.data.cache; "
        f"main(['cache', 'info', {str(begun / 'c')!r}]); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_a_build_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Killed by the system once the first shard is there; then the command that a reader names."""
    cached.teacher(tmp_path / "big")
    cached.rows(tmp_path / "rows.jsonl", count=150, longest=30)
    form = ["--rows-per-shard", "1", "--batch-tokens", "512"]

    def start(*more: str) -> subprocess.Popen[str]:
        whole = [sys.executable, "-m", "star_jax.data", *arguments(tmp_path, *form, *more)]
        return subprocess.Popen(whole, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    first = tmp_path / "c" / shard.name_of(0)
    killed = start()
    until = time.monotonic() + 300
    while not first.exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    there = cached.shards_of(tmp_path / "c")
    assert 0 < len(there) < 150
    # As if it had been killed while it wrote.
    left = tmp_path / "c" / f".{shard.name_of(149)}.{os.uname().nodename}-{killed.pid}.part"
    left.write_bytes(b"half")
    with pytest.raises(ValueError, match=f"is not finished, {len(there)} of 150") as unfinished:
        cache.Cache(tmp_path / "c")
    assert str(unfinished.value).endswith("--dtype float16 --compute float32")
    said, errors = start().communicate()
    assert "150 of 150 shards are there: complete" in said, errors
    assert not left.exists()
    resumed = cached.shards_of(tmp_path / "c")
    assert there.items() <= resumed.items()
    (tmp_path / "c").rename(tmp_path / "resumed")
    said, errors = start().communicate()
    assert "complete" in said, errors
    assert cached.shards_of(tmp_path / "c") == resumed
    names = [path.name for path in (tmp_path / "resumed").iterdir()]
    assert len(names) == 151
    assert (tmp_path / "resumed" / manifest.FILE).read_bytes() == (
        tmp_path / "c" / manifest.FILE
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 4, 2)], ids=str)
def test_a_cache_is_the_same_on_a_mesh(
    world: Path, tmp_path: Path, mesh: tuple[int, int, int]
) -> None:
    sizes = [f"--mesh.{axis}={n}" for axis, n in zip(("data", "fsdp", "tensor"), mesh, strict=True)]
    for name in ("big", "rows.jsonl"):
        (tmp_path / name).symlink_to(world / name)
    form = ["--dtype", "float32", "--batch-tokens", "512"]
    assert command.main(arguments(tmp_path, *sizes, *form)) == 0
    made = cached.examples(world / "big", world / "rows.jsonl")
    ours, theirs = cache.Cache(tmp_path / "c"), cache.Cache(world / "float32")
    for place, n in zip(theirs.find(made), made.n_target, strict=True):
        one, other = ours.read(place, n), theirs.read(place, n)
        np.testing.assert_allclose(one.logp_nC, other.logp_nC, rtol=0, atol=ROUNDED)
        np.testing.assert_allclose(one.tail_logp_n, other.tail_logp_n, rtol=0, atol=ROUNDED)
        np.testing.assert_allclose(one.label_logp_n, other.label_logp_n, rtol=0, atol=ROUNDED)
        moved = np.argwhere(one.ids_nC != other.ids_nC)
        for at, c in moved:  # only among equals, and at the list's end
            near = np.abs(other.logp_nC[at] - other.logp_nC[at, c]) <= 2 * ROUNDED
            assert near.sum() > 1 or c == cached.TOP_K - 1


@pytest.mark.slow
def test_the_default_is_every_device(begun: Path) -> None:
    """The command, as it is typed: on the eight devices of these tests."""
    assert command.main(arguments(begun, "--batch-tokens", "512")) == 0
    assert len(cache.Cache(begun / "c")) == 12


def test_an_example_is_hashed_whole_and_read_in_part(world: Path) -> None:
    """A loop cuts targets: places come of the uncut examples, positions of the first n."""
    made = cached.examples(world / "big", world / "rows.jsonl")
    held = cache.Cache(world / "float16")
    place = held.find(made)
    cut = made.take(range(len(made)), limit=made.n_prompt + 2)
    assert (cut.n_target == np.minimum(made.n_target, 2)).all()
    with pytest.raises(ValueError, match="new, cut or changed"):
        held.find(cut)
    for at, n, whole in zip(place, cut.n_target, made.n_target, strict=True):
        part, full = held.read(at, n), held.read(at, whole)
        for ours, theirs in zip(part, full, strict=True):
            np.testing.assert_array_equal(ours, theirs[:n])


def test_scores_follow_their_examples_whatever_stands_beside_them(world: Path) -> None:
    """The stored lists of one row, and that row scored alone."""
    made = cached.examples(world / "big", world / "rows.jsonl")
    teacher = models.load(world / "big")
    held = cache.Cache(world / "float32")
    index = int(np.argmin(made.lengths))
    alone = scoring.score_examples(teacher, made.take([index]), top_k=cached.TOP_K, tokens=1024)
    stored = held.read(index, int(made.n_target[index]))
    np.testing.assert_allclose(alone.logp_PC, stored.logp_nC, rtol=0, atol=ROUNDED)
