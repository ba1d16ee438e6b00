"""What a Qwen3 model reads: BFCL's own writing of the chat template, and its changes to the tools.

    tools, category → hinted tools            messages, hinted tools → prompt

Close to `chat.render`, and different where it shows: JSON escapes everything but ASCII, and a call
equal to the first of its message stands without a line of its own. The types stay BFCL's (dict,
float, tuple, any). The checker takes the tools as the file has them, without hints.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.evals.bfcl.decode import THINK, THINK_END
from star_jax.evals.bfcl.kinds import Language, language_of

TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
SYNTAX = {"python": "Python 3", "java": "Java 8 SDK", "javascript": "JavaScript"}
SPOKEN = {"java": "Java", "javascript": "JavaScript"}
LISTS = {"java": ("Array", "ArrayList"), "javascript": ("array",)}

Message = Mapping[str, Any]


def hinted(tools: Sequence[Mapping[str, Any]], category: str) -> list[dict[str, Any]]:
    """The tools as a prompt shows them: the language is named, and the arguments of Java and
    JavaScript are asked for as strings of source."""
    language = language_of(category)
    hint = f" Note that the provided function is in {SYNTAX[language]} syntax."
    shown = []
    for tool in tools:
        tool = copy.deepcopy(dict(tool))
        tool["description"] += hint
        if language != "python":
            for schema in tool["parameters"]["properties"].values():
                spell_out(schema, language)
        shown.append(tool)
    return shown


def spell_out(schema: dict[str, Any], language: Language) -> None:
    """Turn a parameter's schema into a string's, and tell in words what the string is to hold."""
    kind, spoken = schema["type"], SPOKEN[language]
    if kind == "any":
        text = f" This parameter can be of any type of {spoken} object in string representation."
    else:
        text = f" This is {spoken} {kind} type parameter in string representation."
    if kind in LISTS[language]:
        items = schema.pop("items")["type"]
        text += f" The list elements are of type {items}; they are not in string representation."
    elif language == "javascript" and kind == "dict" and "properties" in schema:
        entries = json.dumps(schema.pop("properties"))
        text += (
            " The dictionary entries have the following schema; "
            f"they are not in string representation. {entries}"
        )
    schema["description"] += text
    schema["type"] = "string"


def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of a conversation, up to where the assistant begins. `tools` are hinted ones."""
    last_query = _last_query(messages)
    parts = [_head(messages, tools)]
    for index, message in enumerate(messages):
        match message["role"]:
            case "assistant":
                parts.append(_assistant(messages, index, last_query))
            case "tool":
                parts.append(_response(messages, index))
            case "system" if index == 0:
                pass  # the head holds it
            case role:
                parts.append(_turn(role, message["content"]))
    return "".join(parts) + "<|im_start|>assistant\n"


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _head(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    if not tools:
        return "" if system is None else _turn("system", system)
    before = "" if system is None else f"{system}\n\n"
    listed = "".join(f"\n{json.dumps(tool)}" for tool in tools)
    return _turn("system", before + TOOLS_BEFORE + listed + TOOLS_AFTER)


def _last_query(messages: Sequence[Message]) -> int:
    """Where the user's last question stands. The reasoning before it is not shown again."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        text = message.get("content")
        if message["role"] != "user" or not isinstance(text, str):
            continue
        if not (text.startswith("<tool_response>") and text.endswith("</tool_response>")):
            return index
    return len(messages) - 1


def _assistant(messages: Sequence[Message], index: int, last_query: int) -> str:
    message = messages[index]
    reasoning, content = _reasoning(message)
    text = content
    if index > last_query and (reasoning or index == len(messages) - 1):
        reasoning = reasoning.strip("\n")
        text = f"{THINK}\n{reasoning}\n{THINK_END}\n\n" + content.lstrip("\n")
    calls = list(message.get("tool_calls") or [])
    for call in calls:
        # Equality, where the template asks whether this is the first.
        text += "\n" if content or call != calls[0] else ""
        text += _call(call)
    return _turn("assistant", text)


def _reasoning(message: Message) -> tuple[str, str]:
    content = message.get("content") or ""
    if message.get("reasoning_content"):
        return message["reasoning_content"], content
    if THINK_END not in content:
        return "", content
    before, *_, after = content.split(THINK_END)
    return before.rstrip("\n").split(THINK)[-1].lstrip("\n"), after.lstrip("\n")


def _call(call: Mapping[str, Any]) -> str:
    call = call.get("function") or call
    arguments = call["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {written}}}\n</tool_call>'


def _response(messages: Sequence[Message], index: int) -> str:
    """One tool's answer; answers in a row share one user turn."""
    opens = index == 0 or messages[index - 1]["role"] != "tool"
    closes = index == len(messages) - 1 or messages[index + 1]["role"] != "tool"
    text = f"\n<tool_response>\n{messages[index]['content']}\n</tool_response>"
    return ("<|im_start|>user" if opens else "") + text + ("<|im_end|>\n" if closes else "")
