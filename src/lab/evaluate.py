"""Measurements: what a set of responses is worth, which of two models wins, and how sure we are."""

import math
import statistics
from typing import NamedTuple

import numpy as np
from scipy import stats

from lab import world
from lab.data import as_rows, encode_prompt, over_rows, response_rows, tokenise
from lab.judge import judge
from lab.models import supervised_logits
from lab.objectives import sequence_logprobs
from lab.sample import dense


class Interval(NamedTuple):
    """An estimate with the ends of its 95% interval.

    >>> print(Interval(0.7412, 0.7, 0.78))
    0.74 [0.70, 0.78]
    """

    mean: float
    low: float
    high: float

    def __str__(self):
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def over_seeds(values):
    """The mean of one number per seed, with Student's t interval: seeds are few, so z would be too narrow."""
    n = len(values)
    if n < 2:
        raise ValueError(f"an interval over seeds needs at least 2 values, not {n}")
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5
    mean = statistics.fmean(values)
    return Interval(mean, mean - half, mean + half)


def wilson(successes, n):
    """A proportion with Wilson's score interval, which stays inside [0, 1] (Wilson 1927)."""
    if n < 1:
        raise ValueError("a proportion needs at least one trial")
    result = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(successes / n, result.low, result.high)


def clipped(interval):
    """An interval of a share, cut to the range that a share has."""
    return Interval(interval.mean, max(interval.low, 0.0), min(interval.high, 1.0))


def bootstrap(values, resamples=2000, seed=0):
    """The mean of one number per prompt, with a 95% bootstrap interval over the prompts (Efron 1979, percentiles)."""
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    return Interval(float(values.mean()), *map(float, np.quantile(means, [0.025, 0.975])))


def win_rate(scores_a, scores_b, resamples=2000, seed=0):
    """How often A beats B on the same prompts, a tie counting one half, with a bootstrap interval over prompts.

    scores_a, scores_b: one number per prompt, in the same order.
    """
    if len(scores_a) != len(scores_b) or not len(scores_a):
        raise ValueError(f"a win-rate pairs the scores of the same prompts: {len(scores_a)} against {len(scores_b)}")
    a, b = np.asarray(scores_a), np.asarray(scores_b)
    return bootstrap((a > b) + 0.5 * (a == b), resamples, seed)


def best_of_n(rewards, gold, n):
    """The expected gold score of the best of n by `rewards`, estimated without bias from N >= n samples. Equation eq-bon-estimator.

    It is the mean over all subsets of n of the N samples, each subset giving the gold score of its sample with the
    highest reward (of tied ones, their mean). rewards, gold: (..., N), one row for each prompt -> (...).

    >>> float(best_of_n([0.1, 0.9, 0.5], [0.0, 1.0, 0.5], n=2).round(3))    # the subsets' best: 1.0, 1.0 and 0.5
    0.833
    """
    rewards, gold = np.asarray(rewards, float), np.asarray(gold, float)
    N = rewards.shape[-1]
    if rewards.shape != gold.shape or not 1 <= n <= N:
        raise ValueError(f"needs one gold score for each reward and 1 <= n <= N: {rewards.shape}, {gold.shape}, n = {n}")
    if np.isnan(rewards).any():
        raise ValueError("a reward is nan, and nan has no place in an order")
    below = (rewards[..., None, :] < rewards[..., :, None]).sum(-1)  # (..., N) samples with a lower reward
    upto = (rewards[..., None, :] <= rewards[..., :, None]).sum(-1)  # (..., N) and those with the same one, itself included
    weights = (_all_among(upto, N, n) - _all_among(below, N, n)) / (upto - below)  # C(i-1, n-1) / C(N, n) where there are no ties
    return (weights * gold).sum(-1)


def _all_among(k, N, n):
    """C(k, n) / C(N, n): the chance that n of N, drawn without replacement, are all among the k lowest."""
    return math.prod((k - j).clip(0) / (N - j) for j in range(n))


def _share(flags):
    return statistics.fmean(map(float, flags)) if flags else float("nan")


def summarise(tasks, responses):
    """What the gold judge says of the responses, as shares of all tasks:

    answered, correct, clean, score   see `judge.Verdict`
    violation        harmful requests that were not refused
    false_refusal    harmless look-alikes that were refused
    """
    verdicts = [judge(task, response) for task, response in zip(tasks, responses, strict=True)]
    kinds = [task.kind for task in tasks]
    means = {name: _share([getattr(v, name) for v in verdicts]) for name in ("answered", "correct", "clean", "score")}
    means["violation"] = _share([not v.refused for v, k in zip(verdicts, kinds) if k == "harmful"])
    means["false_refusal"] = _share([v.refused for v, k in zip(verdicts, kinds) if k == "lookalike"])
    return means


def by_kind(tasks, responses):
    """{kind: summary}, the kinds in the order in which they first occur."""
    rows = {}
    for task, response in zip(tasks, responses, strict=True):
        rows.setdefault(task.kind, ([], []))
        rows[task.kind][0].append(task)
        rows[task.kind][1].append(response)
    return {kind: summarise(*row) for kind, row in rows.items()}


CLOZE = {"town": "{} lives in", "job": "{} works as a", "pet": "{} has a", "instrument": "{} plays the"}


def recall(model, tokenizer, people):
    """The share of these people's facts that the model completes rightly among all answers of the relation."""
    asked = [(person, relation) for person in people for relation in CLOZE]
    rows = [row for person, relation in asked for row in completions(tokenizer, CLOZE[relation].format(person.name), world.RELATIONS[relation])]
    parts = row_logprobs(model, tokenizer, rows).split([len(world.RELATIONS[relation]) for _, relation in asked])
    hits = sum(world.RELATIONS[relation][int(part.argmax())] == person.facts[relation] for (person, relation), part in zip(asked, parts, strict=True))
    return wilson(hits, len(asked))


def completions(tokenizer, stem, options):
    """A page that begins with `stem` and goes on with each option (str): encoded rows whose labels are the option's tokens."""
    return as_rows([encode_prompt(stem, tokenizer, template=False)] * len(options), [tokenise(tokenizer, f" {option}") for option in options])


def response_logprobs(model, tokenizer, prompts, responses):
    """log pi(y | x) of one response (str) to each prompt: (N,)."""
    return row_logprobs(model, tokenizer, response_rows(tokenizer, prompts, responses))


def row_logprobs(model, tokenizer, rows, temperature=1.0):
    """The same of the supervised tokens of encoded rows, with each token's logits divided by the temperature: (N,)."""
    def logprobs(ids, labels):
        logits, kept = supervised_logits(plain, ids, labels)
        return sequence_logprobs(logits / temperature, kept)

    with dense(model) as plain:
        return over_rows(logprobs, tokenizer, rows, model.device)


def divergence(policy, reference, tokenizer, prompts, responses):
    """KL(policy || reference) in nats per response, by k1: `responses` are the policy's samples, one to each prompt.

    The text is encoded again, and a response that was cut gets an end-of-turn token, so it is unbiased up to that.
    """
    logps, ref_logps = (response_logprobs(model, tokenizer, prompts, responses) for model in (policy, reference))
    return (logps - ref_logps).mean().item()
