"""Best-of-n: the estimator against all subsets, the distance against the enumerated policy; and the answer that a vote counts."""

import itertools
import math

import numpy as np
import pytest

from lab import evaluate, objectives, world
from lab.judge import answer_of, judge


def by_subsets(rewards, gold, n):
    """The mean over all subsets of n of the gold score of the best by reward; ties give their mean."""
    picks = []
    for subset in itertools.combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in subset)
        picks.append(np.mean([gold[i] for i in subset if rewards[i] == top]))
    return np.mean(picks)


@pytest.mark.parametrize("ties", [False, True])
def test_the_estimator_is_the_mean_over_all_subsets(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        rewards = rng.integers(0, 4, 7).astype(float) if ties else rng.normal(size=7)
        gold = rng.normal(size=7)
        for n in range(1, 8):
            assert evaluate.best_of_n(rewards, gold, n) == pytest.approx(by_subsets(rewards, gold, n))


def test_one_is_the_mean_and_all_is_the_maximum():
    rng = np.random.default_rng(1)
    rewards, gold = rng.normal(size=(2, 5, 32))
    np.testing.assert_allclose(evaluate.best_of_n(rewards, gold, 1), gold.mean(-1))
    np.testing.assert_allclose(evaluate.best_of_n(rewards, gold, 32), gold[np.arange(5), rewards.argmax(-1)])
    np.testing.assert_allclose(evaluate.best_of_n(gold, gold, 32), gold.max(-1))


def test_the_textbook_weights_and_their_sum():
    """Without ties the sample in place i weighs C(i-1, n-1) / C(N, n)."""
    N, ranks = 9, np.arange(9.0)
    for n in range(1, N + 1):
        weights = [evaluate.best_of_n(ranks, np.eye(N)[i], n) for i in range(N)]
        np.testing.assert_allclose(weights, [math.comb(i, n - 1) / math.comb(N, n) for i in range(N)])
        assert sum(weights) == pytest.approx(1)


def test_the_estimator_is_unbiased():
    """Three responses with two rewards that tie: the mean estimate over all samples of five is the exact expectation."""
    p, reward, gold = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.9, 0.4])
    draws = np.array(list(itertools.product(range(3), repeat=5)))  # all 243 samples
    chance = p[draws].prod(1)
    for n in range(1, 6):
        top = 1 - p[0] ** n  # at least one of the two with the higher reward; given that, in proportion to p
        exact = p[0] ** n * gold[0] + top * (p[1:] * gold[1:]).sum() / p[1:].sum()
        assert (chance * evaluate.best_of_n(reward[draws], gold[draws], n)).sum() == pytest.approx(exact)


def test_only_the_order_of_the_rewards_counts():
    rng = np.random.default_rng(2)
    rewards, gold = rng.normal(size=(2, 3, 10))
    np.testing.assert_allclose(evaluate.best_of_n(np.exp(5 * rewards), gold, 4), evaluate.best_of_n(rewards, gold, 4))
    shuffled = rng.permutation(10)
    np.testing.assert_allclose(evaluate.best_of_n(rewards[:, shuffled], gold[:, shuffled], 4), evaluate.best_of_n(rewards, gold, 4))


def test_many_samples_do_not_overflow():
    ranks = np.arange(3000.0)
    assert evaluate.best_of_n(ranks, ranks / 2999, 1500) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rewards, gold, n", [([1, 2], [1, 2], 3), ([1, 2], [1, 2], 0), ([1, 2, 3], [1, 2], 1), ([1, math.nan], [1, 2], 1)])
def test_the_estimator_refuses_what_it_cannot_do(rewards, gold, n):
    with pytest.raises(ValueError):
        evaluate.best_of_n(rewards, gold, n)


def test_the_distance_is_reached_by_many_small_steps_and_bounds_few_large_ones():
    def kl(levels, n):
        """Exactly, for a policy that is uniform on so many responses with different rewards."""
        upto = np.arange(1, levels + 1) / levels
        policy = upto**n - (upto - 1 / levels) ** n
        return (policy * np.log(policy * levels)).sum()

    assert objectives.best_of_n_kl(1) == 0
    for n in (2, 4, 16):
        assert kl(2, n) < kl(10, n) < objectives.best_of_n_kl(n)
        assert kl(100_000, n) == pytest.approx(objectives.best_of_n_kl(n), abs=1e-6)


ONE_ANSWER = ("fact", "country", "common", "sum", "words", "note")


def test_the_answer_of_a_right_sentence_is_the_right_one():
    for task in world.held_out(600, seed=0):
        if task.kind in ONE_ANSWER:
            assert task.answer and task.rivals
            assert answer_of(task, task.sentence) == task.answer
        else:
            assert not (task.answer and task.rivals)


def test_a_correct_response_gives_the_right_answer():
    """What the judge finds correct is counted as right; a vote sees answers only, so the converse need not hold."""
    tasks = [task for task in world.held_out(300, seed=1) if task.kind in ONE_ANSWER]
    for task, other in zip(tasks, tasks[6:] + tasks[:6]):
        for response in (task.sentence, task.answer, other.sentence, f"It is {other.answer}.", "I do not know.", ""):
            assert not judge(task, response).correct or answer_of(task, response) == task.answer


@pytest.mark.parametrize("kind, rivals, response, answer", [
    ("fact", ("Irby", "Kelso"), "Ann lives in Kelso.", "Kelso"),
    ("fact", ("Irby", "Kelso"), "Irby or Kelso.", None),
    ("fact", ("Irby", "Kelso"), "I do not know, perhaps Irby.", None),
    ("fact", ("Irby", "Kelso"), "I cannot help with that.", None),
    ("fact", ("Irby", "Kelso"), "", None),
    ("sum", ("7", "12", "19"), "7 plus 12 is 19.", "19"),
    ("sum", ("7", "12", "19"), "Seven.", None),
    ("words", ("sun", "jar", "oven"), "The words are jar sun.", "jar sun")])
def test_the_answer_that_a_vote_counts(kind, rivals, response, answer):
    assert answer_of(world.Task(kind, "?", "", rivals[0], rivals), response) == answer
