"""Libraries, courses, sums: a domain that `train` never sees."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "study", is_held=True)

APIS = (
    _api(
        "borrow lend check_out",
        "library_book volume book",
        about="borrows a book from the library / lends a volume",
        asks="borrow the book / check out the volume // take home the book",
        takes=(
            need("title book", k.TITLE, "which book", "called {}"),
            need("card member", k.CODE, "library card", "on the card with code {}"),
            may("weeks duration", k.whole(2, 8), "for how many weeks", "for {} weeks"),
        ),
        gives=(result("due return_by", k.DATE),),
    ),
    _api(
        "enroll join sign_up",
        "course class lecture",
        about="enrolls a student in a course / signs up for a class",
        asks="enroll in the course / sign up for the class // get a place in the lecture",
        takes=(
            need("topic course", k.TOPIC, "what is taught", "about {} / on {}"),
            need("level grade", k.one_of("beginner", "middle", "expert"), "level", "at {} level"),
            may("evening late", k.yes_no("in the evening", "in the daytime"), "evening class"),
            may("student name", k.PERSON, "who learns", "for {}"),
        ),
        gives=(result("room place", k.CODE), result("day weekday", k.DAY)),
    ),
    _api(
        "solve compute find",
        "triangle hypotenuse side",
        about="third side of a right triangle / solves a triangle",
        asks="solve the triangle / compute the hypotenuse // find the missing side",
        takes=(
            need("side_a first", k.decimal(1, 40), "one short side", "with one side of {}"),
            need("side_b second", k.decimal(1, 40), "other short side", "and another side of {}"),
        ),
        gives=(result("hypotenuse length", k.decimal(2, 60)),),
    ),
    _api(
        "find get ask_for",
        "tutor teacher coach",
        about="finds a tutor for a subject / private teacher",
        asks="find a tutor / look for a private teacher // get somebody to teach me",
        takes=(
            need("subject topic", k.TOPIC, "subject to learn", "for {}"),
            may("languages tongues", k.many(k.LANGUAGE), "languages spoken", "speaking {}"),
            may("max_fee price", k.decimal(10, 90), "fee per hour", "below {} an hour"),
        ),
        gives=(result("tutor teacher", k.PERSON), result("fee hourly", k.decimal(10, 80))),
    ),
    _api(
        "create make start",
        "study_group circle team",
        about="starts a study group / brings students together",
        asks="create a study group / start a learning circle // bring students together",
        takes=(
            need("members students", k.many(k.FRIEND), "who takes part", "with {}"),
            need(
                "slot meeting",
                k.record("slot", "{} at {}", day_or_weekday=k.DAY, time_or_hour=k.TIME),
                "when they meet",
                "every {}",
            ),
        ),
        gives=(result("group number", k.whole(10, 99)),),
    ),
    _api(
        "get check show",
        "exam_grade test_mark result",
        about="grade of an exam / what mark a student got",
        asks="get the exam grade / check the mark // learn how the test went",
        takes=(
            need("student pupil", k.PERSON, "whose exam", "of {} / for {}"),
            need("exam test", k.TOPIC, "subject of the exam", "in {}"),
        ),
        gives=(result("grade mark", k.decimal(1, 6)), result("rank place", k.whole(1, 40))),
    ),
)
