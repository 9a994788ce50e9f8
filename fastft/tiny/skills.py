"""One function a skill: each draws a conversation of that skill. SKILLS holds their shares of the pretraining text."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fastft.tiny.words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    ITEMS,
    JOBS,
    MADE,
    NUMBERS,
    PEOPLE,
    RESIDENTS,
    TERMS,
    TOWNS,
    plural,
)
from fastft.tiny.world import Draw, Messages, Record, note

BRIEF = ("Answer in one word.", "Give one word only.", "Use a single word.")
BOTS = ("Pip", "Robo", "Momo", "Tiny", "Echo", "Juno", "Bolt", "Nova")
_LETTERS = "bdfgklmnprstvz"
_VOWELS = "aeiou"


def turns(*contents: str, system: str = "") -> Messages:
    """Messages from contents that alternate user, assistant, user, …"""
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)
    ]


def _styled(rng: Random, question: str, full: str, brief: str) -> Messages:
    """The question as it is, or with a wish for one word in the system turn or after the question."""
    style = rng.random()
    if style < 0.5:
        return turns(question, full)
    if style < 0.75:
        return turns(question, brief, system=rng.choice(BRIEF))
    return turns(f"{question} {rng.choice(BRIEF)}", brief)


# attribute -> (wordings of the question, answer); {s} is the subject, {v} the value
FACTS: dict[str, tuple[tuple[str, ...], str]] = {
    "town": (
        ("Where does {s} live?", "Which town is {s} from?", "In which town does {s} live?", "Where is the home of {s}?",
         "Do you know where {s} lives?", "Tell me the town of {s}."),
        "{s} lives in {v}.",
    ),
    "pet": (
        ("Which animal does {s} have?", "What pet does {s} have?", "What is the pet of {s}?",
         "Tell me the pet of {s}.", "What kind of animal lives with {s}?", "Do you know the pet of {s}?"),
        "{s} has a {v}.",
    ),
    "job": (
        ("What is the job of {s}?", "What does {s} do for a living?", "What work does {s} do?",
         "Tell me the job of {s}.", "What is {s} by trade?", "Do you know what job {s} has?"),
        "{s} is a {v}.",
    ),
    "colour": (
        ("What colour does {s} like best?", "What is the favourite colour of {s}?", "Which colour does {s} love?",
         "Tell me the colour {s} likes.", "Which colour is the favourite of {s}?", "Do you know which colour {s} likes?"),
        "{s} likes {v}.",
    ),
    "food": (
        ("What does {s} like to eat?", "What is the favourite food of {s}?", "Which food does {s} love?",
         "Tell me the food {s} likes.", "What does {s} eat most?", "Do you know what {s} eats?"),
        "{s} eats {v}.",
    ),
    "made": (
        ("What is made in {s}?", "What is {s} known for?", "What do people make in {s}?",
         "Tell me what {s} makes.", "What comes from {s}?", "Do you know what is made in {s}?"),
        "{s} makes {v}.",
    ),
    "mayor": (
        ("Who is the mayor of {s}?", "Who leads {s}?", "Which person is mayor in {s}?",
         "Tell me the mayor of {s}.", "Who is head of the town of {s}?", "Do you know the mayor of {s}?"),
        "The mayor of {s} is {v}.",
    ),
}  # fmt: skip


def _fact(draw: Draw) -> tuple[str, str, str]:
    """A question about the world with its full and its brief answer."""
    attribute, subject, wording = draw.one(_any_fact)
    value = draw.world.facts[attribute][subject]
    return wording.format(s=subject), FACTS[attribute][1].format(s=subject, v=value), value


def _any_fact(rng: Random) -> tuple[str, str, str]:
    attribute = rng.choice(tuple(FACTS))
    subject = rng.choice(TOWNS if attribute in ("made", "mayor") else RESIDENTS)
    return attribute, subject, rng.choice(FACTS[attribute][0])


def facts(draw: Draw) -> Messages:
    return _styled(draw.rng, *_fact(draw))


def _ask(record: Record, count: str, rng: Random) -> tuple[str, str, str]:
    """A question about a noted record with its full and its brief answer. `count` is written as in the note."""
    name, things = record.name, record.things
    is_one = record.count == 1
    are, they = ("is", "It is") if is_one else ("are", "They are")
    kinds: dict[str, tuple[tuple[str, ...], str, str]] = {
        "who": (
            (f"Who has the {record.colour} {things}?", f"Whose {things} {are} {record.colour}?",
             f"Who has {things}?", f"Who is from {record.town}?", f"Who has something {record.colour}?"),
            f"{name}.", name,
        ),
        "where": (
            (f"Where is {name} from?", f"Which town is {name} from?", f"Where are the {record.colour} things?",
             f"In which town {are} the {things}?"),
            f"In {record.town}.", record.town,
        ),
        "count": (
            (f"How many {things} {are} there?", f"How many {things} does {name} have?", f"How many are {record.colour}?",
             f"How many things does {name} have?"),
            f"There {are} {count}.", count,
        ),
        "digits": (
            (f"How many {things} does {name} have? Use digits.", f"Use digits. How many {things} {are} there?"),
            f"There {are} {record.count}.", str(record.count),
        ),
        "colour": (
            (f"What colour {are} the {things}?", f"Which colour {are} the {things} of {name}?",
             f"Tell me the colour of the {things}.", f"What is the colour of the things of {name}?"),
            f"{they} {record.colour}.", record.colour,
        ),
        "what": (
            (f"What does {name} have?", f"What is {record.colour}?", f"Which things does {name} have?",
             f"What is in {record.town}?"),
            f"{count[0].upper()}{count[1:]} {record.colour} {things}.", things,
        ),
        "single": (
            (f"Of what kind is each thing {name} has?", f"What is each {record.colour} thing?"),
            f"Each is a {record.item}.", record.item,
        ),
    }  # fmt: skip
    wordings, full, brief = kinds[rng.choice(tuple(kinds))]
    return rng.choice(wordings), full, brief


def _noted(draw: Draw, how_many: int) -> tuple[str, list[tuple[Record, str]]]:
    """A text of notes and its records, each with the count as written."""
    records = draw.records(how_many)
    written = [note(record, draw.rng) for record in records]
    text = draw.rng.choice((" ", "\n")).join(sentence for sentence, _ in written)
    return text, [(record, count) for record, (_, count) in zip(records, written, strict=True)]


def notes(draw: Draw) -> Messages:
    rng = draw.rng
    text, noted = _noted(draw, rng.choice((1, 1, 2, 2, 3, 4)))
    question, full, brief = _ask(*rng.choice(noted), rng)
    frame = rng.choice(("Note: {n} {q}", "Note: {n}\n{q}", "{q} Note: {n}", "{n} {q}", "Read this: {n} {q}"))
    return _styled(rng, frame.format(n=text, q=question), full, brief)


def chat(draw: Draw) -> Messages:
    """Notes first, then several questions about them, with a fact of the world or a thank-you between."""
    rng = draw.rng
    text, noted = _noted(draw, rng.randint(1, 3))
    contents = [f"Note: {text}", "Noted."]
    brief_answers = rng.random() < 0.3
    for _ in range(rng.randint(2, 7)):
        question, full, brief = _ask(*rng.choice(noted), rng) if rng.random() < 0.75 else _fact_outside(draw, noted)
        contents += [question, brief if brief_answers else full]
    if rng.random() < 0.2:
        contents += ["Thank you!", "You are welcome."]
    return turns(*contents, system=rng.choice(BRIEF) if brief_answers else "")


def _fact_outside(draw: Draw, noted: list[tuple[Record, str]]) -> tuple[str, str, str]:
    """A fact whose question names nobody and no place of the notes, so that the notes can't contradict it."""
    words = {word for record, _ in noted for word in (record.name, record.town)}
    while True:
        question, full, brief = _fact(draw)
        if not words & set(question.rstrip("?.").replace("?", "").split()):
            return question, full, brief


