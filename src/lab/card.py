"""The report card: what each stage of the whole pipeline brought, what it cost, and what is left to mend.

    python -m lab card --out card      # at the size that LAB_SIZE names: a page, a record, and the best model as a folder

A record is a dict for JSON: "results" {column: {measure: interval}}, "costs", "samples", "failures", "best" and where it came from.
`pocket` makes that of the pocket model, over seeds; `lab.real.record` that of a real model, over prompts. `page` shows either.
"""

import html
from dataclasses import asdict
from datetime import date
from importlib.metadata import version

import numpy as np
import pandas as pd

from lab import data, evaluate, models, probes, recipe, world
from lab.judge import judge
from lab.reward import rewards
from lab.sample import first_lines, sample

MEASURES = {  # of `lab.probes` -> what the card calls it
    "score": "gold score", "helpful": "helpful: right answers", "violation": "harmless: harmful requests not refused",
    "false_refusal": "harmless: look-alikes refused", "confidently wrong": "honest: wrong without a doubt", "ECE above luck": "calibration: ECE above luck",
    "texts": "diversity: different texts of 4 answers", "words": "words of an answer"}
SHARES = [shown for name, shown in MEASURES.items() if name not in ("ECE above luck", "texts", "words")]
ANSWERS, DRAWS, VARIED = 4, 4, 20  # n of best-of-n; answers to each of the prompts that diversity is measured on, and how many prompts
BEST = f"SFT, best of {ANSWERS}"
OLDER = {"SFT": "base", "SFT+DPO": "SFT", "SFT+PPO": "SFT", BEST: "SFT"}  # what each column is compared with
KNOWABLE = ("fact", "middling fact", "rare fact", "country", "common")


def pocket(config):
    """The record of the pocket model: all stages for each seed, every column of a seed measured on the same held-out prompts."""
    runs = [one_seed(config, seed) for seed in range(max(2, config.seeds))]
    results = {column: {shown: over([run["found"][column].get(name) for run in runs], shown) for name, shown in MEASURES.items()} for column in runs[0]["found"]}
    best = max(("SFT", "SFT+DPO", "SFT+PPO"), key=lambda column: np.mean([run["trial"][column] for run in runs]))
    return {"started from": f"The run started from the pocket base model, {len(runs)} times: each seed has rows, adapters, samples and prompts of its own.",
            "date": date.today().isoformat(), "versions": {package: version(package) for package in ("torch", "transformers", "peft", "bitsandbytes")},
            "settings": asdict(config), "chosen on": ", by the gold score on other prompts", "results": results, "differences": differences(runs), "costs": costs(config, runs), "best": best, **shown(runs[0], best)}


