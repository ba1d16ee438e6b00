"""What an export leaves on the disk: a folder that other tools load, whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
import tokenizers
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from star_jax import models
from star_jax.models import export
from tests import oracle, tiny

NEWER = {
    "rope_theta": ...,
    "rope_scaling": ...,
    "torch_dtype": ...,
    "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"},
    "dtype": "float32",
    "layer_types": ["full_attention", "full_attention"],
}


def with_tokenizer(folder: Path) -> Path:
    """Give a folder a small tokenizer, its settings and a chat template."""
    vocab = {"<pad>": 0, "<eos>": 5} | {chr(97 + i): 10 + i for i in range(26)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    return folder


@pytest.mark.parametrize("changes", [{}, NEWER], ids=["published", "newer"])
def test_transformers_reads_it_as_the_original(tmp_path: Path, changes: dict) -> None:
    folder = with_tokenizer(tiny.write(tmp_path / "m", **changes))
    model = models.load(folder)
    out = models.save(tmp_path / "out", model.config, model.params, like=folder)
    theirs, ours = (AutoConfig.from_pretrained(path) for path in (folder, out))
    assert ours.to_dict() | {"_name_or_path": ""} == theirs.to_dict() | {"_name_or_path": ""}
    # Spelled for readers of before and after transformers 5.
    raw = json.loads((out / "config.json").read_text())
    assert (raw["rope_theta"], raw["torch_dtype"]) == (model.config.rope_theta, "float32")
    theirs, ours = (AutoTokenizer.from_pretrained(path) for path in (folder, out))
    assert ours("a b c").input_ids == theirs("a b c").input_ids == [10, 11, 12]
    assert ours.chat_template == theirs.chat_template is not None
    assert GenerationConfig.from_pretrained(out).eos_token_id == 5
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    with safetensors.safe_open(out / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_index_is_that_of_the_ecosystem(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "m")
    model = models.load(folder)
    out = models.save(tmp_path / "out", model.config, model.params, max_shard_size="50KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    count = len(files)
    assert files == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    for file in files:
        with safetensors.safe_open(out / file, "np") as held:
            names = set(held.keys())
            size = sum(held.get_tensor(name).nbytes for name in names)
        assert names == {name for name, at in index["weight_map"].items() if at == file}
        assert size <= 50_000
    total = sum(tensor.nbytes for tensor in oracle.read(folder)[1].values())
    assert index["metadata"]["total_size"] == total


def test_without_a_folder_to_follow(tmp_path: Path) -> None:
    """A model made here: config, generation_config and card come from the config alone."""
    config = models.load(tiny.write(tmp_path / "m")).config
    params = models.init(config, jax.random.key(0))
    ids = {"bos_token_id": None, "eos_token_id": [5, 6], "pad_token_id": 0}
    out = models.save(
        tmp_path / "new/deep/out", config, params, generation={**ids, "temperature": 0.6}
    )
    assert models.load(out).config == config
    theirs = AutoConfig.from_pretrained(out)
    assert (theirs.model_type, theirs.eos_token_id) == ("qwen3", [5, 6])
    assert GenerationConfig.from_pretrained(out).eos_token_id == [5, 6]
    card = (out / "README.md").read_text()
    assert f"| parameters | {sum(x.size for x in jax.tree.leaves(params)):,} |" in card


def test_the_card_tells_no_path(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "base-model")
    model = models.load(folder)
    out = models.save(tmp_path / "out", model.config, model.params, like=folder)
    card = (out / "README.md").read_text()
    assert "`base-model`" in card
    assert str(tmp_path) not in "".join(p.read_text() for p in out.glob("*.[jm][sd]*[!s]"))


def test_never_over_something_that_is_there(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "m")
    model = models.load(folder)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="kept: already there; choose another name"):
        models.save(kept, model.config, model.params)
    assert (kept / "notes.txt").read_text() == "mine"
    models.save(kept, model.config, model.params, overwrite=True)
    assert not (kept / "notes.txt").exists()
    assert models.load(kept).config == model.config
    (tmp_path / "empty").mkdir()
    models.save(tmp_path / "empty", model.config, model.params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "kept", "m"]


def test_a_like_that_says_something_else(tmp_path: Path) -> None:
    """Its config.json would make other tools compute another model than these parameters are."""
    model = models.load(tiny.write(tmp_path / "m"))
    like = tiny.write(tmp_path / "like", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    with pytest.raises(models.CheckpointError, match=r"like/config.json: rope_scaling is"):
        models.save(tmp_path / "out", model.config, model.params, like=like)
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_folders(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "all" / "m")
    model = models.load(folder)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(FileExistsError, match=f"{name}: is a file or a link, not a folder"):
            models.save(tmp_path / name, model.config, model.params, overwrite=True)
    with pytest.raises(ValueError, match=r"all: holds .*m, which would be lost"):
        models.save(tmp_path / "all", model.config, model.params, like=folder, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
    models.load(folder)
    models.save(folder, model.config, model.params, like=folder, overwrite=True)
    models.load(folder)
    # Characters that mean something to glob are ordinary ones in a name.
    odd = models.save(tmp_path / "m[1]", model.config, model.params)
    stale = export._beside(odd, "partial")
    stale.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_is_alive", lambda pid: False)
        models.save(odd, model.config, model.params, overwrite=True)
    assert not stale.exists()


def test_parameters_of_two_dtypes(tmp_path: Path) -> None:
    model = models.load(tiny.write(tmp_path / "m"))
    mixed = {**model.params, "embed": model.params["embed"].astype("bfloat16")}
    with pytest.raises(ValueError, match="params mix bfloat16 and float32; say which to store"):
        models.save(tmp_path / "out", model.config, mixed)
    host = jax.tree.map(np.asarray, model.params)
    models.save(tmp_path / "out", model.config, host)
    models.load(tmp_path / "out")


def test_a_failed_export_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write(tmp_path / "m")
    model = models.load(folder)
    out = models.save(tmp_path / "out", model.config, model.params)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.safetensors.numpy, "save_file", full)
    for name, how in (("out", {"overwrite": True}), ("other", {})):
        with pytest.raises(OSError, match="No space left"):
            models.save(tmp_path / name, model.config, model.params, **how)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def test_wrong_parameters_write_nothing(tmp_path: Path) -> None:
    model = models.load(tiny.write(tmp_path / "m"))
    with pytest.raises(ValueError, match="params lack embed"):
        models.save(tmp_path / "out", model.config, {})
    with pytest.raises(ValueError, match="max_shard_size must be bytes or a size like '5GB'"):
        models.save(tmp_path / "out", model.config, model.params, max_shard_size="5 potatoes")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(7, 7), ("7", 7), ("5GB", 5 * 10**9), ("1.5 kb", 1500), ("2GiB", 2**31)],
)
def test_sizes(size: int | str, wanted: int) -> None:
    assert export.as_bytes(size) == wanted


@pytest.mark.parametrize("size", ["", "GB", "-5GB", "1.2.3GB", "0", ".", "5TBs"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(ValueError, match="max_shard_size must be"):
        export.as_bytes(size)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL while an export over an older one runs: the old folder or the new one, never half.

    The next export of the same name clears what the killed one left behind.
    """
    folder = tiny.write(tmp_path / "m")
    script = textwrap.dedent("""
        import sys
        import jax
        from star_jax import models
        from star_jax.models import export
        folder, out = sys.argv[1:]
        model = models.load(folder)
        two = jax.tree.map(lambda x: 2 * x, model.params)
        models.save(out, model.config, model.params, overwrite=True)
        print("ready", flush=True)
        while True:
            for params in (two, model.params):
                models.save(out, model.config, params, overwrite=True, max_shard_size="20KB")
    """)
    model = models.load(folder)
    out = tmp_path / "out"
    rng = np.random.default_rng(0)
    _, theirs = oracle.read(folder)
    for _ in range(3):
        command = [sys.executable, "-c", script, str(folder), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        if out.exists():
            check_whole(out, theirs)
        else:  # killed between the two renames: the older folder is whole under its hidden name
            [old] = tmp_path.glob(".out.*.replaced")
            check_whole(old, theirs)
            with pytest.raises(FileExistsError):  # and is given back
                models.save(out, model.config, model.params)
            check_whole(out, theirs)
        models.save(out, model.config, model.params, overwrite=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def check_whole(folder: Path, theirs: dict[str, np.ndarray]) -> None:
    models.load(folder)
    _, ours = oracle.read(folder)
    ratios = {float(np.max(ours[name] / theirs[name])) for name in theirs}
    assert ratios in ({1.0}, {2.0})


def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.load(tiny.write(tmp_path / "m"))
    out = models.save(tmp_path / "out", model.config, model.params)
    old = export._beside(out, "replaced")
    monkeypatch.setattr(export, "_is_alive", lambda pid: False)
    out.rename(old)
    with pytest.raises(FileExistsError):
        models.save(out, model.config, model.params)
    models.load(out)
    assert not old.exists()
