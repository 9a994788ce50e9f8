"""The words the little world is made of. Order matters: the same seed must draw the same world."""

# ruff: noqa: SIM905 (lists of bare words are easier to read and to change than quoted ones)

from __future__ import annotations

PEOPLE = tuple(
    """Ana Ben Cara Dan Elif Finn Greta Hugo Ida Jonas Kira Leo Mara Nils Olga Paul Quinn Rosa Sven Tara Umar Vera
    Wim Xenia Yara Zoe Adam Bella Carl Dora Emil Flora Gus Hanna Ivan Julia Kurt Lena Max Nora Oskar Petra Ralf
    Sara Tom Ursula Viktor Wanda Yusuf Zita Amir Bruno Clara David Eva Felix Gina Hassan Irma Jakob Karl Linda
    Milo Nina Otto Pia Rita Simon Theo Una""".split()
)
# The rest of PEOPLE are met in notes only; the world holds no facts about them.
RESIDENTS = PEOPLE[:40]
TOWNS = tuple(
    """Oakdale Millford Ashton Brookside Cliffend Dunmore Eastbay Fernhill Glenwood Harwick Ironbridge Jasper
    Kingsley Larkham Marsh Northgate Oldtown Pinecrest Quarry Riverton Stonefield Thornbury Upwell Valemouth
    Westport Yarrow""".split()
)
COLOURS = tuple("red blue green yellow black white brown orange purple pink grey silver".split())
ANIMALS = tuple("dog cat horse rabbit parrot goat duck hen sheep mouse pony turtle owl donkey".split())
JOBS = tuple("baker farmer teacher doctor sailor painter singer miller nurse tailor cook writer driver guard".split())
FOODS = tuple("bread soup rice cheese honey pasta salad fish cake plums beans porridge".split())
MADE = tuple("glass wool paper salt wine bells boots silk tiles ropes clocks pottery jam candles".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
NUMBERS = tuple(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty""".split()
)
# Words about words. They are copied and listed like any other, so that their tokens are well trained.
TERMS = tuple("name town count item color colour note list word number record animal job food day JSON".split())
_IRREGULAR = {"knife": "knives", "brush": "brushes", "box": "boxes", "watch": "watches", "loaf": "loaves"}
ITEMS = tuple(
    """boat lamp book chair kite basket bottle hat ring coat drum cup plate key ladder clock mirror pencil pillow
    ribbon rope shoe spoon stamp table tent ticket umbrella vase wagon bell blanket bucket button candle carpet
    knife brush box watch loaf""".split()
)


def plural(noun: str) -> str:
    """The plural of an item or animal of this world."""
    known = {**_IRREGULAR, "mouse": "mice", "sheep": "sheep", "pony": "ponies"}
    return known.get(noun, f"{noun}s")
