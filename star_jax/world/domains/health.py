"""Doctors, sport, sleep: a domain that `train` never sees."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "health", is_held=True)

APIS = (
    _api(
        "book request get",
        "checkup doctor_visit consultation",
        about="books a visit to a doctor / requests a consultation",
        asks="book a checkup / request a doctor visit // see a physician",
        takes=(
            need("doctor physician", k.PERSON, "which doctor", "with {}"),
            need("date visit_date", k.DATE, "date of the visit", "on {}"),
            may("video remote", k.yes_no("by video", "in person"), "talk over video"),
        ),
        gives=(result("visit visit_code", k.CODE), result("time starts", k.TIME)),
    ),
    _api(
        "log record track",
        "workout exercise training",
        about="records a workout / logs how long somebody trained",
        asks="log a workout / record an exercise // put down my training",
        takes=(
            need(
                "sport activity", k.one_of("running", "rowing", "boxing", "yoga"), "sport", "of {}"
            ),
            need("minutes duration", k.whole(5, 120), "minutes", "lasting {} minutes"),
            may("distance km", k.decimal(1, 40), "distance in km", "over {} km"),
        ),
        gives=(result("calories burned", k.whole(50, 900)),),
    ),
    _api(
        "compute get estimate",
        "body_mass bmi mass_index",
        about="body mass index of a person / relates weight to height",
        asks="compute the body mass index / estimate the body mass // relate weight and height",
        takes=(
            need("weight kilograms", k.decimal(40, 120), "weight in kg", "for a weight of {} kg"),
            need("height centimeters", k.whole(140, 210), "height in cm", "and a height of {} cm"),
        ),
        gives=(result("index bmi", k.decimal(17, 40)),),
    ),
    _api(
        "find locate search",
        "pharmacy drugstore chemist",
        about="finds a pharmacy / where to buy medicine in a city",
        asks="find a pharmacy / locate a drugstore // show where medicine is sold",
        takes=(
            need("city town", k.CITY, "which city", "in {}"),
            may("open_at time", k.TIME, "must be open then", "open at {}"),
            may(
                "delivers delivery", k.yes_no("with delivery", "without delivery"), "brings it home"
            ),
        ),
        gives=(result("name pharmacy", k.PERSON), result("minutes away", k.whole(2, 40))),
    ),
    _api(
        "schedule plan set",
        "medicine pills medication",
        about="plans when to take a medicine / schedule of pills",
        asks="schedule the medicine / plan the pills // arrange the medication",
        takes=(
            need(
                "dose portion",
                k.record(
                    "dose",
                    "{} mg {}",
                    amount_or_mg=k.whole(5, 500),
                    period_or_rhythm=k.one_of("daily", "weekly"),
                ),
                "how much and how often",
                "of {}",
            ),
            need("days weekdays", k.many(k.DAY), "on which days", "on {}"),
            may("patient for_person", k.PERSON, "who takes it", "for {}"),
        ),
        gives=(result("plan plan_code", k.CODE),),
    ),
    _api(
        "analyze get rate",
        "sleep night rest",
        about="analyzes how somebody slept / quality of sleep in a night",
        asks="analyze the sleep / rate the night // judge how I rested",
        takes=(
            need("date night_of", k.DATE, "which night", "on {} / of {}"),
            may(
                "stage phase",
                k.one_of("deep", "light", "dream"),
                "phase of sleep",
                "in the {} phase",
            ),
        ),
        gives=(result("hours slept", k.decimal(3, 10)), result("score quality", k.whole(20, 99))),
    ),
)
