"""Music, films, books, news."""

from functools import partial

from star_jax.world import kinds as k
from star_jax.world.api import api, may, need, result

_api = partial(api, "media")

APIS = (
    _api(
        "play start run",
        "song music track",
        about="plays a song / starts a piece of music",
        asks="play the song / start the track // put on the tune",
        takes=(
            need("title song name", k.TITLE, "name of the song", "called {} / with the title {}"),
            may("artist singer", k.PERSON, "who sings", "by {}"),
            may("repeat loop", k.yes_no("on repeat", "only once"), "play it again and again"),
            may("volume loudness", k.whole(1, 10), "from 1 to 10", "at volume {}"),
        ),
        gives=(result("seconds length", k.whole(90, 400)),),
    ),
    _api(
        "create make build",
        "playlist mix song_list",
        about="makes a playlist of songs / builds a list of music",
        asks="create a playlist / make a mix // put together a mix",
        takes=(
            need("name title", k.TITLE, "name of the playlist", "named {}"),
            need("artists singers", k.many(k.PERSON), "whose songs", "with songs by {}"),
            may("mood feeling", k.one_of("calm", "happy", "sad", "wild"), "mood", "that sounds {}"),
        ),
        gives=(result("songs size", k.whole(5, 60)),),
    ),
    _api(
        "find search get",
        "showtimes movie_times screenings",
        about="when a film is shown / cinema times of a movie",
        asks="find showtimes / look up the cinema times // get the screenings",
        takes=(
            need("movie film title", k.TITLE, "name of the film", "of {} / for {}"),
            need("city town", k.CITY, "where", "in {}"),
            may("day weekday", k.DAY, "which day", "on {}"),
            may("format screen", k.one_of("2d", "3d", "imax"), "kind of screen", "in {}"),
        ),
        gives=(result("starts first_show", k.TIME), result("price ticket", k.decimal(5, 20))),
    ),
    _api(
        "rate score review",
        "movie film picture",
        about="gives a film a number of stars / rates a movie",
        asks="rate the movie / score the film // leave stars for the picture",
        takes=(
            need("title movie", k.TITLE, "which film", "called {}"),
            need("stars score points", k.decimal(1, 5), "stars from 1 to 5", "with {} stars"),
            may("public visible", k.yes_no("publicly", "privately"), "others may see it"),
        ),
        gives=(result("average mean", k.decimal(1, 5)),),
    ),
    _api(
        "get read fetch",
        "news headlines articles",
        about="fetches news about a topic / latest headlines",
        asks="get the news / read me the headlines // catch me up",
        takes=(
            need("topic subject", k.TOPIC, "what about", "about {} / on {}"),
            may("language tongue", k.LANGUAGE, "language of the news", "in {}"),
            may("count limit", k.whole(1, 10), "how many", "limited to {}"),
        ),
        gives=(result("headline top_story", k.TITLE), result("source author", k.PERSON)),
        is_held=True,
    ),
    _api(
        "find get look_up",
        "book_author writer book_info",
        about="tells who wrote a book / author and pages of a book",
        asks="find the author of a book / look up who wrote it // name the writer of a book",
        takes=(
            need("book title", k.TITLE, "name of the book", "called {}"),
            may("edition version", k.whole(1, 9), "number of the edition", "in edition {}"),
        ),
        gives=(result("author writer", k.PERSON), result("pages length", k.whole(90, 900))),
    ),
)
