"""Invented APIs, without end: they make a young model read its prompt, not remember tools.

    row(seed, index) → a row as `generate.row` gives it, about tools that exist in no other row

The splits have a few dozen APIs, each with a few phrases; a model that sees nothing else learns
these by heart and is lost in front of another one. Here names, parameters, phrases and choices are
drawn for each row, so that nothing but the schemas tells what is asked for. Only pre-training uses
this: no split holds such a row.
"""

from __future__ import annotations

from star_jax.world import cases, domains, generate, words
from star_jax.world import kinds as k
from star_jax.world.api import Api, Param, Phrases, Result, phrases
from star_jax.world.cases import Pool
from star_jax.world.draw import Draw
from star_jax.world.generate import Row
from star_jax.world.kinds import Kind

APIS = 7  # of a row's pool
KNOWN = 0.3  # of pools, those that the known APIs stand in, too

# Verbs that mean much the same: a name has one of them, a request another one now and then.
_VERBS = tuple(
    words.split(group)
    for group in (
        "get fetch retrieve obtain",
        "find search locate seek",
        "check inspect verify examine",
        "create make build produce",
        "add insert attach append",
        "remove delete drop erase",
        "update change modify edit",
        "start launch begin open",
        "stop halt end close",
        "send submit deliver post",
        "book reserve order request",
        "cancel abort revoke void",
        "count tally measure compute",
        "compare rank sort rate",
        "list show print report",
        "lock block seal freeze",
        "move shift transfer carry",
        "pay settle charge refund",
        "plan schedule arrange prepare",
        "watch follow track observe",
        "mix blend stir join",
        "clean wash polish wipe",
        "paint color draw sketch",
        "turn rotate spin flip",
        "save store keep archive",
        "call ring notify alert",
        "mark tag label flag",
    )
)
_NOUNS = words.split(
    "account ticket parcel folder engine signal report window garden route meter bridge "
    "badge card catalog channel circuit contract counter crate cycle device draft fence "
    "filter fleet form frame gate grid guest helper island journal kit label layer ledger "
    "list log map marker menu model module note offer pack page panel path permit pipe "
    "plan plate pool port poster profile project pump queue quota radio record region "
    "relay robot roster sample scene score screen sensor shelf shift slot socket space "
    "spot stage stamp station stock storage switch table tank target team tile token tool "
    "tower trail tray unit valve vault vehicle volume wheel zone"
)
_ENDS = ("", "", "", " for someone", " of a place", " by its details", " when asked")
_ABOUT = ("{}s the {}", "{} a {}", "used to {} the {}", "{} any {} there is", "can {} one {}")
_ASKS = ("{} the {}", "{} my {}", "{} a {}", "{} that {}", "{} our {}", "{} one {}")
_NAMED = (
    "with {0} {1}",
    "with the {0} {1}",
    "{0} {1}",
    "the {0} being {1}",
    "whose {0} is {1}",
    "and {0} {1}",
    "by {0} {1}",
    "having {1} as {0}",
    "using {1} for the {0}",
)
_PLAIN = ("in {}", "for {}", "with {}", "on {}", "to {}", "from {}", "at {}", "as {}", "about {}")
_TEXTS = (
    *(k.PERSON, k.FRIEND, k.CITY, k.STREET, k.DISH, k.FOOD, k.PRODUCT, k.TOPIC, k.LANGUAGE),
    *(k.DAY, k.CODE, k.TITLE, k.COMPANY, k.DATE, k.TIME, k.EMAIL),
)


def row(seed: int, index: int) -> Row:
    draw = Draw("star_jax.world.foundry", generate.VERSION, seed, index)
    case = draw.weighted(cases.WEIGHTS)
    made = tuple(api(draw) for _ in range(APIS))
    known = tuple(one for one in domains.apis() if not one.is_held)
    # Some pairs of tools have to fit each other, and invented ones seldom do.
    is_mixed = case == "multi_step" or draw.chance(KNOWN)
    pool = Pool(made, made + known if is_mixed else made, is_new=False)
    return generate.dressed(
        f"foundry-{seed}-{index}", "foundry", case, cases.make(case, draw, pool)
    )


