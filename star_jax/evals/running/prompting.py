"""How a question is put to a model, and how its text is read back.

official  BFCL's own writing of Qwen3's template, as its local function-calling handler asks
template  the chat template of the model's folder, tools in JSON Schema's words; a server's own
          template where a server is asked
star      as STAR's authors ask: a system prompt (--system) before the tools, a blank line after
          each tool, an answer that begins inside <think>, no reasoning in the history, and calls
          that are read with or without line ends beside their tags

`--system` puts a text before an entry's own system message in every mode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from star_jax.chat.completion import THINK, THINK_END
from star_jax.data.template import Render
from star_jax.evals.bfcl import prompt as official

Mode = Literal["official", "template", "star"]
MODES = get_args(Mode)

NO_THOUGHT = f"{THINK}\n\n{THINK_END}\n\n"  # what Qwen3's template opens with, thinking off
# BFCL's names of types in the words of JSON Schema.
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
TIGHT = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@dataclass(frozen=True)
class Prompting:
    """One way of asking. `render`: the folder's template, None where a server has its own."""

    mode: Mode
    think: bool | None = None
    system: str | None = None
    render: Render | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"--prompt is {self.mode!r}: give one of {', '.join(MODES)}")
        if self.mode == "star" and self.think is False:
            raise ValueError(
                "--prompt star opens <think> itself: leave --think off out, or use another prompt"
            )

    @property
    def about(self) -> dict[str, Any]:
        return {"prompt": self.mode, "think": self.think, "system": self.system}

    def text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str | None:
        """The prompt, None where a server is to write it. ValueError: no prompt can be made."""
        messages = with_system(messages, self.system)
        match self.mode:
            case "official":
                end = NO_THOUGHT if self.think is False else ""
                return official.render(messages, tools) + end
            case "star":
                return star(messages, tools)
            case "template":
                return None if self.render is None else self._templated(messages, tools)

    def _templated(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        assert self.render is not None
        return self.render(
            [plain(message) for message in messages],
            [schema_tool(tool) for tool in tools] or None,
            add_generation_prompt=True,
            enable_thinking=self.think,
        )

    def sent(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Any, Any]:
        """Messages and tools as a server of chats takes them."""
        shown = [plain(message) for message in with_system(messages, self.system)]
        wrapped = [{"type": "function", "function": schema_tool(tool)} for tool in tools]
        return _sendable(shown), tuple(wrapped)

    def read(self, text: str) -> str:
        """The text as the benchmark's own reader takes it."""
        return tolerant(THINK + text) if self.mode == "star" else text


def with_system(messages: Sequence[Message], system: str | None) -> Sequence[Message]:
    if system is None:
        return messages
    first, *rest = messages or [{"role": "user", "content": ""}]
    if first["role"] == "system":
        return [{"role": "system", "content": f"{system}\n\n{first['content']}"}, *rest]
    return [{"role": "system", "content": system}, *messages]


def star(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    is_told = bool(messages) and messages[0]["role"] == "system"
    parts = [messages[0]["content"]] if is_told else []
    if tools:
        listed = "".join(f"\n{json.dumps(tool)}\n" for tool in tools)
        parts.append(official.TOOLS_BEFORE + listed + official.TOOLS_AFTER)
    text = "\n\n".join(parts)
    head = f"<|im_start|>system\n{text}<|im_end|>\n" if parts else ""
    rest = [_without_thought(message) for message in messages[is_told:]]
    return head + official.render(rest, []) + THINK


def _without_thought(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "reasoning_content"}


def tolerant(text: str) -> str:
    """Calls behind the thoughts with a line end beside each tag, as the official reader asks."""
    before, end, after = text.rpartition(THINK_END)
    return before + end + TIGHT.sub(r"<tool_call>\n\g<1>\n</tool_call>", after)


def schema_tool(tool: Tool) -> dict[str, Any]:
    return {**tool, "parameters": schema(tool.get("parameters", {}))}


def schema(value: Any) -> Any:
    """A schema with BFCL's types in the words of JSON Schema."""
    if isinstance(value, list):
        return [schema(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = {}
    for name, item in value.items():
        if name == "type" and isinstance(item, str):
            made[name] = TYPES.get(item, item)
        elif name == "properties" and isinstance(item, Mapping):
            made[name] = {key: schema(one) for key, one in item.items()}  # a name may be "type"
        elif name in ("enum", "default"):
            made[name] = item
        else:
            made[name] = schema(item)
    return made


def plain(message: Message) -> dict[str, Any]:
    """A message of a dialogue as templates know it. ValueError where a call cannot be written."""
    made = dict(message)
    if "tool_calls" in made:
        made["tool_calls"] = [_called(call) for call in made["tool_calls"]]
    if not made.get("reasoning_content", True):
        del made["reasoning_content"]
    return made


def _called(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(function.get("name"), str) or not isinstance(arguments, Mapping):
        raise ValueError("a tool call is no object with a name and arguments")
    return {"name": function["name"], "arguments": dict(arguments)}


def _sendable(messages: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Calls with ids and arguments as text; a tool's answer names its call, by their order."""
    made, waiting, count = [], [], 0
    for message in messages:
        if message["role"] == "tool":
            message = {**message, "tool_call_id": waiting.pop(0) if waiting else "call_0"}
        elif "tool_calls" in message:
            waiting = [f"call_{count + index}" for index in range(len(message["tool_calls"]))]
            count += len(waiting)
            calls = [
                {
                    "id": name,
                    "type": "function",
                    "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
                }
                for name, call in zip(waiting, message["tool_calls"], strict=True)
            ]
            message = {**message, "tool_calls": calls}
        made.append(message)
    return tuple(made)
