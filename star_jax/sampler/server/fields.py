"""The fields of a body: each is taken once, as what it has to be; what is left over is refused.

Null is absent everywhere, as OpenAI's clients send it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from star_jax.sampler.server.refusal import Refusal

# Fields that change nothing here, whatever they say.
HARMLESS = frozenset(
    {"user", "metadata", "parallel_tool_calls", "store", "service_tier", "safety_identifier"}
    | {"prompt_cache_key", "prompt_cache_retention", "request_id", "priority"}
    | {"add_special_tokens"}
)
# Fields that would change the answer and are not implemented: they may say that it is not to be
# changed.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "min_tokens": (0,),
    "best_of": (1,),
    "suffix": ("",),
    "echo": (False,),
    "use_beam_search": (False,),
    "skip_special_tokens": (False,),
    "include_stop_str_in_output": (False,),
    "return_token_ids": (False,),
    "functions": ([],),
    "function_call": ("none",),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
}
INSTEAD = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "response_format": "use tools with tool_choice",
    "echo": "put the prompt before the text yourself",
    "best_of": "use n",
}


def kind(value: object) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case Mapping():
            return "an object"
    return "a list" if isinstance(value, Sequence) else "null"


def refuse(name: str, what: str) -> NoReturn:
    raise Refusal(400, f"{name} {what}", name)


class Fields:
    """A body's fields."""

    def __init__(self, body: Mapping[str, Any], prefix: str = "") -> None:
        self._left = {name: value for name, value in body.items() if value is not None}
        self._prefix = prefix
        self._asked: list[str] = []

    def take(self, name: str) -> Any:
        """Its value, None where there is none."""
        self._asked.append(name)
        return self._left.pop(name, None)

    def flag(self, name: str) -> bool | None:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            refuse(self._prefix + name, f"is {kind(value)}: give true or false")
        return value

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            refuse(self._prefix + name, f"is {kind(value)}: give a text")
        return value

    def object(self, name: str) -> Fields:
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            refuse(self._prefix + name, f"is {kind(value)}: give an object")
        return Fields(value or {}, f"{self._prefix}{name}.")

    def whole(self, name: str, least: int, most: float = math.inf) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            refuse(self._prefix + name, f"is {_short(value)}: give a whole number")
        return self._within(name, value, least, most)

    def number(self, name: str, least: float, most: float) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(self._prefix + name, f"is {kind(value)}: give a number")
        return float(self._within(name, value, least, most))

    def _within(self, name: str, value: Any, least: float, most: float) -> Any:
        if not least <= value <= most:
            limit = f"{least} to {most}" if most < math.inf else f"at least {least}"
            refuse(self._prefix + name, f"is {_short(value)}: give {limit}")
        return value

    def done(self) -> None:
        """Refuse what nobody has asked for and what would be ignored to the client's harm."""
        for name, value in self._left.items():
            full = self._prefix + name
            if self._prefix or name not in NEUTRAL:
                if name in HARMLESS and not self._prefix:
                    continue
                near = difflib.get_close_matches(name, self._asked, 1)
                hint = f"did you mean {near[0]}?" if near else "leave it out"
                raise Refusal(400, f"{full} is no field of this request: {hint}", full, "unknown")
            allowed = NEUTRAL[name]
            if not any(value == one and kind(value) == kind(one) for one in allowed):
                remedy = INSTEAD.get(name, "leave it out")
                message = f"{full} is {_short(value)}, which this server can't do: {remedy}"
                raise Refusal(400, message, full, "unsupported")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
