"""What a build refuses, each with its sentence: nothing is mixed, nothing half right is begun."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from star_jax.data import cache, template
from star_jax.data.cache import build, scoring, shard
from tests import cached, tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, its rows, and a finished cache of them."""
    folder = tmp_path_factory.mktemp("world")
    cached.teacher(folder / "big")
    cached.rows(folder / "rows.jsonl")
    cached.make(folder / "float16", cached.origin(folder / "big", folder / "rows.jsonl"))
    return folder


@pytest.fixture
def begun(world: Path, tmp_path: Path) -> Path:
    return cached.begin(world, tmp_path)


def plan(folder: Path, **options: Any) -> build.Plan:
    made = cached.origin(folder / "big", folder / "rows.jsonl")
    return cached.plan(folder / "c", made, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 21}, "--top-k was 20 and is now 21"),
        ({"dtype": "float32"}, "--dtype was float16 and is now float32"),
        ({"compute_dtype": "bfloat16"}, "--compute was float32 and is now bfloat16"),
        ({"approximate": True}, "--approximate was False and is now True"),
        ({"rows_per_shard": 6}, "--rows-per-shard was 5 and is now 6"),
    ],
)
def test_other_settings_are_refused(begun: Path, options: dict[str, Any], said: str) -> None:
    wanted = rf"c: holds another cache, {said}: ask for what it is of, or build into another folder"
    with pytest.raises(ValueError, match=wanted):
        plan(begun, **options)


def change_weight(folder: Path) -> None:
    """One bit of one weight."""
    path = folder / "big" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def change_config(folder: Path) -> None:
    path = folder / "big" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 5e6}))


def change_tokenizer(folder: Path) -> None:
    path = folder / "big" / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["added_tokens"].append({**raw["added_tokens"][0], "id": 263, "content": "<|more|>"})
    path.write_text(json.dumps(raw))


def change_template(folder: Path) -> None:
    text = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
        "</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (folder / "big" / "chat_template.jinja").write_text(text)


def change_row(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace(".", ",", 1))


def drop_row(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def swap_rows(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


CHANGES = [
    (change_weight, r"the teacher's hash was \w{32} and is now \w{32}"),
    (change_config, r"the teacher's hash was \w{32} and is now \w{32}"),
    (change_tokenizer, r"the tokenizer's hash was \w{32} and is now \w{32}"),
    (change_template, r"the chat template's hash was star_jax\.chat\.render/1 and is now \w{32}, "),
    (change_row, r"the rows' hash was \w{32} and is now \w{32}"),
    (drop_row, r"the number of rows was 12 and is now 11, the number of target positions was"),
    (swap_rows, r"the rows' hash was \w{32} and is now \w{32}"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=lambda x: getattr(x, "__name__", ""))
def test_another_teacher_or_other_rows_are_refused(begun: Path, change: Any, said: str) -> None:
    change(begun)
    with pytest.raises(ValueError, match=rf"c: holds another cache, {said}.*: ask for what it is"):
        plan(begun)


def test_a_config_laid_out_otherwise_is_the_same_teacher(begun: Path) -> None:
    path = begun / "big" / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(raw.items())), indent=7))
    assert plan(begun).to_make == (1,)


def test_a_teacher_in_several_files_is_hashed_whole(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "m", shards=3)
    before = cache.teacher_hash(folder)
    assert cache.teacher_hash(folder) == before
    for number in range(3):
        path = folder / f"model-{number + 1:05}-of-00003.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert cache.teacher_hash(folder) != before
        path.write_bytes(data)
    path.unlink()
    with pytest.raises(ValueError, match=r"model-00003-of-00003\.safetensors: missing"):
        cache.teacher_hash(folder)


def test_what_cannot_be_is_refused_before_the_teacher_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cached.origin(world / "big", world / "rows.jsonl")
    with pytest.raises(ValueError, match=r"--top-k 273: the teacher knows 272 tokens: give 1 to"):
        cached.plan(tmp_path / "c", made, top_k=273)
    with pytest.raises(ValueError, match=r"--part 2/2: give I/N with I from 0 to N - 1"):
        cached.plan(tmp_path / "c", made, part=(2, 2))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes\.txt but no manifest\.json, so it is no ca"):
        cached.plan(tmp_path, made)
    with pytest.raises(ValueError, match=r"notes\.txt: is no folder: choose another name"):
        cached.plan(tmp_path / "notes.txt", made)
    planned = cached.plan(tmp_path / "c", made)
    need = planned.bytes_to_make
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(need, 1, need - 1))
    wanted = rf"c: {need:,} bytes are to be written, the disk has {need - 1:,} free: make room"
    with pytest.raises(ValueError, match=wanted):
        build.run(planned)
    assert not (tmp_path / "c").exists()


