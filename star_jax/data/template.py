"""The chat template that a model folder brings, as a function that renders; ours where none is."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from star_jax import chat
from star_jax.chat import Message, Tool

# Stands for what `chat.render` writes; to be counted up with every change of that text.
QWEN3 = "star_jax.chat.render/1"


class Render(Protocol):
    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        *,
        add_generation_prompt: bool = False,
        enable_thinking: bool | None = None,
    ) -> str: ...


def load(folder: str | Path) -> Render:
    """How the model in a folder renders: with chat_template.jinja, or with the template in its
    tokenizer_config.json, or as Qwen3 does where it has neither."""
    text, tokens = _source(Path(folder))
    return chat.render if text is None else functools.partial(chat.render_with, text, **tokens)


def fingerprint(folder: str | Path) -> str:
    """What decides about the text that `load` renders: equal ones render alike."""
    text, tokens = _source(Path(folder))
    if text is None:
        return QWEN3
    read = {name: value for name, value in tokens.items() if name in text}
    content = json.dumps([text, read], sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _source(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """A folder's own template, None where it has none, and the tokens that it may name."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder: give a model's folder")
    path = folder / "tokenizer_config.json"
    config = _config(path) if path.is_file() else {}
    own = folder / "chat_template.jinja"
    template = own.read_text(encoding="utf-8") if own.is_file() else config.get("chat_template")
    if template is not None and not isinstance(template, str):
        what = f"is a {type(template).__name__}, not one template"
        raise ValueError(f"{path}: chat_template: {what}: put the one to use in {own.name}")
    return template, _tokens(config)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}): copy the model's file again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: is no object: copy the model's file again")
    return config


def _tokens(config: dict[str, Any]) -> dict[str, Any]:
    """bos_token and the like, which templates read; some files hold them as objects."""
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    for name, value in tokens.items():
        if isinstance(value, dict):
            tokens[name] = value.get("content")
    return tokens