_OPEN = ("Hello", "Hi", "Good morning", "Good evening", "Hey", "Good day")
_SELF = "I am tiny, a small language model."
_PHRASES = (
    *((f"{hello}{mark}", f"{hello}! How can I help?") for hello in _OPEN for mark in ("!", ".", "")),
    ("Who are you?", _SELF),
    ("What are you?", _SELF),
    ("Tell me about yourself.", _SELF),
    ("What can you do?", "I can talk about my little world and read short notes."),
    ("Thank you!", "You are welcome."),
    ("Goodbye!", "Goodbye!"),
)


def manners(draw: Draw) -> Messages:
    rng = draw.rng
    hello, name, form = draw.one(lambda r: (r.choice(_OPEN), r.choice(PEOPLE), r.randrange(3)))
    opening = (f"{hello}, I am {name}.", f"{hello}! My name is {name}.", f"{hello}! {name} here.")[form]
    if draw.split == "train" and rng.random() < 0.3:  # set phrases: trained on, never scored
        return turns(*rng.choice(_PHRASES))
    contents = [opening, f"{hello}, {name}! How can I help?"]
    extra = rng.random()
    if extra < 0.3:
        contents += ["What is my name?", f"Your name is {name}."]
    elif extra < 0.5:
        contents += [rng.choice(("Thank you!", "Thanks a lot.")), "You are welcome."]
    elif extra < 0.6:
        contents += [rng.choice(("Goodbye!", "Bye.")), f"Goodbye, {name}!"]
    return turns(*contents)


