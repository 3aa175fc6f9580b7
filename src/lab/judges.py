"""Judges behind one interface, and what is made of their verdicts: win-rates, with length controlled, and ratings.

A judge is a function (prompt, first, second) -> P(first is the better answer): 1, 0 and 1/2 for a verdict and a tie, or any
number between. The gold judge, a judge with dialled-in faults, a language model and a reward model all have this form.

>>> shorter = lambda prompt, first, second: float(len(first) < len(second))
>>> both_orders(shorter)("How are you?", "Well.", "Very well indeed.")
1.0
"""

import http.client
import json
import math
import re
import time
import urllib.error
import urllib.request

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from lab.evaluate import Interval, response_logprobs
from lab.judge import judge as gold_verdict
from lab.objectives import bradley_terry_loss
from lab.sample import sample

CERTAIN = 1e-6  # the nearest that a judge's probability comes to 0 or 1 before a bias is added to its logit


class JudgeError(RuntimeError):
    """A judge that cannot be asked, in one sentence."""


def logistic(m):
    """sigma(m) = 1 / (1 + e^-m), as a float; 0 and 1 for infinite m."""
    return float(expit(m))


# Judges


def by_score(score, strength=1.0):
    """A judge by Bradley and Terry's model: P(first) = sigma(strength (score(prompt, first) - score(prompt, second))).

    score     (prompt, response) -> a number. strength  how sharp the judge's eye is; math.inf always names the higher score.
    """

    def decide(prompt, first, second):
        gap = score(prompt, first) - score(prompt, second)
        return logistic(strength * gap) if gap else 0.5

    return decide


def gold(tasks, measure="score", strength=math.inf):
    """The gold judge of these tasks. measure: what of `judge.Verdict` it goes by, "score" or "correct"."""
    asked = {task.prompt: task for task in tasks}
    return by_score(lambda prompt, response: float(getattr(gold_verdict(asked[prompt], response), measure)), strength)


def words(response):
    """How long a text is."""
    return len(response.split())


def biased(judge, *, position=0.0, length=0.0, noise=0.0, scale=10.0, style=None):
    """A judge with faults: in logits, `position` for whoever stands first and up to `length` for the longer answer.

    length   times tanh(difference in words / scale), so that one word counts little and fifty no more than thirty.
    noise    the probability that the judge does not look, and tosses a coin.
    style    a function response -> number, in logits: whatever else this judge falls for.
    """

    def decide(prompt, first, second):
        p = min(max(judge(prompt, first, second), CERTAIN), 1 - CERTAIN)
        logit = math.log(p / (1 - p)) + position + length * math.tanh((words(first) - words(second)) / scale)
        if style:
            logit += style(first) - style(second)
        return (1 - noise) * logistic(logit) + noise / 2

    return decide


def drawn(judge, seed=0):
    """The judge's probability made a verdict, 0 or 1, as one annotator would give it; a new draw at each call."""
    rng = np.random.default_rng(seed)
    return lambda prompt, first, second: float(rng.random() < judge(prompt, first, second))


def both_orders(judge):
    """The judge asked twice, with the answers swapped, and the mean taken. What it owes to the place alone cancels."""
    return lambda prompt, first, second: (judge(prompt, first, second) + 1 - judge(prompt, second, first)) / 2


# A language model as a judge

ASK = """You compare two answers to one request. Judge whether they are right and to the point; neither their order nor their length counts.

Request: {prompt}

Answer 1: {first}

Answer 2: {second}

Which answer is better? Reply with 1, 2, or "tie" if they are equally good."""
VERDICTS = {"1": 1.0, "2": 0.0, "tie": 0.5}


def llm_judge(chat, ask=ASK):
    """A judge that asks a language model. chat: a function from a text (str) to the model's reply (str).

    A reply without one clear verdict counts as a tie, and in `judge.unread`, out of `judge.asked`: look at it afterwards.
    """

    def decide(prompt, first, second):
        decide.asked += 1
        verdict = read_verdict(chat(ask.format(prompt=prompt, first=first, second=second)))
        decide.unread += verdict is None
        return 0.5 if verdict is None else verdict

    decide.asked = decide.unread = 0
    return decide


def read_verdict(reply):
    """1 for the first, 0 for the second, 1/2 for a tie, and None for a reply that names none of them or several.

    The answers have numbers and not letters, for "A good question!" is no verdict.

    >>> read_verdict("1"), read_verdict("Answer 2."), read_verdict("**Tie**"), read_verdict("1 or 2"), read_verdict("A good question!")
    (1.0, 0.0, 0.5, None, None)
    """
    named = set(re.findall(r"\b(?:1|2|tie)\b", reply.lower()))
    return VERDICTS[named.pop()] if len(named) == 1 else None


def local_chat(model, tokenizer, max_new_tokens=8, choices=None):
    """A chat function of a model in this process, greedy.

    choices  replies, such as those of VERDICTS, of which it then gives the most probable one: a small model seldom keeps to a format by itself.
    """
    if choices:
        choices = list(choices)
        return lambda text: choices[int(response_logprobs(model, tokenizer, [text] * len(choices), choices).argmax())]
    return lambda text: sample(model, tokenizer, [text], max_new_tokens=max_new_tokens, temperature=0)[0]


