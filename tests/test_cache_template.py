"""The hash of a template is of what it renders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from star_jax.data import template

TEXT = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"


def folder(path: Path, text: str | None = None, **config: Any) -> Path:
    path.mkdir()
    if text is not None:
        (path / "chat_template.jinja").write_text(text)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_our_own_writing_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    named = folder(tmp_path / "a", bos_token="<s>")
    assert template.fingerprint(tmp_path / "bare") == template.fingerprint(named) == template.QWEN3
    with pytest.raises(ValueError, match="there is no such folder"):
        template.fingerprint(tmp_path / "nowhere")


def test_a_template_is_the_same_in_either_file(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", TEXT, bos_token="<s>")
    other = folder(tmp_path / "b", chat_template=TEXT, bos_token={"content": "<s>"})
    assert template.fingerprint(one) == template.fingerprint(other)
    assert len(template.fingerprint(one)) == 32


def test_its_text_and_the_tokens_it_reads_count(tmp_path: Path) -> None:
    before = template.fingerprint(folder(tmp_path / "a", TEXT, bos_token="<s>"))
    unread = folder(tmp_path / "b", TEXT, bos_token="<s>", pad_token="<p>")
    assert template.fingerprint(unread) == before
    token = folder(tmp_path / "c", TEXT, bos_token="<S>")
    text = folder(tmp_path / "d", TEXT + " ", bos_token="<s>")
    assert before != template.fingerprint(token) != template.fingerprint(text) != before
