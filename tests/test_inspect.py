"""`python -m star_jax.models inspect`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star_jax.models.__main__ import main
from tests import tiny
from tests.test_export import with_tokenizer
from tests.test_hf import BROKEN


def test_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_tokenizer(tiny.write(tmp_path / "m", shards=3, torch_dtype="bfloat16"))
    assert main(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    for said in (
        "2 layers, width 64, 8 heads of 16 (4 for keys), SwiGLU 96, vocabulary 128, tied head",
        "rope theta 1e+06",
        "parameters    94,592 (94.6 k; 9% of them the embedding table)",
        "tensors       24: BF16 × 24; files: 3",
        "bytes         189,184",
        "tokenizer     28 entries, with a chat template",
        "loads         yes",
    ):
        assert said in out, out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.write(tmp_path / "m", torch_dtype="bfloat16", attention_bias=True)
    assert main(["inspect", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["dtypes"] == [["BF16", 24]]
    assert report["tokenizer"] == "none (no tokenizer.json)"
    assert report["problems"] == [
        f"{folder}/config.json: attention_bias is True, which star_jax does not implement"
    ]


def test_every_problem_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tiny.tensors(tiny.BASE)
    del tensors["model.norm.weight"]
    tensors["surplus"] = tensors["model.layers.0.input_layernorm.weight"][:3].copy()
    folder = tiny.write_tensors(tmp_path / "m", tiny.BASE, tensors)
    assert main(["inspect", str(folder)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "refused" in line]
    assert len(lines) == 2
    assert "model.norm.weight: no file has this tensor" in lines[0]
    assert "surplus: a tensor that this architecture does not have" in lines[1]


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_folder_is_described(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, damage, _ = BROKEN[name]
    folder = tiny.write(tmp_path / "m", shards=shards, tie_word_embeddings=shards == 1)
    damage(folder)
    assert main(["inspect", str(folder)]) == 1
    assert "refused" in capsys.readouterr().out


def test_a_tokenizer_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_tokenizer(tiny.write(tmp_path / "m", vocab_size=30))
    assert main(["inspect", str(folder)]) == 0
    assert "warning" in (out := capsys.readouterr().out)
    assert "tokenizer.json: id 35 is beyond the vocabulary of 30" in out
    (folder / "tokenizer.json").write_text('{"model": []}')
    assert main(["inspect", str(folder)]) == 0
    assert "tokenizer.json: not a tokenizer that can be read" in capsys.readouterr().out


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/absent: no such folder\n"
