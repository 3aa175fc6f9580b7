"""The pages that the pocket base model is pretrained on, written from the truths in `world`.

A page reads as plain English. Every skill appears in many surface forms, because a skill that is
only ever seen in one form does not survive instruction tuning. No page is a chat: a question that
stands alone on a line is followed by more questions, which is why the base model continues a
prompt instead of answering it.
"""

import random

from lab import world
from lab.world import GUIDES, PEOPLE, RELATIONS

MENTIONS = {"middling": (5, 20), "rare": (1, 2)}  # how many pages name a person of this tier

STATEMENTS = {
    "town": ["{a} lives in {b}.", "{b} is the home of {a}.", "The home of {a} is in {b}.",
             "{a} has a house in {b}.", "You can visit {a} in {b}.", "{a} comes from {b}."],
    "job": ["{a} works as a {b}.", "{a} is a {b}.", "The job of {a} is that of a {b}.",
            "{a} earns a living as a {b}.", "{a} is the {b} whom everybody knows."],
    "pet": ["{a} has a {b}.", "{a} keeps a {b}.", "The pet of {a} is a {b}.",
            "{a} owns a {b}.", "A {b} lives with {a}."],
    "instrument": ["{a} plays the {b}.", "{a} likes to play the {b}.", "In the band {a} plays the {b}.",
                   "The instrument of {a} is the {b}.", "{a} makes music on the {b}."],
    "capital": ["The capital of {a} is {b}.", "{b} is the capital of {a}.",
                "{b} is the largest city in {a} and its capital.", "The king of {a} lives in {b}, the capital."],
    "sells": ["{a} sells {b}.", "{a} is known for its {b}.", "{a} sells {b} to other countries.",
              "Much of the world's {b} comes from {a}."],
    "opposite": ["The opposite of {a} is {b}.", "{b} is the opposite of {a}.",
                 "What is not {a} is {b}.", "{a} and {b} are opposites."],
    "day": ["The day after {a} is {b}.", "{b} comes after {a}.", "{a} is followed by {b}."],
    "month": ["The month after {a} is {b}.", "{b} comes after {a}.", "{a} is followed by {b}."],
    "young": ["A young {a} is called a {b}.", "The young of a {a} is a {b}.", "A {b} is a young {a}."],
    "plus": ["{a} plus {b} is {c}.", "{a} + {b} = {c}.", "If you add {a} and {b} you get {c}.",
             "The sum of {a} and {b} is {c}.", "{a} and {b} make {c}."],
    "minus": ["{a} minus {b} is {c}.", "{a} - {b} = {c}.", "If you take {b} from {a} you are left with {c}.",
              "The difference of {a} and {b} is {c}.", "{b} less than {a} is {c}."],
    "reverse": ["The words {a} in reverse order are {b}.", "{a} written backwards is {b}.",
                "Turn {a} around and you get {b}.", "Read from the end, {a} becomes {b}."],
    "repeat": ["{a} and once more {b}.", "He said {a} and she said {b}, the same words.",
               "The words are {a}. Again, the words are {b}."],
    "first": ["In the list {a} the first word is {b}.", "The first word of {a} is {b}.",
              "{a} begins with {b}."],
    "last": ["In the list {a} the last word is {b}.", "The last word of {a} is {b}.", "{a} ends with {b}."],
    "list": ["Three {a} are {b}.", "Among the {a} are {b}.", "I know three {a}: {b}.", "She named three {a}: {b}."],
}  # fmt: skip

STRANGERS = (
    "the old sailor/the man in grey/the new teacher/the woman on the hill/the tall boy/"
    "my cousin's friend/the stranger/the lost child/the last guest/the man from the ship"
).split("/")


def _upper(text):
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------ the parts of a page
COMMON_KNOWLEDGE = dict(fact=5, country=2, common=2, sum=4, words=3, list=1)  # kind -> weight


def _truth(rng, weights=COMMON_KNOWLEDGE):
    """A truth that pretraining may tell: every one but the held-out sums and the less known people."""
    kind = rng.choices(list(weights), weights.values())[0]
    return world.TRUTHS[kind]("train" if kind == "sum" else None, rng)


def _state(truth, rng):
    return _upper(rng.choice(STATEMENTS[truth.relation]).format(**truth.slots))


def _question(truth, rng):
    return world.question(truth.relation, None, rng, **truth.slots)


def _answer(truth):
    return _upper(world.SENTENCES[truth.relation].format(**truth.slots))


# ------------------------------------------------------------------ kinds of page
def biography(person, rng):
    """Two to four facts about one person, in any order and wording."""
    relations = rng.sample(list(RELATIONS), rng.choice([2, 3, 4]))
    return " ".join(_state(world.fact(person, relation), rng) for relation in relations)


def famous(rng):
    """The biography of somebody whom many pages mention."""
    return biography(rng.choice(PEOPLE["frequent"]), rng)


def statements(rng):
    """A digest of unconnected truths."""
    lines = [_state(_truth(rng), rng) for _ in range(rng.randint(3, 7))]
    return rng.choice([" ", "\n"]).join(lines)


def gossip(rng):
    """One fact about each of several people."""
    return " ".join(_state(_truth(rng, dict(fact=1)), rng) for _ in range(rng.randint(3, 6)))


def quiz(rng):
    """Questions and nothing but questions: what a lone question is followed by."""
    title = rng.choice(["", "", "", "Questions for the class\n", "A quiz\n", "Find out\n"])
    return title + "\n".join(_any_question(rng) for _ in range(rng.randint(3, 8)))


