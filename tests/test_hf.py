"""Folders in and out: bit for bit, or one clear error and nothing loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from star_jax import models
from star_jax.models import hf, layout
from star_jax.models.tensorfile import CheckpointError
from tests import oracle, tiny

MESHES = [None, (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_every_tensor_lands_where_it_belongs(
    tmp_path: Path, shape: tuple[int, ...] | None, stored: str, wanted: str
) -> None:
    """Compared with what the safetensors library reads, reshaped and stacked by hand."""
    folder = tiny.write(
        tmp_path / "m", torch_dtype=stored, tie_word_embeddings=False, shards=2, seed=5
    )
    mesh = None if shape is None else models.make_mesh(*shape)
    model = models.load(folder, dtype=wanted, mesh=mesh)
    _, tensors = oracle.read(folder)
    theirs = layout.from_hf_tensors(model.config, tensors, np.stack)
    for row in layout.rows(model.config):
        ours, wanted_array = layout.leaf(model.params, row), layout.leaf(theirs, row)
        assert ours.dtype == wanted
        exact = np.asarray(wanted_array).astype(hf.DTYPES[wanted])
        np.testing.assert_array_equal(np.asarray(ours), exact)
        if mesh is not None:
            assert ours.sharding.mesh == mesh
            for shard in ours.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), exact[shard.index])


def test_large_tensors_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.tensorfile, "CHUNK", 300)  # a row and a bit of most matrices
    folder = tiny.write(tmp_path / "m", seed=5)
    _, tensors = oracle.read(folder)
    for mesh in (None, models.make_mesh(1, 4, 2)):
        for dtype in ("float32", "bfloat16"):
            model = models.load(folder, dtype=dtype, mesh=mesh)
            theirs = layout.from_hf_tensors(model.config, tensors, np.stack)
            jax.tree.map(
                lambda ours, wanted, dtype=dtype: np.testing.assert_array_equal(
                    np.asarray(ours), wanted.astype(hf.DTYPES[dtype])
                ),
                model.params,
                theirs,
            )


@pytest.mark.parametrize("shape", [None, (8, 1, 1), (1, 8, 1)], ids=str)
def test_loaded_parameters_may_be_donated(tmp_path: Path, shape: tuple[int, ...] | None) -> None:
    """They may live in the memory they were read into, copies of them in the same: a step that
    writes over what it was given must not write into another device's copy."""
    mesh = None if shape is None else models.make_mesh(*shape)
    model = models.load(tiny.write(tmp_path / "m"), mesh=mesh)
    before = jax.tree.map(lambda x: np.array(x), model.params)
    step = jax.jit(lambda params: jax.tree.map(lambda x: 2 * x, params), donate_argnums=0)
    after = step(step(model.params))
    for ours, start in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        for shard in ours.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), 4 * start[shard.index])


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("size", ["5GB", "40KB"])
@pytest.mark.parametrize("shape", [None, (2, 2, 2)], ids=str)
def test_export_is_the_original(
    tmp_path: Path, stored: str, tied: bool, size: str, shape: tuple[int, ...] | None
) -> None:
    folder = tiny.write(tmp_path / "m", torch_dtype=stored, tie_word_embeddings=tied, seed=2)
    mesh = None if shape is None else models.make_mesh(*shape)
    model = models.load(folder, dtype=stored, mesh=mesh)
    out = models.save(
        tmp_path / "out", model.config, model.params, like=folder, max_shard_size=size
    )
    files = sorted(out.glob("*.safetensors"))
    assert len(files) == 1 if size == "5GB" else len(files) > 2
    assert all(path.stat().st_size < 100_000 for path in files if size == "40KB")
    raw, ours = oracle.read(out)
    _, theirs = oracle.read(folder)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].tobytes() == tensor.tobytes()
    assert raw["torch_dtype"] == stored
    again = models.load(out, dtype=stored)
    assert again.config == model.config
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        again.params,
        model.params,
    )