def api(draw: Draw) -> Api:
    """One thing that a tool might do."""
    verbs = tuple(draw.shuffled(draw.pick(_VERBS))[: draw.whole(1, 3)])
    nouns = tuple(_noun(draw) for _ in range(draw.whole(1, 2)))
    takes = _takes(draw)
    told = [draw.pick(_ABOUT).format(verbs[0], spaced(nouns[0])) for _ in range(2)]
    asks = [draw.pick(_ASKS).format(draw.pick(verbs), spaced(draw.pick(nouns))) for _ in range(2)]
    return Api(
        domain=f"d{draw.whole(0, 1)}",
        verbs=verbs,
        nouns=nouns,
        about=tuple(f"{one}{draw.pick(_ENDS)}" for one in told),
        asks=Phrases(tuple(asks), tuple(asks)),
        takes=takes,
        gives=tuple(Result((_word(draw),), _kind(draw)) for _ in range(draw.whole(1, 2))),
        is_held=False,
    )


def spaced(name: str) -> str:
    return name.replace("_", " ")


def _word(draw: Draw) -> str:
    """A noun, or a word that nobody has seen."""
    if draw.chance(0.25):
        return words.invented(draw)
    return draw.pick(_NOUNS) if draw.chance(0.6) else draw.pick(words.NOUN)


def _noun(draw: Draw) -> str:
    first = _word(draw)
    return f"{first}_{_word(draw)}" if draw.chance(0.35) else first


def _takes(draw: Draw) -> tuple[Param, ...]:
    """One to four parameters; at least one has to be given and is no flag."""
    count = draw.weighted({1: 3, 2: 4, 3: 4, 4: 2})
    found: dict[str, Param] = {}
    while len(found) < count:
        is_first = not found
        made = _param(draw, is_required=is_first or draw.chance(0.45), may_flag=not is_first)
        if made.names[0] not in found and not _is_like(made, list(found.values())):
            found[made.names[0]] = made
    return tuple(found.values())


def _is_like(made: Param, others: list[Param]) -> bool:
    """Whether two would be told apart by nothing: neither is mentioned by its name."""
    return any(
        one.kind.noun == made.kind.noun
        and "{}" in (one.says.known[0][-2:], made.says.known[0][-2:])
        and one.says.known[0].split()[0] == made.says.known[0].split()[0]
        for one in others
    )


def _param(draw: Draw, *, is_required: bool, may_flag: bool) -> Param:
    name = _word(draw)
    if may_flag and draw.chance(0.12):
        kind = k.yes_no(f"with {name}", f"without {name}")
        return Param(
            (f"with_{name}", name), kind, (f"whether {name} is wanted",), phrases("{}"), False
        )
    kind = _kind(draw)
    if draw.chance(0.4) and " " not in kind.noun:
        name = kind.noun  # as the usual tool has it
    names = (name,) if draw.chance(0.5) else (name, f"{_word(draw)}_{name}")
    said = spaced(name)
    if draw.chance(0.35) and kind.noun == name:
        says = draw.pick(_PLAIN)
    else:
        says = draw.pick(_NAMED).format(said, "{}")
    about = (f"the {said}", f"{said} of it", f"which {said}")
    return Param(names, kind, about, Phrases((says,), (says,)), is_required)


def _kind(draw: Draw) -> Kind:
    match draw.weighted(
        {"text": 10, "whole": 4, "decimal": 2, "choice": 4, "many": 2, "record": 1}
    ):
        case "whole":
            low = draw.pick((1, 2, 10, 100))
            return k.whole(low, low * draw.pick((9, 20)))
        case "decimal":
            return k.decimal(1, draw.pick((20, 300, 900)), "amount")
        case "choice":
            source = draw.pick((words.ADJECTIVE, words.NOUN, _NOUNS))
            options = draw.some(source, draw.whole(3, 5))
            if draw.chance(0.3):
                options[0] = words.invented(draw)
            return k.one_of(*options)
        case "many":
            return k.many(draw.pick(_TEXTS))
        case "record":
            first, second = draw.some(_TEXTS, 2)
            parts = {first.noun: first, second.noun: second}
            return k.record("details", "{} and {}", **parts)
    return draw.pick(_TEXTS)
