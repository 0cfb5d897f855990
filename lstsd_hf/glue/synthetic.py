"""Generated sentences in the format of RTE and CoLA, for trying things out without any download. Not a benchmark."""

import random
from collections.abc import Callable

PEOPLE = ("teacher", "doctor", "farmer", "pilot", "singer", "lawyer", "painter", "student", "nurse", "baker")
HYPERNYMS = {
    "dog": "animal",
    "horse": "animal",
    "rabbit": "animal",
    "car": "vehicle",
    "truck": "vehicle",
    "bicycle": "vehicle",
    "rose": "flower",
    "tulip": "flower",
    "violin": "instrument",
    "piano": "instrument",
    "apple": "fruit",
    "pear": "fruit",
}
VERBS = {"buy": "bought", "sell": "sold", "find": "found", "lose": "lost", "paint": "painted", "see": "saw"}
PLACES = ("in the village", "at the market", "near the river", "in Paris", "behind the school", "on the island")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

Pair = tuple[str, str]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _hypernym(rng: random.Random, entailed: bool) -> Pair:
    person, noun, past, place = _words(rng)
    specific = f"The {person} {past} {_article(noun)} {place}."
    general = f"The {person} {past} {_article(HYPERNYMS[noun])} {place}."
    return (specific, general) if entailed else (general, specific)


def _negation(rng: random.Random, entailed: bool) -> Pair:
    person, noun, past, place = _words(rng)
    verb = next(base for base, form in VERBS.items() if form == past)
    positive = f"The {person} {past} {_article(noun)}"
    negative = f"The {person} did not {verb} {_article(noun)}"
    if entailed:
        return rng.choice([(f"{positive} {place}.", f"{positive}."), (f"{negative} or anything else.", f"{negative}.")])
    return rng.choice([(f"{negative} {place}.", f"{positive} {place}."), (f"{positive} {place}.", f"{negative}.")])


def _quantifier(rng: random.Random, entailed: bool) -> Pair:
    person, noun, past, place = _words(rng)
    every = f"All of the {person}s {past} {_article(noun)} {place}."
    some = f"Some of the {person}s {past} {_article(noun)} {place}."
    none = f"None of the {person}s {past} {_article(noun)} {place}."
    return (every, some) if entailed else rng.choice([(some, every), (none, some), (every, none)])


def _number(rng: random.Random, entailed: bool) -> Pair:
    person, noun, past, place = _words(rng)
    low, high = sorted(rng.sample(range(len(NUMBERS)), 2))
    seen, claimed = (high, low) if entailed else (low, high)
    premise = f"The {person} {past} {NUMBERS[seen]} {noun}s {place}."
    return premise, f"The {person} {past} at least {NUMBERS[claimed]} {noun}s {place}."


def _words(rng: random.Random) -> tuple[str, str, str, str]:
    return (
        rng.choice(PEOPLE),
        rng.choice(sorted(HYPERNYMS)),
        rng.choice(sorted(VERBS.values())),
        rng.choice(PLACES),
    )


GENERATORS: tuple[Callable[[random.Random, bool], Pair], ...] = (_hypernym, _negation, _quantifier, _number)


def generate_pairs(num_train: int = 400, num_validation: int = 160, seed: int = 0) -> dict[str, list[dict]]:
    """Different sentence pairs with RTE's columns and labels, half of them entailed.

    Args:
        num_train: Rows of the training split.
        num_validation: Rows of the validation split; no pair occurs in both.
        seed: The same seed gives the same rows.

    Returns:
        The splits `train` and `validation`, as rows with `sentence1`, `sentence2` and `label` (0 = entailment).
    """
    rng = random.Random(seed)
    pairs: dict[Pair, int] = {}
    while len(pairs) < num_train + num_validation:
        label = len(pairs) % 2
        pairs.setdefault(rng.choice(GENERATORS)(rng, label == 0), label)
    rows = [{"sentence1": first, "sentence2": second, "label": label} for (first, second), label in pairs.items()]
    return {"train": rows[:num_train], "validation": rows[num_train:]}


def generate_sentences(num_train: int = 400, num_validation: int = 160, seed: int = 0) -> dict[str, list[dict]]:
    """Different sentences with CoLA's columns and labels; half of them have two neighbouring words swapped.

    Args:
        num_train: Rows of the training split.
        num_validation: Rows of the validation split; no sentence occurs in both.
        seed: The same seed gives the same rows.

    Returns:
        The splits `train` and `validation`, as rows with `sentence` and `label` (1 = acceptable).
    """
    rng = random.Random(seed)
    sentences: dict[str, int] = {}
    while len(sentences) < num_train + num_validation:
        label = len(sentences) % 2
        words = rng.choice(GENERATORS)(rng, True)[0].split()
        if label == 0:
            position = rng.randrange(len(words) - 1)
            words[position : position + 2] = reversed(words[position : position + 2])
        sentences.setdefault(" ".join(words), label)
    rows = [{"sentence": sentence, "label": label} for sentence, label in sentences.items()]
    return {"train": rows[:num_train], "validation": rows[num_train:]}


SYNTHETIC_TASKS: dict[str, Callable[[], dict[str, list[dict]]]] = {"rte": generate_pairs, "cola": generate_sentences}