def test_export_can_change_the_dtype(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "m")
    model = models.load(folder)
    out = models.save(tmp_path / "out", model.config, model.params, like=folder, dtype="bfloat16")
    raw, ours = oracle.read(out)
    _, theirs = oracle.read(folder)
    assert raw["torch_dtype"] == "bfloat16"
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.astype(ml_dtypes.bfloat16))


def test_gradients_export_too(tmp_path: Path) -> None:
    """Anything shaped like the parameters has the file's names and layout."""
    model = models.load(tiny.write(tmp_path / "m"))
    doubled = jax.tree.map(lambda x: 2 * x, model.params)
    out = models.save(tmp_path / "out", model.config, doubled)
    _, ours = oracle.read(out)
    _, theirs = oracle.read(tmp_path / "m")
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], 2 * tensor)


def test_tied_copy_of_the_head(tmp_path: Path) -> None:
    """Qwen3-0.6B stores its tied head as well: read if it is a copy, refused if it is not."""
    tensors = tiny.tensors(tiny.BASE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    model = models.load(tiny.write_tensors(tmp_path / "copy", tiny.BASE, tensors))
    assert "head" not in model.params
    tensors["lm_head.weight"][5, 5] += 1
    folder = tiny.write_tensors(tmp_path / "other", tiny.BASE, tensors)
    with pytest.raises(CheckpointError, match=r"lm_head.weight: differs from model.embed_tokens"):
        models.load(folder)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, file: str, edit: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = safetensors.numpy.load_file(folder / file)
    edit(tensors)
    safetensors.numpy.save_file(tensors, folder / file, metadata={"format": "pt"})


def rewrite(folder: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / file
    path.write_bytes(change(path.read_bytes()))


def edit_header(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = (folder / ONE).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    edit(header)
    text = json.dumps(header).encode()
    (folder / ONE).write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def changed_at_its_end(tensors: dict[str, np.ndarray]) -> np.ndarray:
    head = tensors["model.embed_tokens.weight"].copy()
    head[-1, -1] += 1
    return head


ONE = "model.safetensors"
SECOND = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "model.layers.1.input_layernorm.weight"
WHOLE = 1  # shards
# name → shards, what is done to the folder, what the error must say
BROKEN: dict[str, tuple[int, Callable[[Path], Any], str]] = {
    "missing tensor": (
        WHOLE,
        lambda d: edit_tensors(d, ONE, lambda t: t.pop(NORM)),
        f"m: {NORM}: no file has this tensor",
    ),
    "extra tensor": (
        WHOLE,
        lambda d: edit_tensors(d, ONE, lambda t: t.update(surplus=np.zeros(3, np.float32))),
        f"{ONE}: surplus: a tensor that this architecture does not have",
    ),
    "bias in the file": (
        WHOLE,
        lambda d: edit_tensors(
            d,
            ONE,
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(128, np.float32)}),
        ),
        f"{ONE}: model.layers.0.self_attn.q_proj.bias: a tensor that this",
    ),
    "wrong shape": (
        WHOLE,
        lambda d: edit_tensors(d, ONE, lambda t: t.update({NORM: np.zeros(63, np.float32)})),
        rf"{ONE}: {NORM}: is \[63\], config.json asks for \[64\]",
    ),
    "transposed": (
        WHOLE,
        lambda d: edit_tensors(
            d,
            ONE,
            lambda t: t.update(
                {"model.layers.0.mlp.up_proj.weight": np.zeros((64, 96), np.float32)}
            ),
        ),
        r"mlp.up_proj.weight: is \[64, 96\], config.json asks for \[96, 64\]",
    ),
    "wrong dtype": (
        WHOLE,
        lambda d: edit_tensors(d, ONE, lambda t: t.update({NORM: np.zeros(64, np.int64)})),
        f"{ONE}: {NORM}: dtype I64",
    ),
    "truncated": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda b: b[:-100]),
        rf"{ONE}: truncated: model.norm.weight ends at byte",
    ),
    "truncated in its header": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda b: b[:200]),
        f"{ONE}: not a safetensors file",
    ),
    "too long": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda b: b + b"!!"),
        f"{ONE}: 2 bytes after the last tensor",
    ),
    "empty": (WHOLE, lambda d: rewrite(d, ONE, lambda _: b""), f"{ONE}: not a safetensors file"),
    "a few bytes": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: b"\x01\x02"),
        f"{ONE}: not a safetensors file",
    ),
    "a web page": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: b"<!doctype html><html>not found</html>" * 9),
        f"{ONE}: not a safetensors file",
    ),
    "a git-lfs pointer": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: b"version https://git-lfs\noid sha256:00\nsize 1\n"),
        f"{ONE}: not a safetensors file",
    ),
    "a pickle": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: b"\x80\x04\x95" + bytes(500)),
        f"{ONE}: not a safetensors file",
    ),
    "a header of nonsense": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: (20).to_bytes(8, "little") + b"{" * 20),
        f"{ONE}: not a safetensors file",
    ),
    "a header that is a list": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: (2).to_bytes(8, "little") + b"[]"),
        f"{ONE}: not a safetensors file",
    ),
    "no weights": (WHOLE, lambda d: (d / ONE).unlink(), f"m: no {ONE} and no {INDEX}"),
    "PyTorch weights only": (
        WHOLE,
        lambda d: (d / ONE).rename(d / "pytorch_model.bin"),
        "pytorch_model.bin is a PyTorch file: convert it to safetensors",
    ),
    "no config": (WHOLE, lambda d: (d / "config.json").unlink(), "config.json: no such file"),
    "config of nonsense": (
        WHOLE,
        lambda d: (d / "config.json").write_text("{nope"),
        "config.json: not readable as JSON: .*line 1 column 2",
    ),
    "config that is a list": (
        WHOLE,
        lambda d: (d / "config.json").write_text("[1]"),
        "config.json: expected a JSON object, found list",
    ),
    "rope scaling": (
        WHOLE,
        lambda d: edit_config(d, rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        "config.json: rope_scaling is",
    ),
    "tied, but with a head": (
        WHOLE,
        lambda d: edit_config(d, tie_word_embeddings=False),
        "lm_head.weight: no file has this tensor",
    ),
    "a shard is missing": (3, lambda d: (d / SECOND).unlink(), f"{SECOND}: missing, but {INDEX}"),
    "a shard is truncated": (
        3,
        lambda d: rewrite(d, SECOND, lambda b: b[:-1]),
        f"{SECOND}: truncated: ",
    ),
    "a shard lacks a tensor": (
        3,
        lambda d: edit_tensors(d, SECOND, lambda t: t.pop(sorted(t)[0])),
        f"{SECOND}: .*: missing, but {INDEX} says it is there",
    ),
    "a shard has one too many": (
        3,
        lambda d: edit_tensors(d, SECOND, lambda t: t.update(x=np.zeros(1, np.float32))),
        f"{SECOND}: x: {INDEX} does not name it",
    ),
    "a tensor twice": (
        3,
        lambda d: edit_tensors(
            d, SECOND, lambda t: t.update({"lm_head.weight": np.zeros((128, 64), np.float32)})
        ),
        f"{SECOND}: lm_head.weight: ",
    ),
    "two sets of weights": (
        3,
        lambda d: shutil.copy(d / SECOND, d / ONE),
        f"holds both {ONE} and {INDEX}",
    ),
    "config is a folder": (
        WHOLE,
        lambda d: ((d / "config.json").unlink(), (d / "config.json").mkdir()),
        "config.json: cannot be read: Is a directory",
    ),
    "config nested without end": (
        WHOLE,
        lambda d: (d / "config.json").write_text("[" * 200_000),
        "config.json: not readable as JSON",
    ),
    "a key twice in the config": (
        WHOLE,
        lambda d: rewrite(d, "config.json", lambda b: b.replace(b"{", b'{"head_dim": 8,', 1)),
        "config.json: not readable as JSON: 'head_dim' stands there twice",
    ),
    "offsets that are no whole numbers": (
        WHOLE,
        lambda d: edit_header(d, lambda h: h[NORM].update(data_offsets=[0.0, 256.0])),
        f"{ONE}: {NORM}: its offsets or shape make no sense",
    ),
    "offsets that run backwards": (
        WHOLE,
        lambda d: edit_header(d, lambda h: h[NORM].update(data_offsets=[256, 0])),
        f"{ONE}: {NORM}: its offsets or shape make no sense",
    ),
    "a shape that its bytes do not hold": (
        WHOLE,
        lambda d: edit_header(d, lambda h: h[NORM].update(shape=[32])),
        rf"{ONE}: {NORM}: 256 bytes do not hold \[32\] of F32",
    ),
    "two tensors in one place": (
        WHOLE,
        lambda d: edit_header(
            d, lambda h: h[NORM].update(data_offsets=h["model.norm.weight"]["data_offsets"])
        ),
        f"{ONE}: .*: overlaps its neighbour or leaves a gap",
    ),
    "no tensors": (
        WHOLE,
        lambda d: rewrite(d, ONE, lambda _: (2).to_bytes(8, "little") + b"{}"),
        "model.embed_tokens.weight: no file has this tensor",
    ),
    "an empty index": (
        3,
        lambda d: (d / INDEX).write_text('{"weight_map": {}}'),
        "no file has this tensor",
    ),
    "a tied head that differs at its end": (
        WHOLE,
        lambda d: edit_tensors(
            d, ONE, lambda t: t.update({"lm_head.weight": changed_at_its_end(t)})
        ),
        "lm_head.weight: differs from model.embed_tokens.weight",
    ),
    "an index of another shape": (
        3,
        lambda d: (d / INDEX).write_text('{"weight_map": {"a": "../b.safetensors"}}'),
        f"{INDEX}: weight_map must map",
    ),
}


