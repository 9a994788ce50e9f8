"""Rewards of recipes/grpo/tiny.yaml. Each gets the prompts' columns by name and returns one number a completion."""


def names_town(completions, town, **_):
    """1 for an answer that names the town of its row."""
    return [float(name in said[-1]["content"]) for said, name in zip(completions, town, strict=True)]