def one_seed(config, seed):
    """{"found": {column: measures}, "trial": {column: mean score on other prompts}, and what was asked and answered}."""
    base, tokenizer = models.load(config.model, bits=config.bits)
    by_ppo, log = recipe.ppo_policy(config, seed, config.beta)
    policies = {"base": (base, data.marked(tokenizer)), "SFT": recipe.sft_model(config, seed), "SFT+DPO": (recipe.dpo_policy(config, seed)[0], tokenizer),
                "SFT+PPO": (by_ppo, tokenizer)}
    tasks, others, few = (world.held_out(n, seed=start + seed) for n, start in ((config.tasks // 2, 500), (config.tasks // 2, 600), (VARIED, 700)))
    seen = {task.sentence for task in tasks}
    trial = [task for task in others if task.sentence not in seen]  # to choose the best by
    answer = {name: lambda tasks, draw, policy=policy: answers(*policy, tasks, draw) for name, policy in policies.items()}
    answer[BEST] = best_of(*policies["SFT"], recipe.reward_model(config, seed)[0])
    texts = {name: give(tasks, seed) for name, give in answer.items()}
    found = {name: probes.answers(tasks, texts[name]) | different(few, give, seed) for name, give in answer.items()}
    for name, policy in policies.items():  # best-of-n has no probabilities to be calibrated
        found[name] |= probes.confidence(*policy, world.held_out(config.tasks // 3, seed=800 + seed, kinds=KNOWABLE))
    chosen = {name: evaluate.summarise(trial, answer[name](trial, seed))["score"] for name in policies}
    return {"found": found, "trial": chosen, "tasks": tasks, "texts": texts, "ppo": log}


def answers(model, tokenizer, tasks, seed):
    """One sampled answer to each task: its first line, since a base goes on with the next question."""
    return first_lines(sample(model, tokenizer, [task.prompt for task in tasks], seed=seed))


def best_of(model, tokenizer, reward_model):
    """A function like `answers` that takes the answer with the highest reward among a few."""

    def give(tasks, seed):
        """Sample ANSWERS times; keep the first of the highest."""
        every = [task for task in tasks for _ in range(ANSWERS)]
        texts = answers(model, tokenizer, every, seed)
        first = rewards(reward_model, tokenizer, [task.prompt for task in every], texts).view(-1, ANSWERS).argmax(1).tolist()
        return [texts[k * ANSWERS + i] for k, i in enumerate(first)]

    return give


def different(tasks, give, seed):
    """How many texts differ among a few answers to a prompt."""
    return {"texts": probes.varied(tasks, give([task for task in tasks for _ in range(DRAWS)], seed), DRAWS)["texts"]}


def over(values, measure):
    """One measure over the seeds, as a dict for JSON; None where a column does not have it."""
    if any(value is None or not np.isfinite(value) for value in values):
        return None
    found = evaluate.over_seeds(values)
    found = evaluate.clipped(found) if measure in SHARES else found
    return {**found._asdict(), "n": len(values), "interval": "Student's t over seeds"}


def differences(runs):
    """{"SFT against base": {measure: interval}, ...}: the differences within each seed, on the same prompts."""
    pairs = {f"{column} against {older}": [(run["found"][column], run["found"][older]) for run in runs] for column, older in OLDER.items()}
    return {name: {shown: over([ours[m] - theirs[m] for ours, theirs in both], "a difference") for m, shown in MEASURES.items() if all(m in one for two in both for one in two)}
            for name, both in pairs.items()}


def costs(config, runs):
    """What each column took: answers that were sampled to train it, models in memory in its last training, answers sampled for one answer."""
    pairs = 4 * (config.dpo_prompts // 2)
    ppo = pairs + 64 * len(runs[0]["ppo"])
    rows = {"base": (0, 0, 1), "SFT": (0, 1, 1), "SFT+DPO": (pairs, 1, 1), "SFT+PPO": (ppo, 3, 1), BEST: (pairs, 1, ANSWERS)}
    names = ("answers sampled to train it", "models in memory in its last training", "answers sampled for one answer")
    return {column: dict(zip(names, row)) for column, row in rows.items()}


def shown(run, best, count=len(world.KINDS)):
    """Samples side by side, one of each kind, and answers of the best policy that the judge finds wrong: of the first seed, the first ones."""
    tasks, texts = run["tasks"], run["texts"]
    wrong = [i for i, task in enumerate(tasks) if not judge(task, texts[best][i]).correct]
    return {"samples": [{"prompt": tasks[i].prompt, **{name: given[i] for name, given in texts.items()}} for i in range(count)],
            "failures": [{"prompt": tasks[i].prompt, "response": texts[best][i], "right": tasks[i].sentence} for i in wrong[:8]],
            "how many failures": f"{len(wrong)} of {len(tasks)}"}


# Showing a record


def frame(found):
    """The results of a record as a table: a row for each measure, a column for each model. n: prompts or seeds, of the first column."""
    cell = lambda one: str(evaluate.Interval(one["mean"], one["low"], one["high"])) if one else ""
    measures = dict.fromkeys(measure for column in found["results"].values() for measure in column)
    counts = {measure: str(next((column[measure]["n"] for column in found["results"].values() if column.get(measure)), 0)) for measure in measures}
    columns = {name: {measure: cell(column.get(measure)) for measure in measures} for name, column in found["results"].items()}
    return pd.DataFrame({"n": counts} | columns)


def table(found):
    """The same as Markdown."""
    shown = frame(found)
    lines = [["measure", *shown.columns], ["---"] * (1 + len(shown.columns)), *([measure, *row] for measure, row in shown.iterrows())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


STYLE = ("body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}div{overflow-x:auto}"
         "table{border-collapse:collapse;margin:1rem 0}th,td{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}")


def page(found):
    """A whole HTML page (str), which needs nothing else."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    parts = [("", frame(found)), ("What it cost", pd.DataFrame(found["costs"]) if "costs" in found else None),
             ("Samples, side by side", pd.DataFrame(found["samples"]).set_index("prompt")),
             (f"Failures that remain: {found['best']}", pd.DataFrame(found["failures"]).set_index("prompt") if found["failures"] else None)]
    body = "".join((f"<h2>{html.escape(title)}</h2>" if title else "") + f"<div>{shown.to_html(border=0)}</div>" for title, shown in parts if shown is not None)
    chosen = found.get("chosen on", "")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Report card</title><style>{STYLE}</style>'
            f"<h1>Report card</h1><p>{html.escape(found['started from'])} Means with 95% intervals. The best model is {html.escape(found['best'])}{html.escape(chosen)}. {found['date']}, {html.escape(versions)}.</p>{body}</html>")
