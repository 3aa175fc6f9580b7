"""A blind comparison by a person: two answers in random order, every vote saved at once, resumed where it stopped.

In a notebook:   vote.widget("votes.jsonl", prompts, a, b)
In a terminal:   vote.in_terminal("votes.jsonl", prompts, a, b)
Afterwards:      vote.tally("votes.jsonl")
"""

import hashlib
import html
import json
import os
import time
from pathlib import Path

from lab.evaluate import bootstrap

PLACES = {"first": 0, "second": 1}
WORTH = {"a": 1.0, "b": 0.0, "tie": 0.5}


class Ballot:
    """What is still to be judged, and where the votes go. The voter never learns which model is a.

    path     of a file of JSON lines, one vote each: {"id", "winner", "order", "seconds"}.
    a, b     one answer of each model to each prompt. Where both are the same text, a tie is noted without asking.
    """

    def __init__(self, path, prompts, a, b, seed=0):
        self.path, self.seed = Path(path), seed
        rows = {identity(*row): row for row in zip(prompts, a, b, strict=True)}
        done, self.left = {vote["id"] for vote in votes(path)}, []
        for id, (prompt, x, y) in rows.items():
            if id not in done and x.strip() == y.strip():
                self.save(id, "tie", "same", 0.0)
            elif id not in done:
                self.left.append((id, prompt, x, y))
        self.total, self.shown = len(rows), time.monotonic()

    def current(self):
        """(prompt, first answer, second answer), or None when all is judged."""
        if not self.left:
            return None
        id, prompt, x, y = self.left[0]
        return (prompt, x, y) if self.order(id) == "ab" else (prompt, y, x)

    def order(self, id):
        """Which model stands first: by a hash, so that it is random, and the same if the ballot is opened again."""
        return "ab" if hashlib.sha256(f"{self.seed} {id}".encode()).digest()[0] % 2 else "ba"

    def choose(self, which):
        """Save a vote, "first", "second" or "tie", on the current pair, and go to the next."""
        if which not in (*PLACES, "tie"):
            raise ValueError(f"a vote is 'first', 'second' or 'tie', not {which!r}")
        id = self.left[0][0]
        winner = "tie" if which == "tie" else self.order(id)[PLACES[which]]
        self.save(id, winner, self.order(id), time.monotonic() - self.shown)
        self.left.pop(0)
        self.shown = time.monotonic()

    def save(self, id, winner, order, seconds):
        line = json.dumps({"id": id, "winner": winner, "order": order, "seconds": round(seconds, 2)})
        with self.path.open("a+b") as file:
            if cut_off(file):
                line = "\n" + line  # the last vote was cut off while it was written
            file.write((line + "\n").encode())
            file.flush()
            os.fsync(file.fileno())


def cut_off(file):
    """Does an open binary file end within a line? What is written next is appended all the same."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    return size > 0 and file.read(1) != b"\n"


def identity(prompt, x, y):
    """A pair's name: it changes with either answer, so votes on other answers are never taken for votes on these."""
    return hashlib.sha256(json.dumps([prompt, x, y]).encode()).hexdigest()[:16]


def votes(path):
    """The votes in a file, [] if there is none; a line that was cut off is left out, and its pair is asked again."""
    found = []
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        try:
            vote = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(vote, dict) and vote.get("winner") in WORTH and "id" in vote:
            found.append(vote)
    return found


def tally(path):
    """The share of votes for a, a tie counting half, with a bootstrap interval over the prompts. The first vote on a pair counts."""
    first = {}
    for vote in votes(path):
        first.setdefault(vote["id"], WORTH[vote["winner"]])
    if not first:
        raise ValueError(f"there is no vote in {path}")
    return bootstrap(list(first.values()))


def widget(path, prompts, a, b, seed=0):
    """The ballot in a notebook, with three buttons. Without ipywidgets it asks in the terminal instead."""
    try:
        import ipywidgets as w
    except ImportError:
        return in_terminal(path, prompts, a, b, seed)
    ballot = Ballot(path, prompts, a, b, seed)
    head, answers = w.HTML(), [w.HTML(layout=w.Layout(width="50%", padding="0 1em")) for _ in PLACES]
    labels = {"first": "The first is better", "second": "The second is better", "tie": "Equally good"}
    buttons = {which: w.Button(description=label, layout=w.Layout(width="auto")) for which, label in labels.items()}

    def refresh():
        pair = ballot.current()
        head.value = html.escape(f"{ballot.total - len(ballot.left)} of {ballot.total}: " + (pair[0] if pair else "all judged, thank you."))
        for box, text in zip(answers, pair[1:] if pair else ("", "")):
            box.value = html.escape(text).replace("\n", "<br>")
        for button in buttons.values():
            button.disabled = pair is None

    def press(which):
        if ballot.current():
            ballot.choose(which)
            refresh()

    for which, button in buttons.items():
        button.on_click(lambda _, which=which: press(which))
    refresh()
    return w.VBox([head, w.HBox(answers), w.HBox(list(buttons.values()))])


def in_terminal(path, prompts, a, b, seed=0, ask=input):
    """The ballot by `input`: 1, 2 or = for each pair, q to stop."""
    ballot, keys = Ballot(path, prompts, a, b, seed), {"1": "first", "2": "second", "=": "tie"}
    while pair := ballot.current():
        reply = ask("\n{}\n  1: {}\n  2: {}\n1, 2, = or q? ".format(*pair)).strip()
        if reply == "q":
            break
        if reply in keys:
            ballot.choose(keys[reply])
