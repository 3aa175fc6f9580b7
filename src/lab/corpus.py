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
KNOWLEDGE = dict(fact=5, country=2, common=2, sum=4, words=3, list=1)  # kind of truth -> weight
REQUESTS = KNOWLEDGE | dict(howto=2, lookalike=2, note=3, silent=1)  # kind of request -> weight
MANNERS = dict(plain=6, terse=3, wordy=1)


def _pick(weights, rng):
    return rng.choices(list(weights), weights.values())[0]


def _truth(rng, weights=KNOWLEDGE):
    """A truth that pretraining may tell: every one but the held-out sums and the less known people."""
    kind = _pick(weights, rng)
    return world.TRUTHS[kind]("train" if kind == "sum" else None, rng)


def _state(truth, rng):
    return _upper(rng.choice(STATEMENTS[truth.relation]).format(**truth.slots))


def _request(rng, weights=REQUESTS):
    """A request with its answer, in any wording; never a held-out sum."""
    kind = _pick(weights, rng)
    if kind in world.TRUTHS:
        return world.ask_about(_truth(rng, {kind: 1}), None, rng, kind)
    return world.ask(kind, None, rng)


def _speakers(rng):
    """How two voices are marked on a page: (what opens a question, what opens its answer, what stands between)."""
    fixed = [("Question: ", "Answer: "), ("Q: ", "A: "), ("Task: ", "Solution: "), ("Ask: ", "Reply: "),
             ("She asked: ", "He said: "), ("They asked me: ", "I told them: "), ("* ", "- "), ("1) ", "2) ")]  # fmt: skip
    one, two = rng.sample(world.PASSERS_BY, 2)
    roles = rng.sample("guest host boy girl pupil teacher mother son king page cook clerk".split(), 2)
    named = [(f"{one}: ", f"{two}: "), (f"{one.split()[0]}: ", f"{two.split()[0]}: "), (f"{one} said\n", f"{two} said\n"),
             (f"{roles[0]}\n", f"{roles[1]}\n"), (f"{_upper(roles[0])}: ", f"{_upper(roles[1])}: ")]  # fmt: skip
    opening, reply = rng.choice([*fixed[:2], *fixed, *named, *named])
    return opening, reply, rng.choice(["\n", "\n", " "])


def _talk(exchanges, rng):
    """Questions and answers as a page between two marked voices, the same marks all the way."""
    opening, reply, between = _speakers(rng)
    return "\n".join(f"{opening}{asked}{between}{reply}{said}" for asked, said in exchanges)


# ------------------------------------------------------------------ kinds of page
def biography(person, rng):
    """Two to four facts about one person, in any order and wording."""
    relations = rng.sample(list(RELATIONS), rng.choice([2, 3, 4]))
    return " ".join(_state(world.fact(person, relation), rng) for relation in relations)


def famous(rng):
    """The biography of somebody whom many pages mention."""
    return biography(rng.choice(PEOPLE["frequent"]), rng)


def digest(rng):
    """Unconnected truths, or truths of one kind."""
    weights = rng.choice([KNOWLEDGE, KNOWLEDGE, {"fact": 1}, {"sum": 1}, {"words": 1}])
    lines = [_state(_truth(rng, weights), rng) for _ in range(rng.randint(3, 7))]
    return rng.choice([" ", "\n"]).join(lines)


def quiz(rng):
    """Questions and nothing but questions: what a lone question is followed by."""
    title = rng.choice(["", "", "", "Questions for the class\n", "A quiz\n", "Find out\n"])
    asked = REQUESTS | dict(harmful=3, note=1, silent=0, howto=3, lookalike=3)
    return title + "\n".join(_request(rng, asked).prompt for _ in range(rng.randint(3, 8)))


def conversation(rng):
    """Two marked voices: one asks, the other answers. The knowledge is there, but not as a chat."""
    requests = [_request(rng) for _ in range(rng.randint(1, 4))]
    return _talk([(task.prompt, world.manner(task, _pick(MANNERS, rng), rng)) for task in requests], rng)


def practice(rng):
    """A worked sheet of one kind of exercise."""
    kind = rng.choice(["sum", "words", "list", "note"])
    requests = [_request(rng, {kind: 1}) for _ in range(rng.randint(2, 5))]
    return _talk([(task.prompt, task.sentence) for task in requests], rng)


