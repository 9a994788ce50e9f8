"""Questions about the world and about notes, alone and in longer chats."""

from __future__ import annotations

from random import Random

from fastft.tiny.words import DAYS, PEOPLE, RESIDENTS, TOWNS, plural
from fastft.tiny.world import Draw, Messages, Record, note, turns

BRIEF = ("Answer in one word.", "Give one word only.", "Use a single word.")


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
         "Tell me the colour {s} likes.", "Which colour is the favourite of {s}?",
         "Do you know which colour {s} likes?"),
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
            (f"How many {things} {are} there?", f"How many {things} does {name} have?",
             f"How many are {record.colour}?", f"How many things does {name} have?"),
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
    text, noted = _noted(draw, rng.choice((1, 1, 1, 2, 2, 3)))
    question, full, brief = _ask(*rng.choice(noted), rng)
    frame = rng.choice(("Note: {n} {q}", "Note: {n}\n{q}", "{q} Note: {n}", "{n} {q}", "Read this: {n} {q}"))
    return _styled(rng, frame.format(n=text, q=question), full, brief)


def chat(draw: Draw) -> Messages:
    """Notes first, then several questions about them, with a fact of the world or a thank-you between."""
    rng = draw.rng
    text, noted = _noted(draw, rng.choice((1, 1, 2, 2, 3)))
    contents = [f"Note: {text}", "Noted."]
    brief_answers = rng.random() < 0.3
    for _ in range(rng.randint(2, 7)):
        question, full, brief = _ask(*rng.choice(noted), rng) if rng.random() < 0.85 else _fact_outside(draw, noted)
        contents += [question, brief if brief_answers else full]
    if rng.random() < 0.2:
        contents += ["Thank you!", "You are welcome."]
    return turns(*contents, system=rng.choice(BRIEF) if brief_answers else "")


def _fact_outside(draw: Draw, noted: list[tuple[Record, str]]) -> tuple[str, str, str]:
    """A fact whose question names nobody and no place of the notes, so that the notes can't contradict it."""
    words = {word for record, _ in noted for word in (record.name, record.town)}
    while True:
        question, full, brief = _fact(draw)
        if not words & set(question.rstrip("?.").split()):
            return question, full, brief


_UNKNOWABLE = ("phone number", "birthday", "age", "shoe size", "car", "password", "sister", "last name")


def unknown(draw: Draw) -> Messages:
    """What can't be known: asked about people of the world, about strangers, about a note that doesn't say."""
    rng = draw.rng
    if rng.random() < 0.5:
        return turns(draw.one(_any_unknowable), "I do not know.")
    text, noted = _noted(draw, rng.randint(1, 2))
    other = draw.record(without=tuple(record for record, _ in noted))
    asks = (f"Who has the {plural(other.item)}?", f"Where is {other.name} from?", f"What does {other.name} have?")
    return turns(f"Note: {text} {rng.choice(asks)}", "The note does not say.")


def _any_unknowable(rng: Random) -> str:
    what, who = rng.choice(_UNKNOWABLE), rng.choice(PEOPLE)
    return rng.choice((
        f"What is the {what} of {who}?", f"Do you know the {what} of {who}?", f"Tell me the {what} of {who}.",
        f"Where was {who} on {rng.choice(DAYS)}?",
    ))  # fmt: skip
