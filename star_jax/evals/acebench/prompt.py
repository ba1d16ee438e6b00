"""What the official harness asks: an entry → a system and a user message.

The tools stand in the system message as Python prints a list of dicts; the answer is text, there is
no channel for tool calls. The English texts come along (prompt_en.json). The Chinese ones do not:
`read_templates` takes them from a checkout of ACEBench.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from star_jax.evals.acebench.data import Entry, Language

# The names of the texts in a checkout, without the language that they end in.
_NAMES = {
    "normal": "SYSTEM_PROMPT_FOR_NORMAL_DATA",
    "preference": "SYSTEM_PROMPT_FOR_PREFERENCE_DATA",
    "user": "USER_PROMPT",
}


@dataclass(frozen=True)
class Templates:
    """The texts of one language, with {time}, {profile}, {function} and {question} to fill in."""

    language: str
    normal: str
    preference: str
    user: str


def messages(entry: Entry, templates: Templates | None = None) -> list[dict[str, str]]:
    """The system and the user message for an entry, to the letter."""
    templates = templates or _bundled(entry.language)
    if templates.language != entry.language:
        raise ValueError(
            f"entry {entry.id} is in {entry.language!r}, the templates in {templates.language!r}: "
            f"read those of {entry.language!r}"
        )
    if "preference" in (entry.category or entry.id):
        system = templates.preference.format(profile=entry.profile, function=entry.tools)
    else:
        system = templates.normal.format(time=entry.time, function=entry.tools)
    user = templates.user.format(question=entry.question)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


@cache
def _bundled(language: str) -> Templates:
    if language != "en":
        raise ValueError(
            f"the prompts in {language!r} do not come along: "
            f"pass templates=read_templates(checkout, {language!r})"
        )
    texts = json.loads((Path(__file__).parent / "prompt_en.json").read_text("utf-8"))
    return Templates("en", **{name: "\n".join(texts[name]) for name in _NAMES})


def read_templates(root: str | Path, language: Language) -> Templates:
    """The texts of a checkout. Its file is parsed, not run."""
    path = Path(root) / "model_inference" / f"prompt_{language}.py"
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: give the root of a checkout of ACEBench")
    try:
        body = ast.parse(path.read_text("utf-8")).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: is no Python ({error}): fetch the file again") from error
    texts = {}
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(str(text))):
                texts[name] = text
    wanted = {name: f"{spelled}_{language.upper()}" for name, spelled in _NAMES.items()}
    if absent := [spelled for spelled in wanted.values() if spelled not in texts]:
        raise ValueError(f"{path}: does not define {', '.join(absent)}: fetch the file again")
    return Templates(language, **{name: texts[spelled] for name, spelled in wanted.items()})
