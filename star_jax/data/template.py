"""The chat template that a model folder brings, as a function that renders; ours where none is."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from star_jax import chat
from star_jax.chat import Message, Tool


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
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder: give a model's folder")
    path = folder / "tokenizer_config.json"
    config = _config(path) if path.is_file() else {}
    own = folder / "chat_template.jinja"
    template = own.read_text(encoding="utf-8") if own.is_file() else config.get("chat_template")
    match template:
        case None:
            return chat.render
        case str():
            return functools.partial(chat.render_with, template, **_tokens(config))
    what = f"is a {type(template).__name__}, not one template"
    raise ValueError(f"{path}: chat_template: {what}: put the one to use in {own.name}")


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
