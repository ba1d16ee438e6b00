"""What a client is told when it can't be served: a status, and a sentence in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """`param` is the field at fault, `code` a word for programs."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.is_last = False  # the connection can't be used any more

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": KINDS.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        made = {"content-type": "application/json"}
        if self.is_last:
            made["connection"] = "close"
        match self.status:
            case 401:
                made["www-authenticate"] = "Bearer"
            case 429:
                made["retry-after"] = "1"
        return made


def dump(value: Any) -> bytes:
    """JSON as UTF-8; escaped where half of a pair leaves no other way."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False).encode()
