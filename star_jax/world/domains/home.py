"""A house that listens: lights, heating, doors, machines."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "home")
_ROOMS = ("kitchen", "bedroom", "bathroom", "hall", "office", "garage", "cellar")

APIS = (
    _api(
        "set dim adjust",
        "lights lamps lighting",
        about="sets the lights of a room / makes a room bright or dark",
        asks="set the lights / adjust the lamps // change the lighting",
        takes=(
            need("room place", k.one_of(*_ROOMS), "which room", "in the {} / for the {}"),
            need("brightness level", k.whole(1, 100), "percent of full light", "to {} percent"),
            may(
                "color tone",
                k.one_of("warm", "cold", "red", "blue"),
                "color of the light",
                "in {} tone",
            ),
        ),
        gives=(result("watts power", k.decimal(2, 60)),),
    ),
    _api(
        "set change regulate",
        "heating thermostat temperature",
        about="sets how warm a room is / regulates the heating",
        asks="set the heating / regulate the thermostat // get the warmth right",
        takes=(
            need("room zone", k.one_of(*_ROOMS), "which room", "in the {} / for the {}"),
            need("degrees temperature", k.decimal(15, 26), "degrees celsius", "to {} degrees"),
            may("until end", k.TIME, "when to stop", "until {}"),
        ),
        gives=(result("minutes ready_in", k.whole(3, 40)),),
    ),
    _api(
        "lock close secure",
        "door gate entrance",
        about="locks a door / secures an entrance of the house",
        asks="lock the door / secure the entrance // shut the gate",
        takes=(
            need(
                "door which",
                k.one_of("front", "back", "garage", "garden"),
                "which door",
                "at the {}",
            ),
            may("alarm guarded", k.yes_no("with the alarm on", "with the alarm off"), "alarm on"),
            may("except_for guests", k.many(k.FRIEND), "who may still enter", "except for {}"),
        ),
        gives=(result("locked_at since", k.TIME),),
    ),
    _api(
        "start run launch",
        "washing laundry washer",
        about="starts the washing machine / washes clothes",
        asks="start the washing machine / run the laundry // get the clothes washed",
        takes=(
            need(
                "program cycle",
                k.one_of("cotton", "wool", "silk", "quick"),
                "program",
                "on the {} program",
            ),
            may("temperature heat", k.whole(20, 90), "water in celsius", "at {} degrees"),
            may("delay wait", k.whole(2, 12), "hours to wait", "in {} hours"),
            may("spin dry", k.yes_no("with spinning", "without spinning"), "spin at the end"),
        ),
        gives=(result("minutes duration", k.whole(20, 150)),),
    ),
    _api(
        "heat warm start",
        "oven stove baker",
        about="heats the oven / warms the oven for a dish",
        asks="heat the oven / warm up the oven // get the oven hot",
        takes=(
            need("degrees temperature", k.whole(100, 250), "how hot", "to {} degrees"),
            may("dish meal", k.DISH, "what is baked", "for {}"),
            may("mode air", k.one_of("grill", "fan", "steam"), "how it heats", "in {} mode"),
        ),
        gives=(result("ready_at time", k.TIME),),
        is_held=True,
    ),
    _api(
        "clean vacuum sweep",
        "rooms floors floor",
        about="sends the robot to clean rooms / vacuums the floor",
        asks="clean the floor / send the cleaning robot // get the dust out",
        takes=(
            need("rooms places", k.many(k.one_of(*_ROOMS)), "which rooms", "in {} / of {}"),
            may("day weekday", k.DAY, "which day", "on {}"),
            may("quiet silent", k.yes_no("quietly", "at full power"), "make little noise"),
        ),
        gives=(
            result("area square_meters", k.decimal(5, 90)),
            result("battery charge", k.whole(10, 99)),
        ),
    ),
)
