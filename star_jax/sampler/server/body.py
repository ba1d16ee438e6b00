"""A request's body: so many bytes, in so many seconds, of JSON that holds one object."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from star_jax import chat
from star_jax.sampler.server.refusal import Refusal


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may ask for."""

    body_bytes: int = 4 << 20
    body_s: float = 30  # for the headers, and again for the body
    waiting: int = 512  # prompts that no token has come of yet
    n: int = 64  # samples of a prompt
    prompts: int = 256  # of one request
    stop: int = 16  # stop strings
    tools: int = 128

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")


# A client that is cut off while it writes may never read why, so some of what is too much is read.
PATIENCE = 4


async def read(request: Request, limits: Limits) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        given = repr(kind) if kind else "missing"
        raise Refusal(415, f"content-type is {given}: send JSON as application/json")
    announced = request.headers.get("content-length", "0")
    if "expect" in request.headers and int(announced) > limits.body_bytes:
        raise _too_large(limits)  # it asks before it sends
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                size += len(part)
                if size <= limits.body_bytes:
                    parts.append(part)
                elif size > PATIENCE * limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        message = f"the body did not arrive within {limits.body_s:g} seconds: send it faster"
        refusal = Refusal(408, message)
        refusal.is_last = True
        raise refusal from None
    except ClientDisconnect:
        raise Refusal(499, "the client left before its body had arrived") from None
    if size > limits.body_bytes:
        raise _too_large(limits)
    return b"".join(parts)


def _too_large(limits: Limits) -> Refusal:
    message = f"the body has more than {limits.body_bytes} bytes: send less at once"
    refusal = Refusal(413, message, code="body_too_large")
    refusal.is_last = True
    return refusal


def decode(data: bytes) -> dict[str, Any]:
    """The object that a body holds."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\ud" in data.lower():  # half of a pair is no text
            json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise Refusal(400, f"the body is not UTF-8 ({error.reason}): send it as UTF-8") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON ({error}): send one JSON object") from None
    except RecursionError:
        raise _too_deep() from None
    if chat.nesting(value) > chat.MAX_DEPTH:
        raise _too_deep()
    if not isinstance(value, dict):
        raise Refusal(400, "the body is no JSON object: send {…}")
    return value


def _too_deep() -> Refusal:
    return Refusal(400, f"the body nests deeper than {chat.MAX_DEPTH} levels: flatten it")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large a number")
    return number
