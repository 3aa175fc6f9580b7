"""Jobs for an agent: requests that take a tool, demonstrations of how they are done, and the grading of what a model did.

The tools and the loop are in `lab.agent`.
"""

import random
import re
from dataclasses import dataclass, replace

from lab import world
from lab.agent import Talk, new_tools
from lab.judge import judge, named


# ------------------------------------------------------------------ what is asked
@dataclass(frozen=True)
class Job:
    """One request with the calls that it takes, and how to grade the answer.

    kind      one of JOBS
    prompt    what the user writes
    steps     the right calls, as lines
    parts     one `world.Task` for each thing that is asked
    """

    kind: str
    prompt: str
    steps: tuple
    parts: tuple

    @property
    def sentence(self):
        """The right answer to the whole job."""
        return " ".join(part.sentence for part in self.parts)


def sum_part(a, b, sign, rng):
    """(the right call, the task) of one sum or difference of any size."""
    relation, result = ("plus", a + b) if sign == "+" else ("minus", a - b)
    slots = dict(a=a, b=b, c=result)
    prompt = rng.choice(world.QUESTIONS[relation]).format(**slots)
    return f"work out {a} {sign} {b}", world.Task("sum", prompt, world.SENTENCES[relation].format(**slots), str(result), (str(result),))


def any_sum(digits, split, rng):
    """A sum of numbers with that many digits; the larger comes first, so that no difference is negative."""
    while True:
        a, b = sorted((rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2)), reverse=True)
        if world.in_split(f"{a} {b}", split):
            return sum_part(a, b, rng.choice("+-"), rng)


def small_sum(split, rng):
    """A sum as the pages have them; of the held-out ones for the test."""
    relation, a, b, _ = rng.choice(world.sums(split))
    return sum_part(a, b, "+" if relation == "plus" else "-", rng)


def fact_part(tier, split, rng, relations=tuple(world.RELATIONS)):
    """A question about a person of a tier (see lab.world.PEOPLE)."""
    person = rng.choice([person for person in world.PEOPLE[tier] if world.in_split(person.name, split)])
    relation = rng.choice(relations)
    return f"look up {person.name} {relation}", world.ask_about(world.fact(person, relation), split, rng)


def nobody_part(split, rng):
    """A question about a name that the register does not have: the right answer says so."""
    name = rng.choice([name for name in world.PASSERS_BY if world.in_split(name, split)])
    relation = rng.choice(list(world.RELATIONS))
    prompt = world.question(relation, split, rng, a=name)
    return f"look up {name} {relation}", world.Task("unknown", prompt, world.UNKNOWN[relation].format(a=name), "", tuple(world.RELATIONS[relation]))


def two_facts(split, rng):
    """Parts of a job that needs two look-ups."""
    relations = rng.sample(list(world.RELATIONS), 2)  # two towns in one answer could not be told apart
    return [fact_part("unseen", split, rng, (relation,)) for relation in relations]


def fact_and_sum(split, rng):
    """Parts of a job that needs a look-up and a sum."""
    return rng.sample([fact_part("unseen", split, rng), any_sum(3, split, rng)], 2)  # in either order


JOBS = {  # kind of job -> its parts
    "small sum": lambda split, rng: [small_sum(split, rng)],
    "large sum": lambda split, rng: [any_sum(3, split, rng)],
    "larger sum": lambda split, rng: [any_sum(4, split, rng)],
    "famous": lambda split, rng: [fact_part("frequent", split, rng)],
    "stranger": lambda split, rng: [fact_part("unseen", split, rng)],
    "nobody": lambda split, rng: [nobody_part(split, rng)],
    "two facts": two_facts,
    "fact and sum": fact_and_sum,
}
TAUGHT = tuple(kind for kind in JOBS if kind != "larger sum")  # that one is only ever tested


def job(kind, split, rng):
    """One job of a kind, its request put together from those of its parts."""
    steps, parts = zip(*JOBS[kind](split, rng))
    return Job(kind, " ".join(part.prompt for part in parts), steps, parts)


def draw(n, split, seed, kinds=TAUGHT):
    """n jobs of split "train" or "test", the kinds in turn: no number, name or person is on both sides."""
    rng = random.Random(f"jobs {split} {seed}")
    return [job(kinds[i % len(kinds)], split, rng) for i in range(n)]


