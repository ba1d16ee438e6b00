"""Trips: flights, trains, hotels, cars."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "travel")

APIS = (
    _api(
        "search find list",
        "flights air_tickets planes",
        about="finds flights between two cities / searches plane tickets",
        asks="find flights / search for a plane ticket // see which planes go",
        takes=(
            need(
                "origin departure_city start",
                k.CITY,
                "where the flight starts",
                "from {} // out of {}",
            ),
            need(
                "destination arrival_city goal", k.CITY, "where it lands", "to {} // bound for {}"
            ),
            may("date departure_date", k.DATE, "day of departure", "on {} / leaving on {}"),
            may(
                "cabin seat_class",
                k.one_of("economy", "business", "first class"),
                "class of the seat",
                "in {} // seated in {}",
            ),
        ),
        gives=(result("flight flight_code", k.CODE), result("price fare", k.whole(60, 900))),
    ),
    _api(
        "book reserve order",
        "hotel room lodging",
        about="books a hotel room / reserves a room for some nights",
        asks="book a hotel room / reserve a room // get me a place to sleep",
        takes=(
            need("city town location", k.CITY, "city of the hotel", "in {}"),
            need("nights duration", k.whole(2, 12), "how many nights", "for {} nights"),
            may("guests people", k.whole(2, 5), "number of guests", "for {} guests"),
            may(
                "breakfast meal",
                k.yes_no("with breakfast", "without breakfast"),
                "breakfast included",
            ),
        ),
        gives=(result("booking reservation", k.CODE), result("total price", k.whole(80, 999))),
    ),
    _api(
        "cancel drop revoke",
        "booking reservation trip",
        about="cancels a booking / revokes a reservation by its code",
        asks="cancel the booking / drop the reservation // call off the trip",
        takes=(
            need("code booking_code reference", k.CODE, "code of the booking", "with code {}"),
            may(
                "reason cause",
                k.one_of("illness", "price", "weather", "plans"),
                "why",
                "because of {}",
            ),
        ),
        gives=(result("refund amount_back", k.decimal(10, 300)),),
    ),
    _api(
        "rent hire lease",
        "car vehicle automobile",
        about="rents a car / hires a vehicle for some days",
        asks="rent a car / hire a vehicle // get hold of a car",
        takes=(
            need("city pickup_city place", k.CITY, "where to pick it up", "in {} / at {}"),
            need("days length", k.whole(2, 14), "for how many days", "for {} days"),
            may(
                "kind car_type",
                k.one_of("small", "family", "electric", "sport"),
                "type",
                "of type {}",
            ),
            may("insured insurance", k.yes_no("with insurance", "without insurance"), "insured"),
        ),
        gives=(result("plate car_code", k.CODE), result("daily_rate rate", k.decimal(20, 90))),
    ),
    _api(
        "list get show",
        "trains departures railways",
        about="departures of trains from a station / timetable of a railway station",
        asks="list the trains / show the train departures // read me the timetable",
        takes=(
            need("station from_station stop", k.CITY, "the station", "from {} / leaving {}"),
            need("day weekday", k.DAY, "day of travel", "on {}"),
            may("after earliest", k.TIME, "not before this time", "after {}"),
        ),
        gives=(result("next_train leaves_at", k.TIME), result("platform track", k.whole(1, 20))),
        is_held=True,
    ),
    _api(
        "add register enter",
        "passenger traveler companion",
        about="adds a traveler to a booking / registers another passenger",
        asks="add a passenger / register a traveler // put another person on the trip",
        takes=(
            need(
                "passenger person",
                k.record(
                    "person", "{} aged {}", name_or_full_name=k.PERSON, age_or_years=k.whole(13, 80)
                ),
                "who travels",
                "called {} / named {}",
            ),
            need(
                "booking reference code",
                k.CODE,
                "code of the booking",
                "to the booking with code {}",
            ),
            may(
                "extras services",
                k.many(k.one_of("meal", "bag", "window", "wifi")),
                "extras",
                "with {}",
            ),
        ),
        gives=(result("seat place", k.CODE),),
    ),
)