def test_a_damaged_shard_stops_a_build(begun: Path) -> None:
    path = begun / "c" / shard.name_of(2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"shard-00002\S+ is damaged .*: remove it, then python"):
        plan(begun)


def test_a_teacher_that_reads_other_ids_is_refused(world: Path, tmp_path: Path) -> None:
    student = tiny.tokenizer(tmp_path / "small")
    rows = world / "rows.jsonl"
    ours = cached.origin(world / "big", rows, model=student)
    assert ours.tokenizer_hash == cached.origin(world / "big", rows).tokenizer_hash
    shutil.copytree(world / "big", tmp_path / "big")
    change_tokenizer(tmp_path)
    wanted = rf"big: its tokenizer \w{{32}} is not the rows', {ours.tokenizer_hash} of \S+small: "
    with pytest.raises(ValueError, match=wanted + ".*take a teacher of the same family"):
        cached.origin(tmp_path / "big", rows, model=student)
    narrow = tiny.tokenizer(tiny.write(tmp_path / "narrow", vocab_size=258))
    wanted = r"rows\.jsonl:1: row '0' has token 2\d\d, the teacher \S+ knows 258 tokens: take a "
    with pytest.raises(ValueError, match=wanted):
        cached.origin(narrow, rows)


def test_a_student_s_template_makes_the_rows(world: Path, tmp_path: Path) -> None:
    student = tiny.tokenizer(tmp_path / "big")
    change_template(tmp_path)
    plain = cached.origin(world / "big", world / "rows.jsonl")
    ours = cached.origin(world / "big", world / "rows.jsonl", model=student)
    assert ours.template_hash != plain.template_hash
    assert len(ours.examples.ids) < len(plain.examples.ids)
    assert plain.template_hash == template.QWEN3


def test_a_teacher_of_nan_is_refused(world: Path, tmp_path: Path) -> None:
    raw = json.loads((world / "big" / "config.json").read_text())
    made = tiny.tensors(raw)
    made["lm_head.weight"][5] = np.nan
    folder = tiny.tokenizer(tiny.write_tensors(tmp_path / "big", raw, made))
    wanted = r"rows\.jsonl:1: row '0': the teacher's log-probs are NaN there: its weights are dam"
    with pytest.raises(ValueError, match=wanted):
        cached.make(tmp_path / "c", cached.origin(folder, world / "rows.jsonl"))
    assert cached.shards_of(tmp_path / "c") == {}


def test_the_row_of_a_nan_is_named(world: Path) -> None:
    made = cached.examples(world / "big", world / "rows.jsonl")
    P = int(made.n_target.sum())
    ends = np.cumsum(made.n_target)
    places = {"logp_PC": ends[2] - 1, "tail_logp_P": ends[1], "label_logp_P": ends[1] + 1}
    for field, place in places.items():  # the third row's last position, and its first two
        plain = scoring.Scores(np.zeros((P, 2), int), np.zeros((P, 2)), np.zeros(P), np.zeros(P))
        build.refuse_nan(plain, made)
        getattr(plain, field)[place] = np.nan
        with pytest.raises(ValueError, match=r"rows\.jsonl:3: row '2': the teacher's log-probs"):
            build.refuse_nan(plain, made)


def test_a_row_beyond_the_teacher_s_reach_is_told(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.tokenizer(
        tiny.write(tmp_path / "short", vocab_size=cached.V, max_position_embeddings=100)
    )
    made = cached.origin(folder, world / "rows.jsonl")
    long = np.flatnonzero(made.examples.lengths > 100)
    assert 0 < len(long) < len(made.examples)
    (record,) = caplog.records
    assert f"rows.jsonl:{long[0] + 1}: row '{long[0]}' has" in record.getMessage()
    assert f"trained for, as have {len(long)} rows in all" in record.getMessage()
