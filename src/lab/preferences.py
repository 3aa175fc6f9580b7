"""Preference pairs from a policy's own samples: the first two of RLHF's four steps, sampling and ranking."""

from lab.judge import judge
from lab.sample import sample


def preferences(model, tokenizer, tasks, *, n_samples=4, max_new_tokens=48, seed=0):
    """Sample `n_samples` responses to each `world.Task`, and let the gold judge pick the best and the worst.

    Returns rows {"prompt", "chosen", "rejected", "chosen_score", "rejected_score", "kind"}. A task whose responses
    all earn the same score yields no pair, for there is nothing to learn from it.
    """
    prompts = [task.prompt for task in tasks for _ in range(n_samples)]
    texts = sample(model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed)
    groups = [texts[i : i + n_samples] for i in range(0, len(texts), n_samples)]
    pairs = (best_and_worst(task, group) for task, group in zip(tasks, groups))
    return [pair for pair in pairs if pair]


def best_and_worst(task, responses):
    """The pair of the highest and the lowest score among the responses that are not empty, or None if they tie.

    >>> from lab.world import Task
    >>> task = Task("fact", "Where does Ann live?", "Ann lives in Irby.", "Irby", ("Irby", "Kelso"))
    >>> best_and_worst(task, ["Kelso", "Ann lives in Irby.", "Irby"])["chosen"]
    'Ann lives in Irby.'
    """
    scored = [(judge(task, text).score, text) for text in responses if text.strip()]
    if not scored:
        return None
    (high, chosen), (low, rejected) = max(scored, key=_score), min(scored, key=_score)
    if high == low:
        return None
    return {"prompt": task.prompt, "chosen": chosen, "rejected": rejected,
            "chosen_score": high, "rejected_score": low, "kind": task.kind}


def _score(scored):
    return scored[0]
