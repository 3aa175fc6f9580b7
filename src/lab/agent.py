"""An agent: a model that may call tools, and the loop that runs the calls and feeds the results back.

A call is plain text in the assistant's turn, one call on a line; whatever is not a call is the final answer.

    work out 123 + 456            the calculator: whole numbers with + - *
    look up Anna Lind town        the register of the pocket world
    to do                         a to-do list: the calls still to be made, one on a line below
    done 1                        ticks the first of them off

Nothing that a model writes is ever evaluated. A line must match a fixed grammar, and what does not match is refused
with a message, which the model gets to read as it would a result.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from lab import world
from lab.data import encode_prompt
from lab.models import quiet
from lab.sample import sample_ids, stop_tokens


class ToolError(ValueError):
    """Why a call was refused, in a few words that the model gets to read."""


# ------------------------------------------------------------------ the tools
# [0-9] and not \d, which also matches the digits of other scripts; fullmatch and not $, which lets a newline through.
SUM = re.compile(r"[0-9]{1,6}( [-+*] [0-9]{1,6}){1,3}")


def calculate(text):
    """Whole numbers with + - *, products first. The grammar bounds the work: at most four numbers of six digits.

    >>> calculate("2 + 3 * 4 - 1")
    '13'
    """
    if not SUM.fullmatch(text):
        raise ToolError("only whole numbers with + - *")
    words = text.split(" ")
    total, product = 0, int(words[0])
    for sign, number in zip(words[1::2], map(int, words[2::2])):
        if sign == "*":
            product *= number
        else:
            total, product = total + product, number if sign == "+" else -number
    return str(total + product)


REGISTER = {person.name: person.facts for people in world.PEOPLE.values() for person in people}


def look_up(text, register=REGISTER):
    """One fact about one person, as a sentence: "Anna Lind town" -> "Anna Lind lives in Irby."."""
    name, _, relation = text.rpartition(" ")
    if relation not in world.RELATIONS:
        raise ToolError("only " + " ".join(world.RELATIONS))
    if name not in register:
        raise ToolError("no such name")
    if relation not in register[name]:
        raise ToolError("not known")
    return world.SENTENCES[relation].format(a=name, b=register[name][relation])


@dataclass
class ToDo:
    """The to-do list of one conversation: the model writes it once, and ticks its steps off by number."""

    steps: list = field(default_factory=list)
    ticked: set = field(default_factory=set)

    def write(self, text):
        """The steps, one to a line. There is one list to a conversation."""
        if self.steps:
            raise ToolError("there is a list already")
        self.steps = text.split("\n")
        return self.left()

    def tick(self, text):
        """Mark a step (its number, as text) as done."""
        if text not in [str(i) for i in range(1, len(self.steps) + 1)]:
            raise ToolError("no such step")
        self.ticked.add(text)
        return self.left()

    def left(self):
        """What the model hears: how many steps are not yet ticked."""
        return f"{len(self.steps) - len(self.ticked)} left"


def new_tools(register=REGISTER):
    """The tools of one conversation: {verb: a function of the text behind it}. The to-do list belongs to it alone."""
    todo = ToDo()
    return {"work out": calculate, "look up": partial(look_up, register=register), "to do": todo.write, "done": todo.tick}


# ------------------------------------------------------------------ from a turn to its calls
LINES, WIDTH = 4, 60  # the longest turn that may be a call, in lines and in characters of a line


def parse(turn, tools):
    """The calls in an assistant's turn, [(verb, text)]; [] if it holds none and so is the answer.

    A turn is calls or an answer, never both. Anything in between is a ToolError, and then nothing of it is run.
    """
    lines = turn.strip().split("\n")
    verbs = [next((verb for verb in tools if line == verb or line.startswith(verb + " ")), None) for line in lines]
    if not any(verbs):
        return []
    if len(lines) > LINES or max(map(len, lines)) > WIDTH:
        raise ToolError("too long")
    if None in verbs:
        raise ToolError("a call has a line of its own")
    if verbs[0] == "to do":
        if lines[0] != "to do" or len(lines) < 2 or {"to do", "done"} & set(verbs[1:]):
            raise ToolError("below to do stand calls")
        return [("to do", "\n".join(lines[1:]))]
    if "to do" in verbs:
        raise ToolError("to do comes first")
    return [(verb, line.removeprefix(verb).removeprefix(" ")) for verb, line in zip(verbs, lines)]


def clean(text, longest=WIDTH):
    """Text that others wrote, fit to stand in a conversation: no marker of a template, one line, not too long.

    Without this a register entry that holds "<|im_end|>" could close the tool's turn and open one of its own. Such markers
    begin with "<" in nearly all templates, so no "<" is let through.
    """
    return " ".join(text.replace("<", "").split())[:longest]


class Call(NamedTuple):
    """One call that was run: its line as the model wrote it, the reply, and whether the tool took it."""

    line: str
    reply: str
    ok: bool


def answer_calls(turn, tools):
    """Run the calls of a turn: [Call], empty if the turn is an answer. A refusal is a reply like any other."""
    try:
        asked = parse(turn, tools)
    except ToolError as refusal:
        return [Call(turn, f"error {refusal}", False)]
    return [run_one(tools[verb], text, f"{verb} {text}") for verb, text in asked]


def run_one(tool: Callable, text, line):
    """The `Call` of one line: the tool's reply, or its refusal."""
    try:
        return Call(line, clean(tool(text)), True)
    except ToolError as refusal:
        return Call(line, f"error {clean(str(refusal))}", False)


