"""Weather, places and the sky."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "weather")

APIS = (
    _api(
        "get check fetch",
        "weather forecast conditions",
        about="tells the weather of a city / weather forecast for a place",
        asks="check the weather / look up the forecast // see what the sky has in store",
        takes=(
            need("city town place", k.CITY, "name of the city / which place", "in {} / for {}"),
            may("day weekday", k.DAY, "day of the week / which day", "on {} // come {}"),
            may(
                "unit scale",
                k.one_of("celsius", "fahrenheit", "kelvin"),
                "unit",
                "in {} / using {}",
            ),
        ),
        gives=(
            result("temperature degrees", k.whole(2, 35)),
            result("sky outlook", k.one_of("sunny", "cloudy", "rainy", "foggy")),
        ),
    ),
    _api(
        "get find read",
        "air_quality smog pollution",
        about="measures how clean the air is / air quality index of a city",
        asks="measure the air quality / find out how clean the air is // gauge the smog",
        takes=(
            need("city town area", k.CITY, "the city to measure", "in {} / around {}"),
            may(
                "pollutant gas",
                k.one_of("ozone", "dust", "carbon", "soot"),
                "what to measure",
                "for {}",
            ),
        ),
        gives=(result("index level", k.whole(10, 180)),),
    ),
    _api(
        "get compute find",
        "sunrise sun_times daylight",
        about="when the sun rises and sets / sunrise and sunset of a date",
        asks="find the sunrise / get the sun times // learn when the sun comes up",
        takes=(
            need("city town location", k.CITY, "where", "in {} / for {}"),
            need("date on_date", k.DATE, "calendar date", "on {} / for the date {}"),
            may("timezone zone", k.one_of("utc", "local"), "time zone of the answer", "in {} time"),
        ),
        gives=(result("sunrise rises_at", k.TIME), result("sunset sets_at", k.TIME)),
    ),
    _api(
        "set create add",
        "storm_alert weather_warning alarm",
        about="warns when the weather turns bad / sets an alert for strong wind or rain",
        asks="set a storm alert / create a weather warning // have me warned of bad weather",
        takes=(
            need("city town region", k.CITY, "city to watch", "for {} / in {}"),
            need(
                "wind_speed limit threshold", k.whole(20, 90), "wind speed in km/h", "above {} km/h"
            ),
            may("with_sound audible loud", k.yes_no("with sound", "without sound"), "play a sound"),
        ),
        gives=(result("alert_id number", k.whole(100, 999)),),
    ),
    _api(
        "measure compute get",
        "distance route_length way",
        about="how far two cities are apart / distance between places",
        asks="measure the distance / work out how far it is // tell how long the way is",
        takes=(
            need("origin start from_city", k.CITY, "where to begin", "from {} // starting in {}"),
            need("target goal to_city", k.CITY, "where to end", "to {} // ending in {}"),
            may("unit measure", k.one_of("miles", "meters", "leagues"), "unit of length", "in {}"),
        ),
        gives=(result("distance length", k.decimal(20, 900)),),
        is_held=True,
    ),
    _api(
        "find locate resolve",
        "address coordinates spot",
        about="latitude and longitude of an address / finds an address on the map",
        asks="locate the address / find the coordinates // pin down the spot",
        takes=(
            need(
                "address site",
                k.record(
                    "address",
                    "{} {} in {}",
                    number=k.whole(1, 99),
                    street=k.STREET,
                    city_or_town=k.CITY,
                ),
                "where it is",
                "at {} / of {}",
            ),
            may(
                "layers maps",
                k.many(k.one_of("roads", "rivers", "parks", "rails")),
                "layers",
                "with {}",
            ),
        ),
        gives=(
            result("latitude lat", k.decimal(10, 60)),
            result("longitude lon", k.decimal(5, 90)),
        ),
    ),
)
