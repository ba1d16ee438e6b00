"""Cooking, restaurants, groceries."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "food")

APIS = (
    _api(
        "find search get",
        "recipe dish cooking_plan",
        about="finds a recipe for a dish / tells how to cook something",
        asks="find a recipe / look for cooking instructions // dig up a recipe",
        takes=(
            need("dish meal name", k.DISH, "what to cook", "for {} // to make {}"),
            may("servings portions", k.whole(2, 10), "for how many people", "serving {} people"),
            may(
                "diet style",
                k.one_of("vegan", "vegetarian", "low salt", "halal"),
                "diet",
                "that is {}",
            ),
        ),
        gives=(result("minutes cooking_time", k.whole(10, 90)), result("main_part base", k.FOOD)),
    ),
    _api(
        "book reserve get",
        "table restaurant_table seat",
        about="books a table at a restaurant / reserves seats to eat out",
        asks="book a table / reserve a table // get us seats",
        takes=(
            need("restaurant venue place", k.TITLE, "name of the restaurant", "at {}"),
            need("people party_size guests", k.whole(2, 12), "number of people", "for {} people"),
            may("time at_time", k.TIME, "when, as HH:MM", "around {}"),
            may("outside terrace", k.yes_no("outside", "inside"), "sit outside", "sitting {}"),
        ),
        gives=(result("table table_number", k.whole(1, 40)),),
    ),
    _api(
        "order send deliver",
        "meal food delivery",
        about="orders a meal to an address / has food delivered",
        asks="order a meal / have food delivered // get something to eat sent",
        takes=(
            need("dish item meal", k.DISH, "what to eat", "of {} / consisting of {}"),
            need(
                "address deliver_to",
                k.record(
                    "address", "{} {}", number_or_house=k.whole(1, 99), street_or_road=k.STREET
                ),
                "where to bring it",
                "to {}",
            ),
            may("tip extra", k.decimal(1, 9), "tip for the driver", "with a tip of {}"),
        ),
        gives=(result("minutes arrives_in", k.whole(15, 70)), result("driver courier", k.COMPANY)),
    ),
    _api(
        "make create write",
        "shopping_list groceries list",
        about="writes a list of groceries / notes what to buy to cook",
        asks="make a shopping list / write down groceries // jot down what to buy",
        takes=(
            need("items ingredients products", k.many(k.FOOD), "what to buy", "with {}"),
            may("store shop", k.COMPANY, "where to buy", "at {}"),
            may("day weekday", k.DAY, "when to buy", "for {}"),
        ),
        gives=(result("count entries", k.whole(2, 9)),),
    ),
    _api(
        "count compute get",
        "calories energy nutrition",
        about="counts the calories of a dish / energy of a portion of food",
        asks="count the calories / compute the energy // work out the calories",
        takes=(
            need("dish food", k.DISH, "the food", "of {}"),
            need("grams weight", k.whole(50, 900), "weight in grams", "for {} grams"),
        ),
        gives=(
            result("calories energy", k.whole(80, 990)),
            result("fat fat_grams", k.decimal(1, 40)),
        ),
        is_held=True,
    ),
    _api(
        "find rate list",
        "restaurants eateries diners",
        about="lists good restaurants of a city / where to eat in a town",
        asks="list restaurants / find places to eat // name good eateries",
        takes=(
            need("city town", k.CITY, "in which city", "in {} / around {}"),
            may(
                "cuisine kitchen",
                k.one_of("thai", "greek", "indian", "mexican"),
                "cuisine",
                "serving {} food",
            ),
            may("min_rating stars", k.decimal(2, 5), "lowest rating", "rated {} or more"),
        ),
        gives=(result("best top", k.TITLE), result("rating stars", k.decimal(3, 5))),
    ),
)
