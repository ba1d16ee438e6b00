"""Reading a cache: rows by their hash, first positions of a row, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from star_jax.data import cache, encode
from star_jax.data.cache import manifest, partfile, shard
from tests import cached

TARGETS = [4, 0, 7, 2, 5, 1, 3]
COMMAND = (
    r"python -m star_jax\.data cache build \S+ --teacher big --rows 'my rows\.jsonl' --top-k 3 "
    r"--dtype float16 --compute float32$"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cached.invent(tmp_path / "c", TARGETS, rows_per_shard=3)
    return tmp_path / "c"


@pytest.fixture
def rows(tmp_path: Path) -> encode.Examples:
    """Examples whose hashes are those of the invented cache's rows."""

    class Numbered(encode.Examples):
        def hash(self, index: int) -> bytes:
            return bytes([int(self.line[index]) - 1, *[0] * 15])

    n = len(TARGETS)
    lengths = np.array(TARGETS) + 1
    return Numbered(
        path=str(tmp_path / "rows.jsonl"),
        ids=np.zeros(lengths.sum(), np.int32),
        start=np.concatenate([[0], np.cumsum(lengths)]),
        n_prompt=np.ones(n, np.int32),
        line=np.arange(1, n + 1),
        row_ids=tuple(f"r{i}" for i in range(n)),
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_read_is_what_the_library_reads(tmp_path: Path, dtype: str) -> None:
    """Each row of each shard, every length of it."""
    made = cached.invent(tmp_path / "c", TARGETS, rows_per_shard=3, dtype=dtype)
    held = cache.Cache(tmp_path / "c")
    assert held.manifest == made
    for index in range(made.shards):
        theirs = safetensors.numpy.load_file(tmp_path / "c" / shard.name_of(index))
        for row, place in enumerate(made.rows_of(index)):
            begin = theirs["start"][row]
            assert theirs["start"][row + 1] - begin == TARGETS[place] == held.count(place)
            for n in range(TARGETS[place] + 1):
                names = ("ids", "logp", "tail_logp", "label_logp")
                for ours, name in zip(held.read(place, n), names, strict=True):
                    assert ours.dtype == theirs[name].dtype
                    np.testing.assert_array_equal(ours, theirs[name][begin : begin + n])


def test_rows_are_found_wherever_they_stand(folder: Path, rows: encode.Examples) -> None:
    held = cache.Cache(folder)
    order = [6, 0, 0, 3, 5]
    assert held.find(rows.take(order)).tolist() == order
    assert held.find(rows.take([])).tolist() == []


def test_a_row_that_is_not_there_is_named(folder: Path, rows: encode.Examples) -> None:
    held = cache.Cache(folder)
    rows.line[[2, 4]] = [201, 202]
    wanted = r"rows\.jsonl:201: row 'r2', and 1 more of 7: not in the cache \S+, so new, cut or "
    with pytest.raises(ValueError, match=wanted + "changed .*: build a cache of this file, or"):
        held.find(rows)
    with pytest.raises(ValueError, match=r"rows\.jsonl:202: row 'r4': not in the cache"):
        held.find(rows.take([0, 4]))


def test_more_than_a_row_has_is_refused(folder: Path) -> None:
    held = cache.Cache(folder)
    with pytest.raises(ValueError, match="row 3 has 2 target positions, 3 are asked for"):
        held.read(3, 3)
    with pytest.raises(ValueError, match="has places 0 to 6, asked for 7"):
        held.read(7, 0)
    with pytest.raises(ValueError, match="has places 0 to 6, asked for -1"):
        held.read(-1, 0)


def test_a_run_that_is_not_of_this_cache_is_refused(folder: Path) -> None:
    held = cache.Cache(folder)
    held.check(tokenizer="k" * 32, top_k=3, teacher="t" * 32, template="r" * 32)
    held.check(tokenizer="k" * 32, top_k=1)
    with pytest.raises(ValueError, match=r"the teacher t{32}, this run has x: distil from that"):
        held.check(tokenizer="k" * 32, top_k=3, teacher="x")
    with pytest.raises(ValueError, match=r"the tokenizer k{32}, this run has x: train a model"):
        held.check(tokenizer="x", top_k=3)
    with pytest.raises(ValueError, match=r"the chat template r{32}, this run has x: render the"):
        held.check(tokenizer="k" * 32, top_k=3, template="x")
    with pytest.raises(ValueError, match="best 3 tokens of a position, this run asks for 4: lower"):
        held.check(tokenizer="k" * 32, top_k=4)


def test_an_unfinished_cache_says_how_to_go_on(folder: Path) -> None:
    (folder / shard.name_of(1)).unlink()
    names = r"is not finished, 2 of 3 shards are there \(shard-00001\.safetensors missing\): go on "
    with pytest.raises(ValueError, match=names + "with " + COMMAND):
        cache.Cache(folder)
    for index in (0, 2):
        (folder / shard.name_of(index)).unlink()
    with pytest.raises(ValueError, match=r"0 of 3 shards are there \(shard-00000\S+, shard-00001"):
        cache.Cache(folder)


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    match kind:
        case "cut":
            del data[-1:]
        case "longer":
            data += b"x"
        case "empty":
            data = bytearray()
        case "no header":
            data[8:12] = b"nope"
        case "header of another shape":
            at = data.index(b'"F16"')
            data[at : at + 5] = b'"F32"'
        case "rows that overlap":
            data[8 + header + 8 : 8 + header + 16] = (99).to_bytes(8, "little")
        case "another row":
            data[-16] += 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", r"is damaged \(\d+ bytes where \d+ belong\)"),
        ("longer", r"is damaged \(\d+ bytes where \d+ belong\)"),
        ("empty", "its header is not readable"),
        ("no header", "its header is not readable"),
        ("header of another shape", "its header is not that of its rows"),
        ("rows that overlap", "its rows overlap"),
        ("another row", r"is damaged \(the shards are not of the manifest's rows\)"),
    ],
)
def test_a_damaged_shard_is_named(folder: Path, kind: str, said: str) -> None:
    damage(folder / shard.name_of(1), kind)
    file = "" if kind == "another row" else r"shard-00001\.safetensors: "
    with pytest.raises(ValueError, match=file + ".*" + said + r".*: remove .*, then python -m"):
        cache.Cache(folder)


