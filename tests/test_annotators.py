"""Annotators: they prefer as often as they say, and the populations differ in the way that they are meant to."""

import statistics

import pytest

from lab import world
from lab.annotators import CROWD, EXPERTS

TASKS = world.held_out(240, seed=0, kinds=("fact", "sum", "common"))


@pytest.mark.parametrize("annotators", [EXPERTS, CROWD], ids=lambda a: a.name)
def test_they_prefer_as_often_as_their_model_says(annotators):
    samples = [(task.sentence, "I do not know.") for task in TASKS]
    share = statistics.fmean(row["first"] for seed in range(20) for row in annotators.compare(TASKS, samples, seed))
    expected = statistics.fmean(annotators.probability(task, *pair) for task, pair in zip(TASKS, samples))
    assert abs(share - expected) < 0.02
    for row in annotators.compare(TASKS, samples):
        assert 0 < row["p"] < 1 and {row["chosen"], row["rejected"]} == {"I do not know.", next(t.sentence for t in TASKS if t.prompt == row["prompt"])}


def test_swapping_the_two_swaps_the_probability():
    task = TASKS[0]
    assert EXPERTS.probability(task, "a", task.sentence) + EXPERTS.probability(task, task.sentence, "a") == pytest.approx(1)


def test_experts_pay_for_truth_and_the_crowd_for_tone():
    task = TASKS[0]
    friendly = f"{world.OPENERS[0]} I do not know. {world.CLOSERS[0]}"
    assert EXPERTS.probability(task, task.sentence, friendly) > 0.9
    assert CROWD.probability(task, task.sentence, friendly) < 0.5


def test_equal_or_empty_samples_give_no_row():
    assert EXPERTS.compare(TASKS[:2], [("same", "same "), ("", "x")]) == []