# ------------------------------------------------------------------ the loop
@dataclass
class Talk:
    """One conversation.

    end   None while it goes on, then "answer", "cut" (a turn without an end; nothing of it is run), "turns" (none left) or
          "context" (no room left).
    """

    messages: list
    tools: dict
    calls: list = field(default_factory=list)
    end: str | None = None

    @property
    def answer(self):
        """The model's last turn, if that was an answer and no call."""
        return self.messages[-1]["content"] if self.end == "answer" else ""

    def hear(self, turn, whole=True):
        """Take the model's turn: run its calls and append the replies, or end with its answer. whole: did it end its turn?"""
        turn = "\n".join(clean(line, longest=1000) for line in turn.strip().split("\n"))
        self.messages.append({"role": "assistant", "content": turn})
        if not whole:
            self.end = "cut"
            return
        made = answer_calls(turn, self.tools)
        self.calls += made
        if made:
            self.messages.append({"role": "tool", "content": "\n".join(call.reply for call in made)})
        else:
            self.end = "answer"


def run(model, tokenizer, requests, tools=new_tools, *, max_turns=8, temperature=1.0, seed=0, max_new_tokens=48):
    """Answer each request (str), calling tools: a list of `Talk`. All conversations take their next turn in one batch.

    tools      makes the tools of one conversation, so that none sees the to-do list of another.
    max_turns  turns of the assistant; what has no answer by then ends without one.
    """
    talks = [Talk([{"role": "user", "content": clean(request, longest=1000)}], tools()) for request in requests]
    for turn in range(max_turns):
        for talk in going_on(talks):
            if len(prompt_ids(talk, tokenizer)) >= model.config.max_position_embeddings:
                talk.end = "context"
        going = going_on(talks)
        for talk, (text, whole) in zip(going, next_turns(model, tokenizer, going, temperature=temperature, seed=1000 * seed + turn, max_new_tokens=max_new_tokens)):
            talk.hear(text, whole)
    for talk in going_on(talks):
        talk.end = "turns"
    return talks


def next_turns(model, tokenizer, talks, **how):
    """What the model writes next in each conversation: [(text, whether it ended its turn)]."""
    new, stop = sample_ids(model, tokenizer, [prompt_ids(talk, tokenizer) for talk in talks], **how), stop_tokens(model, tokenizer)
    return [(tokenizer.decode(ids, skip_special_tokens=True), ids[-1] in stop) for ids in new]


def prompt_ids(talk, tokenizer):
    """What the model reads before its next turn."""
    with quiet():  # a conversation that is too long is a result here, and no reason for the tokenizer to warn
        return encode_prompt(talk.messages, tokenizer)


def going_on(talks):
    """The conversations that have not ended."""
    return [talk for talk in talks if talk.end is None]