@pytest.mark.parametrize(("shards", "damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_one_clear_error(
    tmp_path: Path,
    shards: int,
    damage: Callable[[Path], Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models.tensorfile, "CHUNK", 3000)
    folder = tiny.write(tmp_path / "m", shards=shards, tie_word_embeddings=shards == 1)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        models.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_an_error_or_the_same_model(tmp_path: Path, seed: int) -> None:
    """Bytes flipped in the header or cut anywhere: CheckpointError, never another exception."""
    folder = tiny.write(tmp_path / "m", num_hidden_layers=1)
    path = folder / ONE
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    header = 8 + int.from_bytes(data[:8], "little")
    for place in rng.integers(0, header, 3):
        data[place] = rng.integers(256)
    path.write_bytes(data[: rng.integers(len(data))] if seed % 4 == 0 else data)
    undamaged = models.load(tiny.write(tmp_path / "whole", num_hidden_layers=1))
    try:
        model = models.load(folder)
    except CheckpointError:
        return
    assert model.config == undamaged.config
    assert all(
        a.shape == b.shape
        for a, b in zip(
            jax.tree.leaves(model.params), jax.tree.leaves(undamaged.params), strict=True
        )
    )


def test_values_beyond_float16(tmp_path: Path) -> None:
    tensors = tiny.tensors(tiny.BASE)
    tensors[NORM][3] = 1e6
    folder = tiny.write_tensors(tmp_path / "m", tiny.BASE, tensors)
    with pytest.raises(CheckpointError, match=f"{NORM}: holds values beyond float16"):
        models.load(folder, dtype="float16")
    model = models.load(folder)
    with pytest.raises(ValueError, match=f"{NORM}: holds values beyond float16"):
        models.save(tmp_path / "out", model.config, model.params, dtype="float16")
    assert not (tmp_path / "out").exists()


def test_wrong_calls(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "m")
    with pytest.raises(
        ValueError, match="dtype must be one of float32, bfloat16, float16, got 'int8'"
    ):
        models.load(folder, dtype="int8")
    with pytest.raises(CheckpointError, match=r"absent/config.json: no such file"):
        models.load(tmp_path / "absent")
    assert models.load(folder, dtype=jnp.bfloat16).params["embed"].dtype == jnp.bfloat16