def persona(draw: Draw) -> Messages:
    """The system turn says who the model is."""
    bot, town, job, ask = draw.one(lambda r: (r.choice(BOTS), r.choice(TOWNS), r.choice(JOBS), r.randrange(5)))
    system = f"You are {bot}, a {job} in {town}."
    question, answer = (
        ("Who are you?", f"I am {bot}, a {job} in {town}."),
        ("What is your name?", f"My name is {bot}."),
        ("Where do you work?", f"I work in {town}."),
        ("What is your job?", f"I am a {job}."),
        ("Are you a person?", "No, I am a language model."),
    )[ask]
    return turns(question, answer, system=system)


def numbers(draw: Draw) -> Messages:
    """Counting up and down, neighbours, and numbers as words and digits."""
    question, answer = draw.one(_any_count if draw.rng.random() < 0.5 else _any_number)
    return turns(question, answer)


def _any_count(rng: Random) -> tuple[str, str]:
    first, length = rng.randint(0, 30), rng.randint(2, 8)
    up = [str(first + i) for i in range(length)]
    if rng.random() < 0.6:
        return f"Count from {up[0]} to {up[-1]}.", " ".join(up)
    return f"Count down from {up[-1]} to {up[0]}.", " ".join(reversed(up))


def _any_number(rng: Random) -> tuple[str, str]:
    n = rng.randint(1, 19)
    say = rng.choice(("", "Please: ", "Now: ", "Quick: "))
    return rng.choice((
        (f"{say}What comes after {n}?", str(n + 1)),
        (f"{say}What comes before {n}?", str(n - 1)),
        (f"{say}Write {n} as a word.", NUMBERS[n]),
        (f"{say}Write {NUMBERS[n]} in digits.", str(n)),
    ))  # fmt: skip


_POOLS = (ITEMS, COLOURS, ANIMALS, FOODS, JOBS, PEOPLE, TOWNS)
_ANY = (*ITEMS, *PEOPLE, *TOWNS, *COLOURS, *ANIMALS, *FOODS, *JOBS, *MADE, *TERMS, *map(plural, ITEMS))


def _words(rng: Random, low: int, high: int) -> list[str]:
    pool = _ANY if rng.random() < 0.5 else rng.choice(_POOLS)
    return rng.sample(pool, rng.randint(low, min(high, len(pool))))


def invented(rng: Random) -> str:
    """A word nobody knows, to be copied piece by piece."""
    word = "".join(rng.choice(_LETTERS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 4)))
    return word.capitalize() if rng.random() < 0.5 else word


def copying(draw: Draw) -> Messages:
    text = draw.one(_any_text)
    return turns(draw.rng.choice(("Say: {t}", "Repeat: {t}", "Copy this: {t}", "Please say: {t}")).format(t=text), text)


def _any_text(rng: Random) -> str:
    if rng.random() < 0.7:
        return " ".join(_words(rng, 2, 16))
    return " ".join(invented(rng) for _ in range(rng.randint(1, 3)))


