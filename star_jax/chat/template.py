"""Messages and tools as text: Qwen3's chat template in Python, and any other in a sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_jax.chat.completion import CALL, CALL_END, THINK, THINK_END, TURN_END
from star_jax.chat.messages import Message, Tool, refuse_faults

_TOOLS_BEFORE = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_TOOLS_AFTER = """
</tools>

For each function call, return a json object with function name and arguments \
within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def render(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
) -> str:
    """The conversation as the text that Qwen3's chat template gives.

    String arguments are written as they stand, as the template does; `called` reads both kinds.
    """
    refuse_faults(messages, tools)
    last_query = _last_query(messages)
    parts = [_head(messages, tools)]
    for index, message in enumerate(messages):
        match message["role"]:
            case "assistant":
                parts.append(_assistant(messages, index, last_query))
            case "tool":
                parts.append(_tool_response(messages, index))
            case "system" if index == 0:
                pass  # the head holds it
            case role:
                parts.append(_turn(role, message["content"] or ""))
    if add_generation_prompt:
        parts.append("<|im_start|>assistant\n")
        if enable_thinking is False:
            parts.append("<think>\n\n</think>\n\n")
    return "".join(parts)


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}{TURN_END}\n"


def _dump(value: object, field: str) -> str:
    """Hugging Face's `tojson`: keys in their order, every script as it is, nothing escaped."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{field}: is not JSON: keep to JSON's values ({error})") from error


def _head(messages: Sequence[Message], tools: Sequence[Tool] | None) -> str:
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    if not tools:
        return "" if system is None else _turn("system", system)
    before = "" if system is None else f"{system}\n\n"
    listed = (f"\n{_dump(tool, f'tools[{index}]')}" for index, tool in enumerate(tools))
    return _turn("system", before + _TOOLS_BEFORE + "".join(listed) + _TOOLS_AFTER)


def _last_query(messages: Sequence[Message]) -> int:
    """Where the user's last question stands; the reasoning before it is history and is dropped."""
    for index in range(len(messages) - 1, -1, -1):
        content = messages[index].get("content")
        if messages[index]["role"] != "user" or not isinstance(content, str):
            continue
        if not (content.startswith("<tool_response>") and content.endswith("</tool_response>")):
            return index
    return len(messages) - 1


def _assistant(messages: Sequence[Message], index: int, last_query: int) -> str:
    message = messages[index]
    reasoning, content = _reasoning(message)
    text = content
    if index > last_query and (reasoning or index == len(messages) - 1):
        reasoning = reasoning.strip("\n")
        text = f"{THINK}\n{reasoning}\n{THINK_END}\n\n" + content.lstrip("\n")
    for number, call in enumerate(message.get("tool_calls") or ()):
        # The template asks whether there is content before it strips it.
        text += "\n" if number or content else ""
        text += _call(call, f"messages[{index}].tool_calls[{number}]")
    return _turn("assistant", text)


def _reasoning(message: Message) -> tuple[str, str]:
    """An assistant message's reasoning, under its own name or inside the content; the content."""
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content")
    if reasoning is not None or THINK_END not in content:
        return reasoning or "", content
    before, *_, after = content.split(THINK_END)
    return before.rstrip("\n").split(THINK)[-1].lstrip("\n"), after.lstrip("\n")


def _call(tool_call: Mapping[str, Any], field: str) -> str:
    function = tool_call.get("function") or tool_call
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = _dump(arguments, f"{field}.arguments")
    return f'{CALL}\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n{CALL_END}'


def _tool_response(messages: Sequence[Message], index: int) -> str:
    """One tool's answer; answers in a row share one user turn."""
    opens = index == 0 or messages[index - 1]["role"] != "tool"
    closes = index == len(messages) - 1 or messages[index + 1]["role"] != "tool"
    content = messages[index]["content"] or ""
    return (
        ("<|im_start|>user" if opens else "")
        + f"\n<tool_response>\n{content}\n</tool_response>"
        + (f"{TURN_END}\n" if closes else "")
    )


def render_with(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    *,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
    **variables: object,
) -> str:
    """The conversation as a model's own template writes it, run in a sandbox.

    `variables` are further names that the template may read, such as bos_token.
    """
    refuse_faults(messages, tools)
    if enable_thinking is not None:  # templates ask whether it `is defined`
        variables["enable_thinking"] = enable_thinking
    return _compile(template)(
        # None, not an empty list, is what templates know rows without tools by.
        messages=messages,
        tools=tools or None,
        add_generation_prompt=add_generation_prompt,
        **variables,
    )


# What an expression of somebody's template may raise when it meets values it was not made for.
EXPRESSION_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> Callable[..., str]:
    """The template in the environment that Hugging Face gives it, but without a clock."""
    # Imported here: a pool of reward workers reads completions only and should start at once.
    from jinja2 import TemplateError, nodes, parser
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what the assistant wrote; the text is the same without."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

        def parse(self, parser: parser.Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def run(**names: object) -> str:
        try:
            return compiled.render(names)
        except (TemplateError, *EXPRESSION_ERRORS) as error:
            raise ValueError(f"the chat template refuses these messages: {error}") from error

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    try:
        compiled = environment.from_string(template, {"raise_exception": raise_exception})
    except TemplateError as error:
        raise ValueError(f"the chat template is not valid Jinja: {error}") from error
    return run