def test_a_shard_of_another_cache_is_refused(folder: Path, tmp_path: Path) -> None:
    """Of as many rows and positions, of the same rows even: by another teacher."""
    cached.invent(tmp_path / "d", TARGETS, rows_per_shard=3, teacher_hash="u" * 32)
    (tmp_path / "d" / shard.name_of(1)).replace(folder / shard.name_of(1))
    with pytest.raises(ValueError, match=r"shard-00001\S+ is damaged \(it is of another cache\)"):
        cache.Cache(folder)


def test_what_is_no_cache_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no such folder, so it is no cache: "):
        cache.Cache(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no manifest\.json, so it is no cache: build one"):
        cache.Cache(tmp_path)
    path = folder / manifest.FILE
    raw = json.loads(path.read_text())
    for change, said in [
        ({"format": 2}, "format is 2, this star_jax reads 1: build the cache anew"),
        ({"top_k": "3"}, "top_k is '3': build"),
        ({"top_k": True}, "top_k is True: build"),
        ({"rows": 0}, "rows is 0: build"),
        ({"colour": 1}, "colour is unknown"),
    ]:
        path.write_text(json.dumps(raw | change))
        with pytest.raises(ValueError, match=r"manifest\.json: " + said):
            cache.Cache(folder)
    del raw["vocab_size"]
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="vocab_size is missing"):
        cache.Cache(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: is not JSON"):
        cache.Cache(folder)


def test_threads_may_read_more_shards_than_are_mapped_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("star_jax.data.cache.reader.MAPPED", 2)
    targets = [1 + i % 5 for i in range(60)]
    cached.invent(tmp_path / "c", targets, rows_per_shard=4)
    held = cache.Cache(tmp_path / "c")
    wanted = [held.read(place, n) for place, n in enumerate(targets)]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for place in np.random.default_rng(seed).permutation(len(targets)):
            found = held.read(place, targets[place])
            pairs = zip(found, wanted[place], strict=True)
            wrong.extend(int(place) for x, y in pairs if not np.array_equal(x, y))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_shard_s_cache_is_told_by_content_and_form_alone(folder: Path) -> None:
    made = manifest.read(folder)
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, bool):
            other = not value
        else:
            other = value + 1 if isinstance(value, int) else f"{value}x"
        changed = dataclasses.replace(made, **{field.name: other})
        is_note = field.name in ("teacher", "rows_file", "model", "skip_bad", "star_jax")
        assert (changed.build == made.build) == is_note, field.name
        assert (manifest.differences(made, changed) == []) == is_note, field.name


def test_rows_without_targets_are_stored(tmp_path: Path) -> None:
    cached.invent(tmp_path / "c", [0, 0, 2], rows_per_shard=2)
    held = cache.Cache(tmp_path / "c")
    assert held.read(1, 0).ids_nC.shape == (0, 3)
    assert held.read(2, 2).ids_nC.shape == (2, 3)


def test_a_file_s_size_is_known_before(folder: Path) -> None:
    made = manifest.read(folder)
    for index in range(made.shards):
        span = made.rows_of(index)
        positions = sum(TARGETS[span.start : span.stop])
        size = (folder / shard.name_of(index)).stat().st_size
        assert shard.size(made, len(span), positions) == size


def test_arrays_that_are_not_contiguous_are_stored_right(tmp_path: Path) -> None:
    made = cached.invent(tmp_path / "c", [3, 2], rows_per_shard=2)
    path = tmp_path / "c" / shard.name_of(0)
    whole = cache.Cache(tmp_path / "c").shards[0].map()
    turned = whole._replace(
        ids=np.asfortranarray(whole.ids), logp=np.repeat(whole.logp, 2, axis=1)[:, ::2]
    )
    assert not turned.ids.flags.c_contiguous
    before = path.read_bytes()
    path.unlink()
    shard.write(path, made, turned)
    assert path.read_bytes() == before


def test_files_of_dead_builds_are_swept_and_those_of_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = socket.gethostname()
    stays = [
        f".{shard.name_of(0)}.{here}-{os.getppid()}.part",  # alive
        f".{shard.name_of(1)}.far-away.example-7.part",  # another part's, on another host
        ".something.part",
        shard.name_of(3),
    ]
    goes = [
        f".{shard.name_of(0)}.{here}-{ended.pid}.part",
        f".{shard.name_of(1)}.{here}-{ended.pid}.part",  # nobody's any more
        f".{shard.name_of(2)}.far-away.example-7.part",
        f".manifest.json.{here}-{os.getpid()}.part",  # of a process that had this number before
    ]
    for name in stays + goes:
        (tmp_path / name).write_bytes(b"")
    partfile.sweep(tmp_path, {shard.name_of(0), shard.name_of(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stays)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.safetensors"
    partfile.write(path, [b"old"])

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        partfile.write(path, pieces())
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [
        (path.name, b"old")
    ]
