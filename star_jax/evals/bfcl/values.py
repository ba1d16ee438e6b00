"""Whether a value of the right type is one of those that an answer accepts.

    value, Kind, accepted values → Verdict

Strings are compared without case and without ` ,./-_*^`, at the top of a parameter and inside one
list or one dict of it; what lies deeper is compared as it stands. `""` among the accepted values
says that a parameter may be absent. The official checker reads it as a value as well, with
surprising results: as a list it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.kinds import Kind, is_variable
from star_jax.evals.bfcl.wrong import RIGHT, show, wrong
from star_jax.evals.verdict import Verdict

UNHEEDED = str.maketrans({letter: None for letter in " ,./-_*^"} | {"'": '"'})


def check_value(value: Any, kind: Kind, accepted: Sequence[Any]) -> Verdict:
    if not is_variable(kind, accepted):
        if kind.type is dict:
            return check_dict(value, accepted)
        if kind.type is list and kind.items is dict:
            return check_dicts(value, accepted)
        if kind.type is list:
            return check_list(value, accepted)
        if kind.type is str:
            return check_string(value, accepted)
    # 1 == 1.0 == True, for a number.
    return RIGHT if value in accepted else none_of("value_error:others", value, accepted)


def none_of(error_type: str, value: Any, accepted: Any) -> Verdict:
    return wrong(error_type, f"{show(value)} is none of {show(accepted)}")


def plain(value: Any) -> Any:
    """A string as it is compared; anything else as it is."""
    return value.translate(UNHEEDED).lower() if isinstance(value, str) else value


def check_string(value: str, accepted: Sequence[Any]) -> Verdict:
    if plain(value) in [plain(option) for option in elements(accepted) if isinstance(option, str)]:
        return RIGHT
    return none_of("value_error:string", value, accepted)


def check_list(value: Sequence[Any], accepted: Sequence[Any]) -> Verdict:
    found = [plain(item) for item in value]
    if found in [[plain(item) for item in elements(option)] for option in elements(accepted)]:
        return RIGHT
    return none_of("value_error:list/tuple", value, accepted)


def elements(option: Any) -> list[Any]:
    """What an accepted value holds if it is gone through by number, as the official checker does:
    a string its letters, and "" nothing."""
    return [option[index] for index in range(len(option))]


def check_dict(value: Mapping[str, Any], accepted: Sequence[Any]) -> Verdict:
    """Right if one of the accepted dicts lets it pass; else what the last of them found."""
    verdict = wrong("dict_checker:unclear", f"no dict is accepted, got {show(value)}")
    for option in accepted:
        if option != "":
            verdict = check_entries(value, option)
        if verdict.valid:
            break
    return verdict


def check_entries(value: Any, option: Mapping[str, Any]) -> Verdict:
    if not isinstance(value, dict):
        raise Crash("AttributeError")  # an element that is no dict, where "" let it pass the types
    verdict = check_present(value, option)
    # A missing key is what an answer is called wrong for, whatever else is.
    for key, choices in option.items():
        if key not in value and "" not in choices:
            return wrong("value_error:dict_key", f"missing key {show(key)}")
    return verdict


def check_present(value: Mapping[str, Any], option: Mapping[str, Any]) -> Verdict:
    for key, entry in value.items():
        if key not in option:
            return wrong("value_error:dict_key", f"unexpected key {show(key)}")
        if plain(entry) not in [plain(item) for item in elements(option[key])]:
            return none_of("value_error:dict_value", entry, option[key])
    return RIGHT


def check_dicts(value: Sequence[Any], accepted: Sequence[Any]) -> Verdict:
    """A list of dicts, pair by pair: right if one of the accepted lists lets it pass."""
    verdict = wrong("list_dict_checker:unclear", f"no list is accepted, got {show(value)}")
    for option in accepted:
        verdict = check_pairs(value, option)
        if verdict.valid:
            break
    return verdict


def check_pairs(value: Sequence[Any], option: Any) -> Verdict:
    if len(value) != len(option):
        error = f"expected {len(option)} dicts, got {len(value)}"
        return wrong("value_error:list_dict_count", error)
    for index, item in enumerate(value):
        verdict = check_dict(item, [option[index]])
        if not verdict.valid:
            return verdict
    return RIGHT
