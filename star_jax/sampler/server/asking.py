"""Bodies of chat and text completions → what the sampler is asked for. All checks are here."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from star_jax import chat
from star_jax.chat.completion import THINK, THINK_END
from star_jax.sampler.loading import Loaded
from star_jax.sampler.reading import Content, Part, Reader
from star_jax.sampler.request import SEED_LIMIT, Request, Settings, name_of
from star_jax.sampler.server.body import Limits
from star_jax.sampler.server.fields import Fields, refuse
from star_jax.sampler.server.refusal import Refusal

MAX_TOP = 20  # likeliest tokens that may be reported beside each
TEXT_TOKENS = 16  # of a text completion that says no number, as OpenAI's


class Verbatim:
    """Reads nothing into a text."""

    def feed(self, text: str) -> list[Part]:
        return [Content(text)] if text else []

    def end(self) -> list[Part]:
        return []


@dataclass(frozen=True)
class Asked:
    """One request of a client: the prompts, and how their answers are to be told."""

    requests: tuple[Request, ...]
    is_stream: bool
    wants_usage: bool  # at the end of a stream
    top: int | None  # so many likeliest tokens beside the log-prob of each; None: no log-probs
    reader: Callable[[], Reader | Verbatim]

    @property
    def n(self) -> int:
        return self.requests[0].n


Ask = Callable[[dict[str, Any], Loaded, Limits], Asked]


def for_chat(body: dict[str, Any], loaded: Loaded, limits: Limits) -> Asked:
    fields = Fields(body)
    _check_model(fields, loaded)
    messages = _messages(fields.take("messages"))
    tools, grammar = _tools(fields, loaded, limits)
    template = fields.object("chat_template_kwargs")
    thinking = template.flag("enable_thinking")
    template.done()
    new, old = fields.whole("max_completion_tokens", 1), fields.whole("max_tokens", 1)
    max_tokens = old if new is None else new
    top = fields.whole("top_logprobs", 0, MAX_TOP)
    if not fields.flag("logprobs"):
        if top:
            refuse("top_logprobs", "needs logprobs: send logprobs true as well")
        top = None
    elif top is None:
        top = 0
    settings, n, is_stream, wants_usage = _common(fields, loaded, limits, top or 0)
    fields.done()
    try:
        text = loaded.render(
            messages, tools or None, add_generation_prompt=True, enable_thinking=thinking
        )
    except ValueError as error:  # a template's own
        raise Refusal(400, str(error), "messages") from None
    prompt = loaded.tokenizer.encode([text])[0]
    new_tokens = _fit("messages", len(prompt), max_tokens, loaded.max_new, loaded)
    request = _request(prompt, n, settings(new_tokens), 0, grammar)
    tail = text[-64:].rstrip()

    def reader() -> Reader:
        return Reader(
            is_open=tail.endswith(THINK),
            is_thought=tail.endswith(THINK_END),
            reads_calls=bool(tools),
        )

    return Asked((request,), is_stream, wants_usage, top, reader)


def for_text(body: dict[str, Any], loaded: Loaded, limits: Limits) -> Asked:
    fields = Fields(body)
    _check_model(fields, loaded)
    prompts = _prompts(fields.take("prompt"), loaded, limits)
    max_tokens = fields.whole("max_tokens", 1)
    top = fields.whole("logprobs", 0, MAX_TOP)
    settings, n, is_stream, wants_usage = _common(fields, loaded, limits, top or 0)
    fields.done()
    seen: Counter[tuple[int, ...]] = Counter()
    requests = []
    for prompt in prompts:
        default = min(TEXT_TOKENS, loaded.max_new)
        new_tokens = _fit("prompt", len(prompt), max_tokens, default, loaded)
        key = tuple(prompt)
        requests.append(_request(prompt, n, settings(new_tokens), seen[key], None))
        seen[key] += 1
    return Asked(tuple(requests), is_stream, wants_usage, top, Verbatim)


def _request(
    prompt: list[int], n: int, settings: Settings, occurrence: int, grammar: Any
) -> Request:
    ids = np.array(prompt, np.int32)
    return Request(ids, n, settings, name_of(ids, occurrence), grammar)


def _check_model(fields: Fields, loaded: Loaded) -> None:
    model = fields.text("model")
    if model is not None and model != loaded.name:
        message = f"model {model!r} is not served here: use {loaded.name!r}"
        raise Refusal(404, message, "model", "model_not_found")


def _fit(param: str, prompt: int, asked: int | None, default: int, loaded: Loaded) -> int:
    """How many new tokens there may be; refuses what there is no room for."""
    new = default if asked is None else asked
    if prompt == 0:
        refuse(param, "holds no token: give at least one")
    if prompt > loaded.max_prompt or new > loaded.max_new:
        message = (
            f"the prompt has {prompt} tokens and {new} new ones are asked for, there is room for "
            f"{loaded.max_prompt} and {loaded.max_new}: shorten it, or ask for fewer"
        )
        param = param if prompt > loaded.max_prompt else "max_tokens"
        raise Refusal(400, message, param, "context_length_exceeded")
    return new


def _common(
    fields: Fields, loaded: Loaded, limits: Limits, top: int
) -> tuple[Callable[[int], Settings], int, bool, bool]:
    """What both kinds share: how to draw, how many, and whether to stream."""
    is_stream = bool(fields.flag("stream"))
    options = fields.object("stream_options")
    wants_usage = bool(options.flag("include_usage"))
    options.flag("continuous_usage_stats")  # vLLM's; a stream's usage comes at its end
    options.flag("include_obfuscation")
    options.done()
    n = fields.whole("n", 1, limits.n)
    temperature = fields.number("temperature", 0, 100)
    top_p = fields.number("top_p", 0, 1)
    min_p = fields.number("min_p", 0, 1)
    top_k = fields.whole("top_k", -1, 2**31 - 1)
    seed = fields.whole("seed", 0, SEED_LIMIT - 1)
    stop = _stop(fields.take("stop"), limits)
    ids = _stop_ids(fields.take("stop_token_ids"), loaded, limits)
    own = () if fields.flag("ignore_eos") else loaded.stops

    def settings(max_new_tokens: int) -> Settings:
        try:
            return Settings(
                max_new_tokens=max_new_tokens,
                temperature=1.0 if temperature is None else temperature,
                top_k=max(top_k or 0, 0),  # vLLM's clients send -1 for none
                top_p=1.0 if top_p is None else top_p,
                min_p=min_p or 0.0,
                stop_ids=(*own, *ids),
                stop=stop,
                seed=secrets.randbelow(SEED_LIMIT) if seed is None else seed,
                top_logprobs=top,
            )
        except ValueError as error:
            raise Refusal(400, str(error), str(error).split()[0]) from None

    return settings, n or 1, is_stream, wants_usage


def _stop(value: Any, limits: Limits) -> tuple[str, ...]:
    stop = [value] if isinstance(value, str) else value or []
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        refuse("stop", "holds something else than texts: give a text, or a list of them")
    if len(stop) > limits.stop:
        refuse("stop", f"holds {len(stop)} texts: give at most {limits.stop}")
    return tuple(stop)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)


def _check_ids(name: str, ids: list[int], loaded: Loaded) -> list[int]:
    for token in ids:
        if not 0 <= token < loaded.tokenizer.size:
            refuse(name, f"holds token {token}: give ids from 0 to {loaded.tokenizer.size - 1}")
    return ids


def _stop_ids(value: Any, loaded: Loaded, limits: Limits) -> list[int]:
    ids = value or []
    if not _is_ids(ids) or len(ids) > limits.stop:
        refuse("stop_token_ids", f"is no list of at most {limits.stop} token ids: give one")
    return _check_ids("stop_token_ids", ids, loaded)


def _prompts(value: Any, loaded: Loaded, limits: Limits) -> list[list[int]]:
    match value:
        case None:
            refuse("prompt", "is missing: give a text, token ids, or a list of either")
        case str():
            return loaded.tokenizer.encode([value])
        case [int(), *_] if _is_ids(value):
            return [_check_ids("prompt", value, loaded)]
        case [_, *_] if len(value) > limits.prompts:
            refuse("prompt", f"is a list of {len(value)}: give at most {limits.prompts} at once")
        case [str(), *_] if all(isinstance(one, str) for one in value):
            return loaded.tokenizer.encode(value)
        case [list(), *_] if all(_is_ids(one) for one in value):
            return [_check_ids("prompt", one, loaded) for one in value]
    refuse("prompt", "is none of a text, token ids, a list of texts, a list of lists of token ids")


def _messages(value: Any) -> list[Any]:
    if isinstance(value, list):
        value = [_message(message, index) for index, message in enumerate(value)]
    for fault in chat.check(value):
        raise Refusal(400, str(fault), fault.field)
    return value


def _message(message: Any, index: int) -> Any:
    """A message as the template knows it: nulls are absent, parts of text are one text."""
    if not isinstance(message, dict):
        return message
    made = {name: value for name, value in message.items() if value is not None}
    if made.get("role") == "developer":
        made["role"] = "system"
    if made.get("function_call"):
        refuse(f"messages[{index}].function_call", "is not read: use tool_calls")
    if isinstance(parts := made.get("content"), list):
        made["content"] = "\n".join(
            _part(part, f"messages[{index}].content[{at}]") for at, part in enumerate(parts)
        )
    return made


def _part(part: Any, field: str) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(other)} if other != "text":
            refuse(field, f"is of type {other!r}, and this model reads text alone: leave it out")
    refuse(field, 'is no part of text: give {"type": "text", "text": …}')


def _tools(fields: Fields, loaded: Loaded, limits: Limits) -> tuple[list[Any], Any]:
    """The tools to render, without what is meant for the server, and the grammar to follow."""
    tools, choice = fields.take("tools"), fields.take("tool_choice")
    for fault in chat.check_tools(tools):
        raise Refusal(400, str(fault), fault.field)
    tools = tools or []
    if len(tools) > limits.tools:
        refuse("tools", f"holds {len(tools)}: give at most {limits.tools}")
    is_strict = False
    for index, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            refuse(f"tools[{index}].type", f"is {tool['type']!r}: use function")
        is_strict |= tool.get("function", tool).get("strict") is True
    named = _choice(choice, tools)
    tools = [_without_strict(tool) for tool in tools]
    if named == "none":
        return [], None
    if named == "auto" and not is_strict:
        return tools, None
    return tools, _grammar(tools, named, loaded)


def _choice(choice: Any, tools: list[Any]) -> str | dict[str, str]:
    names = [tool.get("function", tool)["name"] for tool in tools]
    match choice:
        case None:
            return "auto"
        case "none" | "auto":
            return choice
        case "required" | {"type": "function", "function": {"name": str()}} if not tools:
            refuse("tool_choice", "asks for a call, and there are no tools: give tools")
        case "required":
            return choice
        case {"type": "function", "function": {"name": str(name)}}:
            if name not in names:
                refuse("tool_choice", f"names {name!r}, which is none of the tools: {names}")
            return {"name": name}
    refuse("tool_choice", 'is none of "none", "auto", "required" and {"type": "function", …}')


def _without_strict(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if "function" not in tool:
        return {name: value for name, value in tool.items() if name != "strict"}
    function = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {**tool, "function": function}


def _grammar(tools: list[Any], choice: str | dict[str, str], loaded: Loaded) -> Any:
    param = "tools" if choice == "auto" else "tool_choice"
    asked = "strict" if choice == "auto" else json.dumps(choice)
    try:
        grammar = None if loaded.grammar is None else loaded.grammar(tools, choice)
    except ValueError as error:
        raise Refusal(400, f"{param}: {error}", param, "unsupported") from None
    if grammar is None:
        message = (
            f"{param}: {asked} needs decoding that follows the tools' schemas, which this server "
            "has not: use tool_choice auto and tools that are not strict"
        )
        raise Refusal(400, message, param, "unsupported")
    return grammar
