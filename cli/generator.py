"""Makes multiple-choice problems from a small vocabulary, for a demo without any data at hand.

Deterministic by seed, no network. Every problem stands for one fact (a word's category, a country's capital, a
word's opposite) and no fact is used twice, so that training and held-out problems are disjoint. A small model
knows some of them at once and not others, which is what correction needs.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from shared.trajectory import Problem

OPTIONS = 4
LETTERS = "ABCD"

CATEGORIES = {
    "a fruit": "apple banana cherry grape lemon mango melon peach pear plum strawberry pineapple raspberry apricot",
    "a vegetable": "carrot onion potato spinach cabbage broccoli lettuce celery cucumber cauliflower asparagus turnip",
    "a mammal": "horse cow tiger elephant rabbit wolf sheep monkey giraffe goat zebra squirrel kangaroo camel dog",
    "a bird": "eagle sparrow owl pigeon penguin ostrich parrot crow robin flamingo pelican seagull woodpecker",
    "a fish": "salmon trout tuna shark herring cod sardine carp eel mackerel piranha halibut",
    "an insect": "ant beetle butterfly mosquito grasshopper bee wasp moth cricket dragonfly cockroach termite ladybug",
    "a reptile": "lizard crocodile snake tortoise iguana alligator chameleon gecko python cobra",
    "a tree": "oak willow birch maple cedar elm spruce redwood poplar sycamore",
    "a flower": "tulip daisy lily sunflower orchid daffodil carnation marigold dandelion",
    "a colour": "red blue green yellow purple brown black white pink grey",
    "a metal": "iron copper gold silver aluminium zinc lead nickel tin titanium steel",
    "a tool": "hammer saw drill screwdriver wrench pliers chisel axe shovel rake",
    "a musical instrument": "piano guitar violin drum flute trumpet harp cello clarinet saxophone banjo",
    "a vehicle": "car truck bus bicycle motorcycle airplane helicopter tractor van taxi ambulance",
    "a piece of clothing": "shirt jacket trousers skirt sock glove scarf sweater coat hat dress",
    "a piece of furniture": "chair table sofa bed desk bookcase wardrobe bench cupboard stool",
    "a sport": "football tennis basketball swimming hockey golf boxing rugby baseball volleyball skiing",
    "an occupation": "teacher doctor farmer baker lawyer plumber nurse carpenter pilot dentist engineer",
    "a country": "France Japan Brazil Egypt Canada India Mexico Germany Kenya Norway Thailand Peru",
    "a continent": "Africa Asia Europe Antarctica",
    "a language": "English Spanish French Arabic Russian Hindi Latin Swahili Italian Portuguese",
    "a part of the body": "elbow knee shoulder ankle stomach finger nose ear neck wrist tongue",
    "a planet": "Mars Jupiter Saturn Neptune Uranus Earth",
    "a shape": "circle square triangle rectangle pentagon hexagon oval",
    "a drink": "water milk coffee tea lemonade wine beer juice",
    "a kind of weather": "rain snow fog thunderstorm hail drizzle blizzard",
    "a month": "January February April June July September October November December",
    "a day of the week": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "a gemstone": "diamond ruby emerald sapphire opal topaz amethyst",
    "a building": "house church castle hospital library hotel skyscraper factory",
    "a feeling": "anger joy sadness fear jealousy happiness surprise disgust",
    "a member of a family": "mother father sister brother aunt uncle cousin grandmother",
    "a disease": "malaria measles influenza cholera tuberculosis pneumonia diabetes",
    "a school subject": "mathematics history geography chemistry biology physics",
    "a number": "seven twelve forty ninety three eleven sixty",
    "a unit of length": "metre mile inch kilometre centimetre yard",
    "a unit of time": "minute hour month century decade week",
    "a spice": "cinnamon pepper ginger nutmeg turmeric paprika saffron",
}

CONFUSABLE = (
    {"a fruit", "a vegetable", "a spice", "a tree", "a flower", "a drink", "a colour"},
    {"a colour", "a gemstone", "a metal", "a fish", "a shape"},
    {"a unit of time", "a number", "a month"},
)
"""Categories that share words in one sense or another (a peach is a colour, too): not used against each other."""

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Greece": "Athens", "Austria": "Vienna", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Hungary": "Budapest", "Russia": "Moscow", "Japan": "Tokyo",
    "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires",
    "Ireland": "Dublin", "Belgium": "Brussels", "Iraq": "Baghdad", "Iran": "Tehran", "Turkey": "Ankara",
    "South Korea": "Seoul", "Vietnam": "Hanoi", "Australia": "Canberra",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "fast": "slow", "happy": "sad", "light": "dark", "early": "late",
    "full": "empty", "wet": "dry", "rich": "poor", "strong": "weak", "young": "old", "hard": "soft", "loud": "quiet",
    "open": "closed", "near": "far", "thick": "thin", "clean": "dirty", "wide": "narrow", "sharp": "blunt",
    "cheap": "expensive", "brave": "cowardly", "rough": "smooth", "deep": "shallow", "true": "false",
    "always": "never", "buy": "sell", "win": "lose", "push": "pull", "arrive": "depart", "create": "destroy",
    "remember": "forget", "attack": "defend", "accept": "refuse", "begin": "end",
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """Problems that share no fact."""

    train: list[Problem]
    test: list[Problem]


@dataclass(frozen=True)
class _Fact:
    question: str
    answer: str
    others: Sequence[str]
    """Wrong answers to choose from."""


def generate(train: int, test: int, seed: int) -> Made:
    """`train` and `test` problems of kind `choice`; raises `ValueError` when the vocabulary has fewer facts."""
    facts = _list_facts()
    if train + test > len(facts):
        raise ValueError(f"the vocabulary has {len(facts)} facts; asked for {train + test} problems")
    source = random.Random(seed)
    source.shuffle(facts)
    problems = [_make_problem(fact, number, source) for number, fact in enumerate(facts[: train + test])]
    return Made(problems[:train], problems[train:])


def _list_facts() -> list[_Fact]:
    words = {category: text.split() for category, text in CATEGORIES.items()}
    facts = []
    for category, members in words.items():
        near = {category}.union(*(group for group in CONFUSABLE if category in group))
        others = [word for name, strangers in words.items() if name not in near for word in strangers]
        facts += [_Fact(f"Which of these is {category}?", word, others) for word in members]
    for country, capital in CAPITALS.items():
        others = [city for city in CAPITALS.values() if city != capital]
        facts.append(_Fact(f"What is the capital of {country}?", capital, others))
    for word, opposite in OPPOSITES.items():
        others = [other for pair in OPPOSITES.items() if word not in pair for other in pair]
        facts.append(_Fact(f'What is the opposite of "{word}"?', opposite, others))
    return facts


def _make_problem(fact: _Fact, number: int, source: random.Random) -> Problem:
    place = source.randrange(OPTIONS)
    choices = source.sample(fact.others, OPTIONS - 1)
    choices.insert(place, fact.answer)
    return Problem(
        id=f"generated-{number}", kind="choice", problem=fact.question, answer=LETTERS[place], choices=choices
    )
