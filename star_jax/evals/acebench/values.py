"""One argument against the expected value: first its type, then what it says.

The rules are ACEBench's, the odd ones too, so that a verdict is the official one:

- numbers and booleans are never compared once their type is right;
- a text need only contain the expected one, and space, case and some punctuation do not count;
- an expected value whose type is not the schema's makes the argument a variable: never compared;
- fields of an object are compared as printed, and 15 contains 5;
- an expected empty list or object of a schema type that has elements cannot be met.

What these functions raise on is what the official checker raises on. Messages print the values
where its messages do, as printing can raise as well (an integer of thousands of digits).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a call: the official kind, and a sentence for people."""

    kind: str
    why: str


# What a schema's type is in Python. No value is an `enumerate`: an enum is a variable or wrong.
TYPES: dict[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "int": int,
    "number": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "list": list,
    "list(string)": list,
    "list(enum)": list,
    "objectArray": list,
    "dict": dict,
    "object": dict,
    "enum": enumerate,
}
# Schema types whose elements have a type. `list` and `dict` are not among them.
WITH_ELEMENTS = ("array", "tuple", "list(string)", "list(enum)", "object", "objectArray")


def compare(name: str, value: Any, answer: Any, schema: dict[str, Any]) -> Wrong | None:
    """An argument against the expected value of the parameter that `schema` describes."""
    declared = schema["type"]
    expected = TYPES[declared]
    element = TYPES[_element_type(schema)] if declared in WITH_ELEMENTS else None
    value = _convert(value, declared)
    is_variable = _type(name, value, answer, expected, element)
    if isinstance(is_variable, Wrong):
        return is_variable
    if is_variable:
        return None
    if declared == "objectArray" and element is dict:
        return _object_array(name, value, answer)
    return _content(name, value, answer, expected, element)


def _convert(value: Any, declared: str) -> Any:
    if declared == "tuple" and type(value) is tuple:
        return list(value)
    if declared == "float" and type(value) is int:
        return float(value)
    return value


def _element_type(schema: dict[str, Any]) -> str:
    """The schema type of an array's elements, or what the array's own type says of them."""
    items = schema.get("items")
    if isinstance(items, dict) and "type" in items:
        return items["type"]
    if "string" in schema["type"]:
        return "string"
    return "enum" if "enum" in schema["type"] else "dict"


def _type(name: str, value: Any, answer: Any, expected: type, element: type | None) -> bool | Wrong:
    """Whether the argument is a variable, which is not compared; or that its type is wrong."""
    answered = None if answer == "" else type(answer)
    value = _truth(value)
    if type(value) is expected:
        if element is None or any(_has_types(value, item, element) for item in answer):
            return answered is not None and answered is not expected
        return Wrong("type_error", f"{name} is {value!r}: its elements are no {element.__name__}")
    if answered is not None and (type(value) is answered or answer == value):
        return True
    found = type(value).__name__
    return Wrong("type_error", f"{name} is of type {found}, expected {expected.__name__}")


def _truth(value: Any) -> Any:
    """JSON's words for truth count as booleans, quoted ones too."""
    return {"true": True, "false": False}[value] if value in ("true", "false") else value


def _has_types(value: Any, answer_item: Any, element: type) -> bool:
    """Whether the elements have the type, as far as the expected value asks for it."""
    if type(answer_item) is not list:
        return True
    return not any(isinstance(_type("", item, answer_item, element, None), Wrong) for item in value)


def _content(
    name: str, value: Any, answer: Any, expected: type, element: type | None
) -> Wrong | None:
    if expected is dict:
        return _object(name, value, answer)
    if expected is list:
        return _objects(name, value, answer) if element is dict else _list(name, value, answer)
    return _text(name, value, answer) if expected is str else None


def standardize(text: str) -> str:
    """A text as it is compared."""
    return re.sub("[ ,./_*^-]", "", text).lower().replace("'", '"')


def _standardize(value: Any) -> Any:
    return standardize(value) if type(value) is str else value


def _text(name: str, value: str, answer: str) -> Wrong | None:
    if standardize(answer) in standardize(value):
        return None
    return Wrong("value_error:string", f"{name} is {value!r}, expected {answer!r}")


def _list(name: str, value: list[Any], answer: list[Any]) -> Wrong | None:
    if [_standardize(item) for item in value] == [_standardize(item) for item in answer]:
        return None
    return Wrong("value_error:list/tuple", f"{name} is {value!r}, expected {answer}")


def _object(name: str, value: Any, answer: dict[str, Any]) -> Wrong | None:
    if not isinstance(value, dict):
        return Wrong("value_error", f"{name} is {value}, expected {answer}")
    if len(value) != len(answer.keys()):
        return Wrong("value_error", f"{name} is {value}, expected {answer}: other keys")
    for key, item in value.items():
        if key not in answer:
            return Wrong("value_error", f"{name} is {value}, expected {answer}: other keys")
        item, expected = _truth(item), answer[key]
        if isinstance(expected, dict):
            if wrong := _object(name, item, expected):
                return wrong
        elif str(_standardize(expected)) not in str(_standardize(item)):
            return Wrong("value_error", f"{name} is {value}, expected {answer}: see {key!r}")
    return None


def _objects(name: str, value: list[Any], answer: list[Any]) -> Wrong | None:
    if len(value) != len(answer):
        detail = f"{name} is {value}, expected {answer}: another number of objects"
        return Wrong("value_error:list_dict_count", detail)
    for item, expected in zip(value, answer, strict=True):
        if wrong := _object(name, item, expected):
            return wrong
    return None


def _object_array(name: str, value: list[Any], answer: list[Any]) -> Wrong | None:
    """The official checker calls a function with an argument too few here."""
    if len(value) != len(answer):
        detail = f"{name} has {len(value)} objects, expected {len(answer)}"
        return Wrong("value_error:dict_items", detail)
    raise TypeError("objectArray: the official checker ends here")
