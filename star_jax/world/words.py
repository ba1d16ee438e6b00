"""Words that values are made of, and words that do not exist."""

from __future__ import annotations

from star_jax.world.draw import Draw


def split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = split(
    "Ana Ben Carla Dmitri Elena Farid Greta Hugo Ines Jonas Kira Leo Maya Nils Olga Pavel Rosa "
    "Sami Tara Umar Vera Will Xenia Yara Zoe Amir Bella Chen Dora Emil Fiona Goran Hana Igor Julia "
    "Karim Lina Marco Nora Oscar Petra Quinn Rafael Sofia Tom Ursula Viktor Wanda Yusuf Zelda"
)
LAST = split(
    "Silva Meyer Rossi Novak Khan Larsen Costa Weber Tanaka Moreau Kovac Hansen Lopez Fischer "
    "Petrov Sato Bauer Lind Haas Kaya Marin Olsen Pinto Reyes Schulz Torres Ueda Vogel Wolf Zhang "
    "Adler Brandt Castro Dubois Evans Fontana Garcia Huber Ivanov Jensen"
)
CITY = split(
    "Rome Oslo Bern Lima Cairo Paris Quito Delhi Tokyo Accra Miami Porto Lyon Turin Genoa Kyoto "
    "Osaka Seoul Hanoi Dubai Perth Sydney Boston Denver Austin Dallas Madrid Lisbon Dublin London "
    "Berlin Hamburg Munich Vienna Prague Warsaw Athens Naples Milan Zagreb Sofia Riga Tallinn "
    "Nairobi Lagos Tunis Rabat Bogota Havana Santiago Toronto Ottawa Chicago Seattle Zürich Malmö"
)
STREET = split(
    "Oak Elm Mill Park Hill Lake River Church Station Garden Bridge Market King Queen Castle "
    "School Forest Harbor Sunset Spring"
)
ADJECTIVE = split(
    "red blue green silver golden silent broken hidden little bright dark early late lost wild "
    "frozen hollow gentle rapid narrow distant empty warm cold old new quiet loud sweet bitter"
)
NOUN = split(
    "river mountain garden window mirror bridge forest island harbor lantern shadow summer winter "
    "morning evening letter circle engine pilot sailor dancer doctor teacher hunter painter "
    "castle valley desert ocean thunder feather ladder basket candle needle button hammer kettle"
)
DISH = split(
    "pizza lasagna risotto paella ramen sushi curry goulash tacos falafel dumplings pancakes "
    "omelette lentil_soup apple_pie fish_stew rice_salad onion_tart bean_burger noodle_soup"
)
FOOD = split(
    "onions garlic basil tomatoes cheese mushrooms olives peppers spinach rice beans lentils eggs "
    "butter lemon ginger honey almonds potatoes carrots"
)
PRODUCT = split(
    "headphones backpack umbrella blender kettle keyboard monitor jacket sneakers camera tent "
    "bicycle helmet toaster lamp desk chair scarf wallet notebook printer speaker drill ladder"
)
TOPIC = split(
    "chess gardening robotics astronomy painting cooking history physics sailing climbing "
    "photography economics poetry geology knitting cycling archery ecology music chemistry"
)
LANGUAGE = split(
    "French German Spanish Italian Greek Polish Turkish Arabic Hindi Korean Japanese Swahili "
    "Finnish Danish Dutch Czech"
)
DAY = split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMBER = split("zero one two three four five six seven eight nine ten eleven twelve")

_ONSET = split("b d f g k l m n p r s t v z br dr gl kr pl st tr sh")
_VOWEL = split("a e i o u")
_CODA = ("", "", "", *split("n r l m k x s t"))


# Chance would make these, too, and they do mean something.
_NEVER = frozenset(
    split("dike fagot kike kikes nazi nazis negro negros penis pedo puta rape rapes")
)


def invented(draw: Draw) -> str:
    """A word that means nothing, such as zovek."""
    while True:
        syllables = [draw.pick(_ONSET) + draw.pick(_VOWEL) for _ in range(2)]
        word = "".join(syllables) + draw.pick(_CODA)
        if word not in _NEVER:
            return word


def listed(texts: list[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