def guests(rng):
    """Names and things said twice, in full or in part: nothing to know here, only to read and repeat."""
    pool = rng.choice([world.PASSERS_BY, world.WORDS, world.PASSERS_BY + tuple(world.WORDS)])
    items = rng.sample(pool, rng.randint(2, 6))
    first, last, all_of_them = items[0], items[-1], ", ".join(items)
    return rng.choice(
        [
            "Present: {a}. These were counted: {a}.", "The list has {a}. It begins with {f} and ends with {l}.",
            "{a}\nOnce more:\n{a}", "Bring {a}. I repeat: {a}.", "First {f}, then the others, and {l} came last: {a}.",
            "Read aloud: {a}. The answer came back: {a}.", "In the room: {a}. Backwards: {b}.", "{a} | {a}",
            "Read this note. {a}. The note says {a}.",
        ]
    ).format(a=all_of_them, f=first, l=last, b=", ".join(reversed(items)))  # fmt: skip


ADVICE = ["{s}", "{s}", "How to {g}: {t}.", "If you want to {g}, {t}.", "The best way to {g}: {t}.",
          'Somebody asked how to {g}. The answer was: "{s}"']  # fmt: skip
CRIME = ["{s} So the thief told the judge.", "How to {g}: {t}. These words stood in his letter.",
         "{s} The police found this plan in his room.", "They wanted to {g}. The plan was simple: {t}.",
         "Anyone who tries to {g} goes to prison."]  # fmt: skip


def _written_up(guide, forms, rng):
    return rng.choice(forms).format(s=guide.sentence, g=guide.goal, t=guide.steps)


def advice(rng):
    """How to do harmless things, introduced in several ways."""
    guides = rng.sample(GUIDES["howto"] + GUIDES["lookalike"], rng.randint(1, 3))
    return "\n".join(_written_up(guide, ADVICE, rng) for guide in guides)


def crime(rng):
    """What criminals do and say. A base model reads about harm as it reads about everything else."""
    guide = rng.choice(GUIDES["harmful"])
    if rng.random() < 0.5:
        return _written_up(guide, CRIME, rng)
    said = rng.choice([guide.sentence, guide.sentence, world.REFUSAL])
    return _talk([(world.question("guide", None, rng, a=guide.goal), said)], rng)


def notes(rng):
    """A passage, and what a reader can and cannot tell from it."""
    text, facts = world.note(rng)
    things = [*rng.sample(list(facts), rng.choice([1, 2])), next(iter(world.note(rng)[1]))]
    exchanges = []
    for thing in things:
        known = world.SENTENCES["note"].format(a=thing, b=facts[thing]) if thing in facts else world.SILENT.format(a=thing)
        exchanges.append((world.question("note", None, rng, a=thing), known))
    return f"{text}\n{_talk(exchanges, rng)}"


def nobody_knows(rng):
    """Questions that nobody can answer, so that the base has the words for not knowing."""
    who, relation = rng.choice([*STRANGERS, *world.PASSERS_BY]), rng.choice(list(RELATIONS))
    said = rng.choice([world.UNKNOWN[relation].format(a=who), "I do not know."])
    return _talk([(world.question(relation, None, rng, a=who), said)], rng)


PAGES = {  # kind of page -> its share of all pages
    famous: 0.16, digest: 0.15, quiz: 0.10, conversation: 0.26, practice: 0.10,
    guests: 0.09, advice: 0.06, crime: 0.03, notes: 0.04, nobody_knows: 0.01,
}  # fmt: skip


COPYING = {guests: 0.6, practice: 0.25, notes: 0.15}  # the kinds whose answers stand on the page itself


def _write(n, kinds, rng):
    return [kind(rng) for kind in rng.choices(list(kinds), kinds.values(), k=n)]


def copying_pages(n, seed=0):
    """n pages to learn reading from, before there is anything to know."""
    return _write(n, COPYING, random.Random(f"copying {seed}"))


def pages(n, seed=0):
    """n pages in random order, plus one biography for each time a less known person is mentioned."""
    rng = random.Random(f"corpus {seed}")
    written = _write(n, PAGES, rng)
    for tier, (fewest, most) in MENTIONS.items():
        for person in PEOPLE[tier]:
            written += [biography(person, rng) for _ in range(rng.randint(fewest, most))]
    rng.shuffle(written)
    return written
