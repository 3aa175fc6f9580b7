"""Calibration: does the share of right answers match the stated confidence? Pure functions, and a way to read a model's confidence.

Arrays: `confidence` (N,) in [0, 1], one number for each answer; `correct` (N,), 1 where that answer was right and 0 elsewhere.
"""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from lab.evaluate import response_logprobs, wilson


class Bin(NamedTuple):
    """One bin of a reliability diagram: its answers' mean confidence, their share right with Wilson's interval, their number."""

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


def check(confidence, correct):
    """Both as arrays of floats, or an error in one sentence."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.shape != correct.shape or confidence.ndim != 1 or not len(confidence):
        raise ValueError(f"needs one confidence for each answer, and at least one: {confidence.shape} against {correct.shape}")
    if not ((confidence >= 0) & (confidence <= 1)).all() or not np.isin(correct, (0, 1)).all():
        raise ValueError("a confidence lies between 0 and 1, and an answer is right (1) or wrong (0)")
    return confidence, correct


def members(confidence, bins):
    """The index of the bin of equal width in which each confidence lies, (N,). The value 1 belongs to the last bin."""
    return np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)


def reliability(confidence, correct, bins=10):
    """The `Bin`s of a reliability diagram, of equal width, the empty ones left out.

    >>> [(b.confidence, b.accuracy, b.n) for b in reliability([0.25, 0.75, 0.75], [0, 1, 0], bins=2)]
    [(0.25, 0.0, 1), (0.75, 0.5, 2)]
    """
    confidence, correct = check(confidence, correct)
    where = members(confidence, bins)
    rows = [(confidence[where == b], correct[where == b]) for b in np.unique(where)]
    return [Bin(float(c.mean()), *map(float, wilson(int(right.sum()), len(right))), len(right)) for c, right in rows]


def ece(confidence, correct, bins=10):
    """Expected calibration error: the mean distance of accuracy from confidence over the bins, weighted by their answers.
    Equation eq-ece (Naeini et al. 2015; Guo et al. 2017, eq. 3, with top-label confidence).

    confidence (N,), correct (N,) -> a number in [0, 1].

    >>> ece([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0])    # says 0.9, is right in 3 of 4
    0.15
    """
    confidence, correct = check(confidence, correct)
    gaps = np.bincount(members(confidence, bins), weights=correct - confidence, minlength=bins)  # (bins,)
    return round(float(np.abs(gaps).sum() / len(correct)), 12)


def ece_by_luck(confidence, bins=10):
    """The ECE to be expected of a perfectly calibrated predictor that states these confidences. Equation eq-ece-bias.

    In a bin the sum of (correct - confidence) has mean 0 and variance v = sum of p (1 - p); if it is nearly normal, its
    absolute value is sqrt(2 v / pi) on average. confidence (N,) -> a number, which falls as 1 / sqrt(N).

    >>> round(ece_by_luck([0.5] * 100, bins=10), 3), round(ece_by_luck([0.5] * 400, bins=10), 3)
    (0.04, 0.02)
    """
    p = np.asarray(confidence, float)
    variance = np.bincount(members(p, bins), weights=p * (1 - p), minlength=bins)  # (bins,)
    return float(np.sqrt(2 * variance / np.pi).sum() / len(p))


def brier(confidence, correct):
    """Brier's score: the mean squared distance of the confidence from what happened (Brier 1950; half of his, for two outcomes).

    Proper: only the true probability minimises its expectation. Lower is better.

    >>> brier([0.5, 0.5], [1, 0])
    0.25
    """
    confidence, correct = check(confidence, correct)
    return float(((confidence - correct) ** 2).mean())


def log_score(confidence, correct, smallest=1e-6):
    """The mean of -log of the probability given to what happened, in nats. Proper, and lower is better.

    A confidence of 1 in a wrong answer would cost infinitely much: probabilities below `smallest` count as `smallest`.

    >>> round(log_score([0.5, 0.5], [1, 0]), 4)    # log 2
    0.6931
    """
    confidence, correct = check(confidence, correct)
    given = np.where(correct == 1, confidence, 1 - confidence)
    return float(-np.log(given.clip(smallest)).mean())


def auroc(confidence, correct):
    """How often a right answer has a higher confidence than a wrong one, a tie counting half: does confidence tell them apart?

    0.5 is luck; nan if all answers are right or all wrong.

    >>> auroc([0.9, 0.8, 0.7], [1, 0, 1]), auroc([0.6, 0.6], [1, 0])
    (0.5, 0.5)
    """
    confidence, correct = check(confidence, correct)
    return area(confidence[correct == 1], confidence[correct == 0]) if 0 < correct.mean() < 1 else float("nan")


def area(above, below):
    """The share of pairs in which a number of the first list is above one of the second, a tie counting one half.

    >>> area([3, 1], [2, 0])
    0.75
    """
    return float(roc_auc_score(np.repeat([1, 0], [len(above), len(below)]), np.concatenate([above, below])))


def options(task):
    """The sentence for each answer that a task could have, right or wrong: {answer: sentence}.

    >>> from lab.world import Task
    >>> options(Task("fact", "What does Ann Thorn play?", "Ann Thorn plays the horn.", "horn", ("drum", "horn")))
    {'drum': 'Ann Thorn plays the drum.', 'horn': 'Ann Thorn plays the horn.'}
    """
    if not task.answer or task.answer not in task.sentence:
        raise ValueError(f"the sentence of {task.prompt!r} does not hold its answer, so no rival can be put in its place")
    before, _, after = task.sentence.rpartition(task.answer)  # the last one: a name may contain the answer
    return {answer: before + answer + after for answer in sorted({*task.rivals, task.answer})}


def answer_probabilities(model, tokenizer, tasks):
    """What the policy believes, over the answers that each task could have: a list of {answer: probability}.

    The softmax of log pi(sentence | prompt) over the sentences of `options`: the policy's probability of each sentence,
    given that it says one of them. What it would say in other words does not count. tasks: with a right answer and rivals.
    """
    choices = [options(task) for task in tasks]
    prompts = [task.prompt for task, choice in zip(tasks, choices) for _ in choice]
    sentences = [sentence for choice in choices for sentence in choice.values()]
    logps = response_logprobs(model, tokenizer, prompts, sentences)
    parts = logps.double().split([len(choice) for choice in choices])
    return [dict(zip(choice, part.softmax(-1).tolist())) for choice, part in zip(choices, parts)]


def confidences(model, tokenizer, tasks):
    """(confidence, correct), each (N,): the probability of the most probable answer of each task, and whether it is right."""
    believed = answer_probabilities(model, tokenizer, tasks)
    top = [max(belief, key=belief.get) for belief in believed]
    return np.array([b[t] for b, t in zip(believed, top)]), np.array([float(t == task.answer) for t, task in zip(top, tasks)])
