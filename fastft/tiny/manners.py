"""Greetings, and who the model is."""

from __future__ import annotations

from fastft.tiny.words import JOBS, PEOPLE, TOWNS
from fastft.tiny.world import Draw, Messages, turns

BOTS = ("Pip", "Robo", "Momo", "Tiny", "Echo", "Juno", "Bolt", "Nova")
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
