"""All APIs of the world: ten domains, two of which are held back whole."""

from __future__ import annotations

from star_jax.world.api import Api
from star_jax.world.domains import (
    calendar,
    food,
    health,
    home,
    media,
    money,
    shopping,
    study,
    travel,
    weather,
)

DOMAINS = (weather, travel, food, media, calendar, shopping, money, home)
HELD_DOMAINS = (health, study)


def apis(*, held_domains: bool = False) -> tuple[Api, ...]:
    """The APIs of the domains that are trained on, or of those that are not."""
    modules = HELD_DOMAINS if held_domains else DOMAINS
    return tuple(each for module in modules for each in module.APIS)
