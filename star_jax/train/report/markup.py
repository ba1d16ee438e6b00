"""HTML and JSON out of texts that nobody vouches for.

el("td", "1 < 2", cls="n") → Html      a str inside is text and is escaped, an Html is markup
embed({...}) → Html                    JSON that can stand inside <script>

What a model wrote may hold tags, quotes, control characters and halves of surrogate pairs. No "//"
is left as it is in either form, so a page holds no address that anything could follow.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

PERCENT = "\N{NO-BREAK SPACE}%"
VOID = frozenset({"meta", "link", "input", "br"})
# Neither HTML nor a reader can do anything with these.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def shown(value: Any, most: int) -> str:
    """A text for a person: what can't be shown as \\xNN or \\uXXXX, what is too long without its
    middle. Other values than texts as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > most:
        head, tail = most * 2 // 3, most // 3
        left_out = len(text) - head - tail
        text = f"{text[:head]}\n[… {left_out:,} characters left out …]\n{text[-tail:]}"
    return _CONTROL.sub(lambda found: _named(found.group()), text)


def _named(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def escaped(text: str) -> Html:
    if isinstance(text, Html):
        return text
    clean = _CONTROL.sub(lambda found: _named(found.group()), text)
    return Html(html.escape(clean).replace("//", "/&#47;"))


def el(name: str, /, *inside: str | None, **attributes: str | int | float | bool | None) -> Html:
    """An element. `cls` is its class; an underscore in a name is a hyphen; None is left out."""
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(inside)}</{name}>")


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'


def join(parts: Iterable[str | None], by: str = "") -> Html:
    return Html(by.join(escaped(part) for part in parts if part is not None))


def embed(value: Any) -> Html:
    """JSON without a character that means something to HTML. NaN is a fault of ours."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Html(text.replace("//", "/\\/"))


# Numbers


def fixed(value: float, digits: int) -> str:
    """With so many digits behind the point; what rounds to 0 has no sign."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else fixed(100 * value, digits) + PERCENT


def number(value: float | None) -> str:
    """Four digits, or all of a whole number."""
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    return f"{value:,.4g}".replace("-", "−")


def in_unit(value: float | None, unit: str) -> str:
    if unit == "share":
        return share(value)
    return "–" if value is None else fixed(value, 3)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
