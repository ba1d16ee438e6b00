"""Meetings, messages, reminders, contacts."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "calendar")

APIS = (
    _api(
        "schedule plan arrange",
        "meeting appointment session",
        about="plans a meeting with people / puts an appointment in the calendar",
        asks="schedule a meeting / plan an appointment // set up a session",
        takes=(
            need("people attendees guests", k.many(k.FRIEND), "who takes part", "with {}"),
            need("day weekday", k.DAY, "which day", "on {}"),
            may("time start", k.TIME, "when, as HH:MM", "at {}"),
            may("topic subject", k.TOPIC, "what it is about", "about {}"),
        ),
        gives=(result("room place", k.CODE), result("meeting_id number", k.whole(100, 999))),
    ),
    _api(
        "send write deliver",
        "message text note",
        about="sends a message to a person / writes somebody a short text",
        asks="send a message / write a note // drop a line",
        takes=(
            need("recipient receiver to", k.PERSON, "who gets it", "to {}"),
            need("text body content", k.NOTE, "what it says", 'saying "{}" / that says "{}"'),
            may("urgent important", k.yes_no("as urgent", "without hurry"), "is it urgent"),
        ),
        gives=(result("message_id number", k.whole(100, 999)),),
    ),
    _api(
        "set add create",
        "reminder nudge alarm",
        about="reminds of something at a time / sets a reminder",
        asks="set a reminder / remind me // make sure I remember",
        takes=(
            need(
                "text what task", k.NOTE, "what to be reminded of", 'that "{}" / with the text "{}"'
            ),
            need("time at", k.TIME, "when, as HH:MM", "at {}"),
            may("repeat every", k.one_of("daily", "weekly", "monthly"), "how often", "repeated {}"),
        ),
        gives=(result("reminder_id number", k.whole(10, 99)),),
    ),
    _api(
        "find get look_up",
        "contact phone_entry person",
        about="finds the address and phone of a person / looks up a contact",
        asks="look up the contact / find the entry // dig out the details",
        takes=(
            need("name person who", k.PERSON, "name of the person", "of {} / for {}"),
            may("company employer", k.COMPANY, "where the person works", "at {}"),
        ),
        gives=(result("email mail", k.EMAIL), result("code phone_code", k.CODE)),
    ),
    _api(
        "translate convert render",
        "text phrase sentence",
        about="translates a text / says a phrase in another language",
        asks="translate the text / turn the phrase // put the words",
        takes=(
            need("text phrase", k.NOTE, "what to translate", '"{}"'),
            need("language target_language", k.LANGUAGE, "into which language", "into {}"),
            may("formal polite", k.yes_no("formally", "casually"), "formal tone"),
        ),
        gives=(result("translation result", k.NOTE),),
        is_held=True,
    ),
    _api(
        "add save store",
        "birthday celebration anniversary",
        about="saves the birthday of a person / notes when somebody celebrates",
        asks="save the birthday / note the birthday // keep in mind the birthday",
        takes=(
            need(
                "person who",
                k.record(
                    "person", "{} from {}", name_or_full_name=k.PERSON, company_or_firm=k.COMPANY
                ),
                "whose birthday",
                "of {}",
            ),
            need("date day", k.DATE, "date of birth", "as {} / on {}"),
            may("days_before lead", k.whole(2, 9), "days of notice", "with {} days of notice"),
        ),
        gives=(result("entry number", k.whole(10, 99)),),
    ),
)
