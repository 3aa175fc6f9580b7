"""Answering from what was retrieved: find passages, number them in the prompt, answer from one and cite it, or say that none has it.

The retriever is TF-IDF of scikit-learn, the oldest that works. The tasks are of the pocket world, so it is known which sentence holds
the answer, and whether any does.
"""

import random
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from lab import world
from lab.judge import judge

ASK = "Read this note."


def prompt(passages, question, ask=ASK):
    """What a model is asked: the passages with their numbers, and then the question.

    >>> prompt(["Ann lives in Irby.", "Ben has a dog."], "Who has a dog?")
    'Read this note. [1] Ann lives in Irby. [2] Ben has a dog. Who has a dog?'
    """
    return " ".join([ask, *(f"[{i}] {passage}" for i, passage in enumerate(passages, 1)), question])


def cited(response):
    """The numbers that a response cites.

    >>> cited("In Irby [1], or in Kelso [3, 4].")
    [1, 3, 4]
    """
    return [int(number) for found in re.findall(r"\[([\d, ]+)\]", response) for number in re.findall(r"\d+", found)]


# Tasks


class Grounded(NamedTuple):
    """A question with the sentences to answer it from. `holds` is the number of the one that has the answer, 0 if none has."""

    task: world.Task
    sentences: list
    holds: int

    @property
    def prompt(self):
        return prompt(self.sentences, self.task.prompt)

    @property
    def response(self):
        """A right response: the sentence and its number."""
        return f"{self.task.sentence.rstrip('.')} [{self.holds}]." if self.holds else self.task.sentence


def grounded(n, split, seed, sizes=(1, 2), lacking=0.5):
    """n tasks with `sizes` sentences each, of which a share `lacking` do not hold the answer.

    Whether the answer is there must show in nothing but the meaning. So the number of sentences is drawn in the same way for both, and
    every sentence is about a thing of the colour that is asked for, or of the kind: one word in common tells nothing.
    """
    rng = random.Random(f"grounded {split} {seed}")
    return [_grounded(rng.choice(sizes), split, rng, rng.random() < lacking) for _ in range(n)]


def _grounded(size, split, rng, lacks):
    thing, others = near(rng, size)
    told = others[:size] if lacks else rng.sample([thing, *others[: size - 1]], size)
    facts = dict(zip(told, rng.sample(world.PLACES, size)))
    sentence = world.SILENT.format(a=thing) if lacks else world.SENTENCES["note"].format(a=thing, b=facts[thing])
    task = world.Task("silent" if lacks else "note", world.question("note", split, rng, a=thing), sentence, facts.get(thing, ""), tuple(world.PLACES))
    return Grounded(task, [world.SENTENCES["note"].format(a=name, b=place) for name, place in facts.items()], 0 if lacks else told.index(thing) + 1)


def near(rng, size):
    """A thing, and `size` others of the same colour or the same kind, in turn. At most 18 others differ from each other."""
    (colour, *colours), (kind, *kinds) = (rng.sample(words, len(words)) for words in (world.CATEGORIES["colours"], world.THINGS))
    of_both = [name for pair in zip([f"{colour} {other}" for other in kinds], [f"{other} {kind}" for other in colours]) for name in pair]
    first = rng.randint(0, 1)
    return f"{colour} {kind}", of_both[first : first + size]


def verdict(row, response):
    """{"right", "declined", "cited"} of one response: the judge's two, and whether it names the sentence with the answer and no other."""
    found = judge(replace(row.task, prompt=row.prompt), response)
    return {"right": found.correct, "declined": found.abstained or found.refused, "cited": set(cited(response)) == {row.holds}}


# Retrieval


class Index(NamedTuple):
    """Passages, and their words' weights: rows of unit length."""

    passages: list
    vectorizer: TfidfVectorizer
    weights: object  # (passages, words), sparse


def index(passages):
    """An index over passages (list of str). Word stems matter more than endings, so the features are pieces of words."""
    if not passages:
        raise ValueError("there is no passage to search in")
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    return Index(list(passages), vectorizer, vectorizer.fit_transform(passages))


def search(found, question, k=1):
    """The numbers (from 0) of the k passages nearest to the question by the cosine of their weights, the nearest first."""
    scores = (found.weights @ found.vectorizer.transform([question]).T).toarray()[:, 0]
    return np.argsort(-scores, kind="stable")[:k].tolist()


def paragraphs(text, shortest=15):
    """The paragraphs of a Markdown text that have at least `shortest` words, without code, tables and headings."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().enable("table").parse(text)
    inside = [after.content for before, after in zip(tokens, tokens[1:]) if before.type == "paragraph_open"]
    return [" ".join(content.split()) for content in inside if len(content.split()) >= shortest and not content.lstrip().startswith("$")]