def openai_chat(address, model, key="", *, timeout=30.0, retries=4, pause=1.0, max_tokens=8):
    """A chat function of any server that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama, a provider).

    address  up to and with its version, as "http://localhost:8000/v1". key: sent in the header and never printed.
    retries  how often to try again after "too many requests" (429) or a server that is busy (503), `pause` seconds later,
             then twice that, or when the server says.
    """
    url, headers = address.rstrip("/") + "/chat/completions", {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"

    def chat(text):
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": max_tokens}
        for attempt in range(retries + 1):
            try:
                request = urllib.request.Request(url, json.dumps(body).encode(), headers)
                with urllib.request.urlopen(request, timeout=timeout) as reply:
                    return json.load(reply)["choices"][0]["message"]["content"] or ""
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503) or attempt == retries:
                    raise JudgeError(f"the server at {address} answered {error.code} ({error.reason}) to the model {model!r}") from error
                time.sleep(waiting(error.headers.get("Retry-After"), pause * 2**attempt))
            except (OSError, ValueError, http.client.HTTPException) as error:  # no connection, a timeout, or an address that is none
                if isinstance(error, json.JSONDecodeError):
                    raise JudgeError(f"the server at {address} did not answer in OpenAI's format") from error
                raise JudgeError(f"no answer from {address} within {timeout:g} s: is a server running there?") from error
            except (KeyError, IndexError, TypeError) as error:
                raise JudgeError(f"the server at {address} did not answer in OpenAI's format") from error

    return chat


def waiting(header, otherwise):
    """Seconds to wait: what the server asks for, at most a minute."""
    return min(float(header), 60.0) if header and header.replace(".", "", 1).isdigit() else min(otherwise, 60.0)


# What is made of verdicts


def compare(judge, prompts, a, b):
    """P(a is better) by the judge for each prompt, (N,). a, b: one response to each prompt."""
    return np.array([judge(prompt, x, y) for prompt, x, y in zip(prompts, a, b, strict=True)])


def length_controlled(verdicts, a, b, scale=None, resamples=200, seed=0):
    """The win-rate that a would have if its answers were as long as b's. Equation eq-length-control (after Dubois et al. 2024).

    Logistic regression: logit P(a wins) = theta + gamma tanh(difference in words / scale); the result is sigma(theta), with a
    bootstrap interval over the prompts. It is what is meant if length enters the judge's logit by such a term and otherwise
    has nothing to do with which answer is better. scale: the standard deviation of the differences, as in the paper, if not given.
    Where nearly all of a's answers are longer, equal length lies outside the data, and the result is an extrapolation.
    """
    verdicts, z = np.asarray(verdicts, float), length_term(a, b, scale)
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(z), len(z)) for _ in range(resamples)]
    means = [logistic(fit_logistic(z[d], verdicts[d])[0]) for d in draws]
    return Interval(logistic(fit_logistic(z, verdicts)[0]), *map(float, np.quantile(means, [0.025, 0.975])))


def at_equal_length(verdicts, a, b, scale=None):
    """The estimate of `length_controlled` without its interval, for one value per seed."""
    return logistic(fit_logistic(length_term(a, b, scale), np.asarray(verdicts, float))[0])


def length_term(a, b, scale=None):
    """tanh(difference in words / scale) of each pair of answers, (N,). Raises ValueError where all differ by about the same."""
    gaps = np.array([words(x) - words(y) for x, y in zip(a, b, strict=True)], float)
    z = np.tanh(gaps / (scale or gaps.std() or 1.0))
    if gaps.any() and z.std() < 0.05:
        raise ValueError(f"all answers differ in length by about the same ({gaps.mean():.0f} words), so length and quality cannot be told apart")
    return z


def fit_logistic(z, verdicts, ridge=1e-3, steps=50):
    """(theta, gamma) of logit P = theta + gamma z by Newton's method; verdicts in [0, 1]. The small ridge keeps both finite."""
    X, w = np.stack([np.ones_like(z), z], 1), np.zeros(2)
    for _ in range(steps):
        p = expit(X @ w)
        step = np.linalg.solve((X.T * (p * (1 - p))) @ X + ridge * np.eye(2), X.T @ (verdicts - p) - ridge * w)
        w = w + np.clip(step, -4, 4)
        if np.abs(step).max() < 1e-8:
            break
    return w


def ratings(wins):
    """Bradley and Terry's ratings of several models: (M,), with mean 0, in logits. Equation eq-ratings.

    wins (M, M): how often the row's model beat the column's, a tie counting half for each. P(i beats j) = sigma(r_i - r_j).
    Times 400 / log(10) they are on the scale of Elo's ratings.

    >>> ratings([[0, 3], [1, 0]]).round(3)    # 3 to 1: the difference is log 3
    array([ 0.549, -0.549])
    """
    wins = torch.as_tensor(np.asarray(wins, float))
    if connected_components(wins.numpy() > 0, directed=True, connection="strong")[0] > 1:
        raise ValueError("some of the models never lost to the others (or never met them), so no finite ratings fit (Ford 1957)")
    first, second = (wins > 0).nonzero().T

    def loss(r):
        r = torch.tensor(r, requires_grad=True)
        total = (wins[first, second] * bradley_terry_loss(r[first], r[second])).sum() / wins.sum()
        (gradient,) = torch.autograd.grad(total, r)
        return total.item(), gradient.numpy()

    r = minimize(loss, np.zeros(len(wins)), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return r - r.mean()