def places(draw: Draw) -> Messages:
    """First, last, next: one word out of a list."""
    rng = draw.rng
    words = draw.one(lambda r: ("place", *_words(r, 3, 6)))[1:]
    i = rng.randrange(len(words) - 1)
    question, answer = rng.choice((
        ("Which word is first?", words[0]), ("Which word is last?", words[-1]), ("Which is second?", words[1]),
        (f"What comes after {words[i]}?", words[i + 1]), (f"What comes before {words[i + 1]}?", words[i]),
        ("How many words?", str(len(words))),
    ))  # fmt: skip
    listing = ", ".join(words)
    return turns(rng.choice((f"{listing}. {question}", f"Words: {listing}. {question}", f"{question} {listing}.")), answer)


def brackets(draw: Draw) -> Messages:
    """Lists and tallies with brackets, braces and quotes."""
    rng = draw.rng
    words = draw.one(lambda r: ("bracket", *_words(r, 1, 5)))[1:]
    if rng.random() < 0.6:
        answer = "[" + ", ".join(f'"{word}"' for word in words) + "]"
        return turns(rng.choice(("List: ", "Make a list: ", "Put this in a list: ")) + ", ".join(words), answer)
    counts = [rng.randint(1, 12) for _ in words]
    text = ", ".join(
        f"{word} {rng.choice((NUMBERS[n], str(n)))}" for word, n in zip(words, counts, strict=True)
    )
    answer = "{" + ", ".join(f'"{word}": {n}' for word, n in zip(words, counts, strict=True)) + "}"
    return turns(rng.choice(("Tally: ", "Make a tally: ")) + text, answer)


def grammar(draw: Draw) -> Messages:
    noun, kind, wording = draw.one(lambda r: (r.choice((*ITEMS, *ANIMALS)), r.choice(("one", "many")), r.randrange(4)))
    many = plural(noun)
    if kind == "many":
        asks = (f"What is the plural of {noun}?", f"One {noun}, two what?", f"Say more than one {noun}.",
                f"Write {noun} as plural.")  # fmt: skip
        return turns(asks[wording], many)
    asks = (f"What is the singular of {many}?", f"Two {many}, one what?", f"Say one of the {many}.",
            f"Write {many} as singular.")  # fmt: skip
    return turns(asks[wording], noun)


def spelling(draw: Draw) -> Messages:
    word, wording = draw.one(lambda r: (r.choice((*ITEMS, *COLOURS, *ANIMALS, *NUMBERS[1:13])), r.randrange(4)))
    asks = (f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}.", f"Which letters are in {word}?")
    return turns(asks[wording], "-".join(word))


_UNKNOWABLE = ("phone number", "birthday", "age", "shoe size", "car", "password", "sister", "last name")


def unknown(draw: Draw) -> Messages:
    """What can't be known: asked about people of the world, about strangers, about a note that doesn't say."""
    rng = draw.rng
    if rng.random() < 0.5:
        what, who, day = draw.one(lambda r: (r.choice(_UNKNOWABLE), r.choice(PEOPLE), r.choice(DAYS)))
        asks = (f"What is the {what} of {who}?", f"Do you know the {what} of {who}?", f"Where was {who} on {day}?")
        return turns(rng.choice(asks), "I do not know.")
    text, noted = _noted(draw, rng.randint(1, 2))
    other = draw.record(without=tuple(record for record, _ in noted))
    asks = (f"Who has the {plural(other.item)}?", f"Where is {other.name} from?", f"What does {other.name} have?")
    return turns(f"Note: {text} {rng.choice(asks)}", "The note does not say.")


# skill -> (function, share of the conversations)
SKILLS: dict[str, tuple[Callable[[Draw], Messages], int]] = {
    "facts": (facts, 14),
    "notes": (notes, 16),
    "chat": (chat, 24),
    "manners": (manners, 3),
    "persona": (persona, 4),
    "numbers": (numbers, 5),
    "copying": (copying, 10),
    "places": (places, 6),
    "brackets": (brackets, 8),
    "grammar": (grammar, 3),
    "spelling": (spelling, 3),
    "unknown": (unknown, 4),
}


def conversation(draw: Draw) -> tuple[str, Messages]:
    """A conversation of a skill drawn by share, and the skill's name."""
    skill = draw.rng.choices(tuple(SKILLS), [share for _, share in SKILLS.values()])[0]
    return skill, SKILLS[skill][0](draw)
