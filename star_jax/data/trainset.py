"""Conversations as a training set: what the model is given, and what it should write.

The last message of a conversation is the target, all before it the prompt. `native` cuts the text
that Qwen3's template gives: the target opens with <think> and ends with one end-of-turn. `star`
writes what STAR's messages_to_trainset.py writes, in which the prompt ends in <think>, no newlines
stand around </think>, and a newline follows the end-of-turn, so that a trainer which appends the
end-of-turn where it is not the last token trains on two.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from star_jax import chat
from star_jax.chat import Fault, Message
from star_jax.data.read import Bad, Conversation, Row
from star_jax.data.template import Render

Example = dict[str, Any]
ASSISTANT = "<|im_start|>assistant\n"
TURN_END = "<|im_end|>"


def convert(
    items: Iterable[Row | Bad], path: str | Path, to_example: Callable[[Conversation], Example]
) -> Iterator[Example | Bad]:
    """Each row of a scanned file as an example; those that cannot be one are Bad."""
    for item in items:
        if isinstance(item, Bad):
            yield item
            continue
        try:
            example = to_example(_conversation(item))
            json.dumps(example, ensure_ascii=False).encode()  # half of a pair can't be written
        except Unusable as error:
            yield Bad(str(path), item.line, (error.fault,))
        except ValueError as error:  # the template's own, or text that is no Unicode
            fault = Fault("messages", f"cannot be written ({error})", "mend the row")
            yield Bad(str(path), item.line, (fault,))
        else:
            yield example


class Unusable(ValueError):
    """A row that can be rendered, but not be cut into a prompt and a target."""

    def __init__(self, field: str, what: str, remedy: str) -> None:
        self.fault = Fault(field, what, remedy)
        super().__init__(str(self.fault))


def _conversation(row: Row) -> Conversation:
    if not isinstance(row, Conversation):
        raise Unusable("inputs", "is rendered already", "give rows of messages and tools")
    last = len(row.messages) - 1
    field, message = f"messages[{last}]", row.messages[last]
    if message["role"] != "assistant":
        what = f"is {message['role']}, so there is nothing to learn"
        raise Unusable(f"{field}.role", what, "end with the assistant's message")
    if last == 0:
        raise Unusable("messages", "are an answer to nothing", "put the question before it")
    if not message.get("content") and not message.get("tool_calls"):
        raise Unusable(field, "says nothing", "give it content or tool_calls")
    return row


def native(row: Conversation, render: Render, *, keep_reasoning: bool = True) -> Example:
    """{id, inputs, targets, tools} in the spacing that the model itself was trained on."""
    messages = [_with_objects(message) for message in row.messages]
    if not keep_reasoning:
        messages[-1] = _without_reasoning(messages[-1])
    field = f"messages[{len(messages) - 1}]"
    prompt = render(messages[:-1], row.tools, add_generation_prompt=True)
    text = render(messages, row.tools)
    if not text.startswith(prompt):
        what = "changes how the messages before it are rendered"
        raise Unusable(field, what, "join assistant messages that follow each other")
    target = text[len(prompt) :].removesuffix("\n")
    if not target.endswith(TURN_END) or target.count(TURN_END) != 1:
        what = f"does not end in its one {TURN_END}"
        raise Unusable(field, what, f"leave {TURN_END} out of it, or use Qwen3's template")
    error = chat.parse(target).error
    if error is not None and error.kind != "text_beside_call":
        what = f"would not be read back as it is meant ({error.detail})"
        raise Unusable(field, what, "keep tags out of its texts, and a user's question before it")
    return {"id": row.id, "inputs": prompt, "targets": target, "tools": list(row.tools)}


def _with_objects(message: Message) -> Message:
    """The message with every call's arguments as an object, so that all are spaced alike."""
    if not message.get("tool_calls"):
        return message
    calls = [chat.called(call) for call in message["tool_calls"]]
    written = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return {**message, "tool_calls": written}


def _without_reasoning(message: Message) -> Message:
    content = message.get("content")
    if content and message.get("reasoning_content") is None:
        content = content.split("</think>")[-1].lstrip("\n")
    return {**message, "content": content, "reasoning_content": ""}


def star(row: Conversation, render: Render, *, keep_reasoning: bool = False) -> Example:
    """{id, inputs, targets} as messages_to_trainset.py writes them.

    It renders the answer alone. Without a question before it, the template drops the reasoning;
    --add-reasoning-content, here `keep_reasoning`, puts it back as it stands.
    """
    prompt = render(row.messages[:-1], row.tools, add_generation_prompt=True) + "<think>"
    target = render(row.messages[-1:]).replace(ASSISTANT, "").removeprefix("<think>")
    if "</think>" not in target:
        target = "</think>" + target
    if keep_reasoning:
        target = (row.messages[-1].get("reasoning_content") or "") + target
    return {"id": row.id, "inputs": prompt, "targets": target}


def write(path: str | Path, examples: Iterable[Example], *, overwrite: bool = False) -> int:
    """Write examples as JSON lines and count them. The file appears when it is whole, or never."""
    path = Path(path)
    if path.suffixes[-1:] != [".jsonl"] and path.suffixes[-2:] != [".jsonl", ".gz"]:
        raise ValueError(f"{path}: rows are written as JSON lines: name it .jsonl or .jsonl.gz")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already: choose another name, or pass --force")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: there is no such folder: make it first")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "xb") as file:
            count = _write_lines(file, examples, is_gzip=path.suffix == ".gz")
        if count == 0:
            raise ValueError(f"{path}: there is no row to write: check the input")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_lines(file: IO[bytes], examples: Iterable[Example], *, is_gzip: bool) -> int:
    # Without a name and a time in its header, equal rows give equal files.
    packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if is_gzip else None
    count = 0
    for example in examples:
        line = json.dumps(example, ensure_ascii=False, allow_nan=False) + "\n"
        (packed or file).write(line.encode())
        count += 1
    if packed is not None:
        packed.close()
    file.flush()
    os.fsync(file.fileno())
    return count