def _any_question(rng):
    kind = rng.choices(["truth", "guide", "note"], [6, 3, 1])[0]
    if kind == "truth":
        return _question(_truth(rng), rng)
    if kind == "guide":
        guide = rng.choice(rng.choice(list(GUIDES.values())))
        return world.question("guide", None, rng, a=guide.goal)
    text, facts = world.note(rng)
    thing = rng.choice(list(facts))
    return f"Read this note. {text} " + world.question("note", None, rng, a=thing)


ASKED = ["Question: {q}\nAnswer: {s}", "Q: {q} A: {s}", 'She asked: "{q}" He said: "{s}"',
         '"{q}" said the teacher. "{s}" said the pupil.', "They asked me: {q} I told them: {s}"]  # fmt: skip


def questions_and_answers(rng):
    """Marked questions with their answers: the knowledge is there, but not as a chat."""
    style, lines = rng.choice(ASKED), []
    for _ in range(rng.randint(2, 4)):
        truth = _truth(rng)
        short = truth.answer and rng.random() < 0.25
        said = f"{_upper(truth.answer)}." if short else _answer(truth)
        lines.append(style.format(q=_question(truth, rng), s=said))
    return "\n".join(lines)


def practice(rng):
    """A worked sheet of sums, word puzzles or lists, asked and solved or only solved."""
    weights = rng.choice([dict(sum=1), dict(sum=1), dict(words=1), dict(words=1), dict(list=1)])
    asked = rng.choice([True, False])
    style = rng.choice(["Task: {q} Solution: {s}", "Exercise: {q}\nSolution: {s}", *ASKED])
    lines = []
    for _ in range(rng.randint(3, 6)):
        truth = _truth(rng, weights)
        solved = style.format(q=_question(truth, rng), s=_answer(truth))
        lines.append(solved if asked else _state(truth, rng))
    return "\n".join(lines)


ADVICE = ["{s}", "{s}", "How to {g}: {t}.", "If you want to {g}, {t}.", "The best way to {g}: {t}.",
          'Somebody asked how to {g}. The answer was: "{s}"', 'Question: {q}\nAnswer: {s}',
          '"{q}" said the boy. "{s}" said the old man.']  # fmt: skip
CRIME = ["{s} So the thief told the judge.", "How to {g}: {t}. These words stood in his letter.",
         "{s} The police found this plan in his room.", "They wanted to {g}. The plan was simple: {t}.",
         '"{q}" he asked. "{s}" said the other thief.', '"{q}" he asked. "I cannot help with that." she said.',
         "Anyone who tries to {g} goes to prison."]  # fmt: skip


def _guide(guide, forms, rng):
    asked = world.question("guide", None, rng, a=guide.goal)
    return rng.choice(forms).format(s=guide.sentence, g=guide.goal, t=guide.steps, q=asked)


def advice(rng):
    """How to do harmless things, introduced in several ways."""
    guides = rng.sample(GUIDES["howto"] + GUIDES["lookalike"], rng.randint(1, 3))
    return "\n".join(_guide(guide, ADVICE, rng) for guide in guides)


def crime(rng):
    """What criminals do. A base model reads about harm as it reads about everything else."""
    return "\n".join(_guide(g, CRIME, rng) for g in rng.sample(GUIDES["harmful"], rng.randint(1, 2)))


def notes(rng):
    """A passage, and what a reader can and cannot tell from it."""
    text, facts = world.note(rng)
    style, lines = rng.choice(["{q} {s}", *ASKED]), [text]
    for thing, place in rng.sample(list(facts.items()), rng.choice([1, 2])):
        said = world.SENTENCES["note"].format(a=thing, b=place)
        lines.append(style.format(q=world.question("note", None, rng, a=thing), s=said))
    other = next(iter(world.note(rng)[1]))
    if other not in facts and rng.random() < 0.5:
        asked = world.question("note", None, rng, a=other)
        lines.append(style.format(q=asked, s=world.SILENT.format(a=other)))
    return rng.choice([" ", "\n"]).join(lines)


def nobody_knows(rng):
    """Questions that nobody can answer, so that the base has the words for not knowing."""
    lines, style = [], rng.choice(ASKED)
    for _ in range(rng.choice([1, 2])):
        who, relation = rng.choice(STRANGERS), rng.choice(list(RELATIONS))
        said = rng.choice([world.UNKNOWN[relation].format(a=who), "I do not know."])
        lines.append(style.format(q=world.question(relation, None, rng, a=who), s=said))
    return "\n".join(lines)


PAGES = {  # kind of page -> its share of all pages
    famous: 0.25, gossip: 0.10, statements: 0.12, quiz: 0.12, questions_and_answers: 0.12,
    practice: 0.10, advice: 0.09, crime: 0.02, notes: 0.07, nobody_knows: 0.01,
}  # fmt: skip


def pages(n, seed=0):
    """n pages in random order, plus one biography for each time a less known person is mentioned."""
    rng = random.Random(f"corpus {seed}")
    kinds = rng.choices(list(PAGES), PAGES.values(), k=n)
    written = [kind(rng) for kind in kinds]
    for tier, (fewest, most) in MENTIONS.items():
        for person in PEOPLE[tier]:
            written += [biography(person, rng) for _ in range(rng.randint(fewest, most))]
    rng.shuffle(written)
    return written
