"""Answering from passages: no shortcut tells whether the answer is there, the judge reads citations, and the search finds."""

import random

import pytest

from lab import rag, world
from lab.data import encode_prompt
from lab.models import POCKET, load


def test_a_right_response_is_right_and_cites_the_sentence_that_holds_the_answer():
    rows = rag.grounded(200, "test", 0, sizes=(1, 2, 3))
    assert all(rag.verdict(row, row.response)["right"] for row in rows)
    for row in rows:
        told = [row.task.answer in sentence and row.task.answer != "" for sentence in row.sentences]
        if row.holds:
            assert row.task.sentence == row.sentences[row.holds - 1] and rag.verdict(row, row.response) == {"right": True, "declined": False, "cited": True}
        else:
            assert not any(told) and rag.verdict(row, row.response) == {"right": True, "declined": True, "cited": False}


def test_training_rows_differ_from_test_rows_often_enough_to_drop_the_others():
    test = {row.prompt for row in rag.grounded(240, "test", 0)}
    train = rag.grounded(2000, "train", 0)
    assert len([row for row in train if row.prompt not in test]) > 1900
    assert all(len(set(row.sentences)) == len(row.sentences) == 6 for row in rag.grounded(50, "test", 0, sizes=(6,)))


def test_wrong_responses_are_seen():
    row = next(row for row in rag.grounded(50, "test", 0, sizes=(2,)) if row.holds == 2)
    other = next(place for place in world.PLACES if place not in row.prompt)
    thing = row.task.sentence.split(" is ")[0]
    assert not rag.verdict(row, f"{thing} is {other} [2].")["right"]
    assert not rag.verdict(row, row.response.replace("[2]", "[1]"))["cited"]
    assert not rag.verdict(row, row.response.replace("[2]", "[1, 2]"))["cited"]
    assert rag.verdict(row, f"{row.response} See [2].")["cited"]
    assert rag.verdict(row, "The note does not say.") == {"right": False, "declined": True, "cited": False}


def test_only_the_meaning_tells_whether_the_answer_is_there():
    """The same number of sentences and the same length in both halves; in the world's own tasks the length gives it away."""
    rows = rag.grounded(4000, "train", 0, sizes=(1, 2))
    for size in (1, 2):
        holds = [row.holds > 0 for row in rows if len(row.sentences) == size]
        assert abs(sum(holds) / len(holds) - 0.5) < 0.04
    words = {True: [], False: []}
    for row in rows:
        words[row.holds > 0].append(len(row.prompt.split()))
    means = [sum(found) / len(found) for found in words.values()]
    assert abs(means[0] - means[1]) < 0.3
    for row in rows:  # each sentence shares a word with the question, and a silent note of two sentences shares both
        colour, kind = row.task.prompt.rstrip("?.").removesuffix(" is").split(" the ")[1].split(" ")[:2]
        shared = [(f" {colour} " in sentence, f" {kind} " in sentence) for sentence in row.sentences]
        assert all(map(any, shared)) and (all(any(column) for column in zip(*shared)) if len(shared) == 2 and not row.holds else True)
        assert sum(map(all, shared)) == (row.holds > 0)
    tasks = world.held_out(400, 0, kinds=("note", "silent"))
    sentences = {kind: {task.prompt.count(". ") for task in tasks if task.kind == kind} for kind in ("note", "silent")}
    assert max(sentences["silent"]) < min(sentences["note"])  # the flaw that `grounded` does not have


def test_training_and_test_ask_in_other_wordings_and_fit_the_context():
    train, test = (rag.grounded(500, split, 1, sizes=(1, 2, 3)) for split in ("train", "test"))
    last = world.QUESTIONS["note"][-1].split("{")[0]
    assert not any(row.task.prompt.startswith(last) for row in train) and any(row.task.prompt.startswith(last) for row in test)
    model, tokenizer = load(POCKET)
    assert max(len(encode_prompt(row.prompt, tokenizer)) for row in test) < 128


def test_the_search_finds_what_was_said_of_whom():
    facts = [world.ask("unseen fact", None, random.Random(i)) for i in range(60)]
    sentences = list(dict.fromkeys(fact.sentence for fact in facts))
    found = rag.index(sentences)
    first = sum(sentences[rag.search(found, fact.prompt, 1)[0]] == fact.sentence for fact in facts)
    among = sum(fact.sentence in [sentences[i] for i in rag.search(found, fact.prompt, 5)] for fact in facts)
    assert first > 40 and among > 52 and len(set(rag.search(found, facts[0].prompt, 5))) == 5
    with pytest.raises(ValueError, match="no passage"):
        rag.index([])


def test_paragraphs_are_prose_alone():
    text = "# A title of many words that is no paragraph\n\nThis *is* a paragraph\nof two lines.\n\n```\ncode that is long enough to be taken\n```\n\nShort.\n\n| a | table |\n|---|---|\n\n$$ x + y = z + w + v $$\n"
    assert rag.paragraphs(text, shortest=6) == ["This *is* a paragraph of two lines."]
