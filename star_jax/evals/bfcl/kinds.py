"""Types of BFCL's schemas as types of Python, and whether a value is of the right one.

    schema of a parameter, a language → Kind          a value, Kind, accepted values → Verdict

Types are compared exactly: True is no integer and 5.0 neither. An answer whose first accepted value
is of another type than the schema's is a *variable*: values of its type pass as well, and are
compared as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from star_jax.evals.bfcl import java, javascript
from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.wrong import RIGHT, show, wrong
from star_jax.evals.verdict import Verdict

Language = Literal["python", "java", "javascript"]

PYTHON = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
JAVA = {
    "byte": int,
    "short": int,
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "boolean": bool,
    "char": str,
    "String": str,
    "any": str,
    "Array": list,
    "ArrayList": list,
    "Queue": list,
    "Stack": list,
    "Set": set,
    "HashMap": dict,
    "Hashtable": dict,
}
JAVASCRIPT = {
    "String": str,
    "integer": int,
    "float": float,
    "Bigint": int,
    "Boolean": bool,
    "array": list,
    "dict": dict,
    "any": str,
}
TABLES: dict[Language, Mapping[str, type]] = {
    "python": PYTHON,
    "java": JAVA,
    "javascript": JAVASCRIPT,
}
# Whose elements have a type in the schema, too.
WITH_ITEMS: dict[Language, tuple[str, ...]] = {
    "python": ("array", "tuple"),
    "java": ("Array", "ArrayList"),
    "javascript": ("array",),
}


@dataclass(frozen=True)
class Kind:
    """What a parameter's schema asks for; `items` of every element."""

    name: str
    type: type
    items: type | None


def language_of(category: str) -> Language:
    if "javascript" in category:
        return "javascript"
    return "java" if "java" in category else "python"


def read(schema: Mapping[str, Any], value: Any, language: Language) -> tuple[Kind, Any] | Verdict:
    """What the schema asks for, and the value that an argument stands for: the argument itself in
    Python, the literal that it spells in Java and JavaScript."""
    table, name = TABLES[language], schema["type"]
    kind = table[name]
    if language != "python" and not isinstance(value, str):
        error = "type_error:java" if language == "java" else "type_error:js"
        return wrong(error, f"expected {language} source in a string, got {show(value)}")
    item_name = schema["items"]["type"] if name in WITH_ITEMS[language] else None
    items = table[item_name] if item_name is not None else None
    match language:
        case "java":
            value = java.convert(value, name, item_name)
        case "javascript":
            value = javascript.convert(value, name, item_name)
        case "python":
            value = widened(value, name)
    return Kind(name, kind, items), value


def widened(value: Any, name: str) -> Any:
    """An integer is a float where one is asked for, and a tuple a list; not inside of a list."""
    if name == "float" and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise Crash("OverflowError") from error
    return list(value) if name == "tuple" and type(value) is tuple else value


def answer_type(accepted: Sequence[Any]) -> type | None:
    """The type of the first accepted value; "" is none, but says that a parameter may be absent."""
    return next((type(value) for value in accepted if value != ""), None)


def is_variable(kind: Kind, accepted: Sequence[Any]) -> bool:
    return answer_type(accepted) not in (None, kind.type)


def check_type(value: Any, kind: Kind, accepted: Sequence[Any]) -> Verdict:
    if type(value) is not kind.type:
        if is_variable(kind, accepted) and type(value) is answer_type(accepted):
            return RIGHT
        return wrong("type_error:simple", f"expected {kind.name}, got {show(value)}")
    if kind.items is None:
        return RIGHT
    for option in accepted:
        # Only a list has types to compare with: beside "" in an answer, elements of any type pass.
        if type(option) is not list or all(fits(item, kind.items, option) for item in value):
            return RIGHT
    error = "type_error:nested" if accepted else "type_error:simple"
    return wrong(error, f"expected elements of {kind.items.__name__} in {show(value)}")


def fits(value: Any, kind: type, accepted: Sequence[Any]) -> bool:
    return type(value) in (kind, answer_type(accepted))