# ------------------------------------------------------------------ rows for SFT
def turns(one):
    """What the assistant should write before it answers. Two steps or more need a list."""
    if len(one.steps) == 1:
        return list(one.steps)
    ticks = [f"done {i}" for i in range(1, len(one.steps) + 1)]
    then = [f"{tick}\n{step}" for tick, step in zip(ticks, one.steps[1:])]
    return ["\n".join(["to do", *one.steps]), one.steps[0], *then, ticks[-1]]


def shuffled(one):
    """The same job in a world where every fact is drawn anew: what a model remembers is no help there, only reading is."""
    rng, parts = random.Random(one.prompt), []
    for step, part in zip(one.steps, one.parts):
        if part.kind == "fact":
            name, relation = step.removeprefix("look up ").rsplit(" ", 1)
            answer = rng.choice(world.RELATIONS[relation])
            part = replace(part, answer=answer, sentence=world.SENTENCES[relation].format(a=name, b=answer))
        parts.append(part)
    return replace(one, parts=tuple(parts))


def register_of(one):
    """What a register has to hold so that a job comes out as its parts say."""
    register = {}
    for step, part in zip(one.steps, one.parts):
        if part.kind == "fact":
            name, relation = step.removeprefix("look up ").rsplit(" ", 1)
            register.setdefault(name, {})[relation] = part.answer
    return register


def demonstration(one):
    """{"messages"} of a job done well, in a shuffled world. The replies come from the tools themselves, so they look as they
    will in use."""
    one = shuffled(one)
    talk = Talk([{"role": "user", "content": one.prompt}], new_tools(register_of(one)))
    for turn in [*turns(one), one.sentence]:
        talk.hear(turn)
    return {"messages": talk.messages}


def direct(one):
    """{"prompt", "response"} of the same job without any tool: the answer at once, for a comparison."""
    return {"prompt": one.prompt, "response": one.sentence}


# ------------------------------------------------------------------ grading
def listed(one, talk):
    """Was a to-do list of exactly the job's steps written, in any order, and were all of them ticked off?"""
    lists = [call.line.removeprefix("to do ").split("\n") for call in talk.calls if call.ok and call.line.startswith("to do ")]
    ticks = [call for call in talk.calls if call.ok and call.line.startswith("done ")]
    return [sorted(lines) for lines in lists] == [sorted(one.steps)] and len(ticks) == len(one.steps)


def right_calls(one, talk):
    """Were the calls that the job takes made, once or more, and no other? The to-do list is a means and does not count."""
    made = [call.line for call in talk.calls if call.line.startswith(("work out", "look up"))]
    return sorted(set(made)) == sorted(one.steps)


def right_answer(one, text):
    """Does the answer hold every part's truth, each of the person it belongs to, and nothing that was not asked for or is not right?"""
    whole = [replace(part, prompt=one.prompt, sentence=one.sentence) for part in one.parts]
    return (all(judge(part, text).correct for part in whole) and not mixed_up(one, text)
            and numbers(text) in (numbers(one.sentence), [part.answer for part in one.parts if part.kind == "sum"])
            and not any(named(part, text) for part in one.parts if part.kind == "unknown"))  # "I do not know. She lives in Irby."


def numbers(text):
    """The numbers of a text, in its order and with their signs."""
    return re.findall(r"-?[0-9]+", text)


def mixed_up(one, text):
    """Does a sentence give one person's fact to the other?"""
    owners = {part.answer: step.removeprefix("look up ").rsplit(" ", 1)[0] for step, part in zip(one.steps, one.parts) if part.kind == "fact"}
    return any(re.search(rf"\b{answer}\b", sentence) and owner not in sentence and any(other in sentence for other in owners.values())
               for sentence in re.split(r"(?<=[.!?]) ", text) for answer, owner in owners.items())


def grade(jobs, talks):
    """One dict of flags and counts for each conversation:

    called     it made a call that the tools took
    calls      lines that were calls or attempts at one, and `refused`, those of them that were refused
    right calls, listed, success, ended
    """
    rows = []
    for one, talk in zip(jobs, talks, strict=True):
        refused = sum(not call.ok for call in talk.calls)
        rows.append({"kind": one.kind, "called": any(call.ok for call in talk.calls), "calls": len(talk.calls), "refused": refused,
                     "right calls": right_calls(one, talk), "listed": listed(one, talk), "success": right_answer(one, talk.answer), "ended": talk.end})
    return rows
