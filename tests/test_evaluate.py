"""Estimators against cases with a known answer."""

import math

import numpy as np
import pytest
import torch

from conftest import tiny
from lab import evaluate, world
from lab.data import encode_prompt, encode_sft
from lab.evaluate import Interval
from lab.objectives import sequence_logprobs


def test_interval_prints_as_in_the_book():
    assert str(Interval(0.7412, 0.7, 0.784)) == "0.74 [0.70, 0.78]"


def test_win_rate_of_a_clear_case_and_its_mirror():
    a, b = [1, 1, 0.5, 0], [0, 1, 0.25, 1]
    assert evaluate.win_rate(a, b).mean == 0.625
    forward, backward = evaluate.win_rate(a, b), evaluate.win_rate(b, a)
    assert forward.mean + backward.mean == 1
    assert evaluate.win_rate(a, a) == (0.5, 0.5, 0.5)


def test_win_rate_refuses_unpaired_scores():
    with pytest.raises(ValueError, match="3 against 2"):
        evaluate.win_rate([1, 2, 3], [1, 2])


@pytest.mark.parametrize("estimate", ["win_rate", "wilson"])
def test_intervals_cover_the_truth_about_95_times_in_100(estimate):
    rng, truth, covered, trials = np.random.default_rng(0), 0.7, 0, 400
    for trial in range(trials):
        wins = rng.random(200) < truth
        if estimate == "wilson":
            interval = evaluate.wilson(int(wins.sum()), len(wins))
        else:
            interval = evaluate.win_rate(wins.astype(float), np.full(200, 0.5), resamples=400, seed=trial)
        covered += interval.low <= truth <= interval.high
    assert 0.91 < covered / trials < 0.99


def test_interval_over_seeds_covers_a_normal_mean():
    rng = np.random.default_rng(1)
    covered = sum(i.low <= 3 <= i.high for i in (evaluate.over_seeds(list(rng.normal(3, 2, 3))) for _ in range(1000)))
    assert 0.93 < covered / 1000 < 0.97
    with pytest.raises(ValueError, match="at least 2"):
        evaluate.over_seeds([1.0])


def test_summary_of_gold_answers_and_of_a_model_that_refuses_everything():
    tasks = world.held_out(240, seed=0)
    gold = evaluate.summarise(tasks, [t.sentence for t in tasks])
    assert gold == dict(answered=1, correct=1, clean=1, score=1, violation=0, false_refusal=0)
    refusing = evaluate.summarise(tasks, [world.REFUSAL] * len(tasks))
    assert refusing["violation"] == 0 and refusing["false_refusal"] == 1
    assert math.isclose(refusing["correct"], 1 / len(world.KINDS))
    kinds = evaluate.by_kind(tasks, [t.sentence for t in tasks])
    assert list(kinds) == list(world.KINDS) and all(row["correct"] == 1 for row in kinds.values())


def test_responses_must_match_tasks():
    with pytest.raises(ValueError):
        evaluate.summarise(world.held_out(3, seed=0), ["one"])


def test_rows_are_read_without_what_stands_before_the_labels(model, tokenizer):
    rows = evaluate.completions(tokenizer, "Say", ["one", "two three"])
    for row, value in zip(rows, evaluate.row_logprobs(model, tokenizer, rows, temperature=2.0)):
        start = row["labels"].count(-100)
        assert tokenizer.decode(row["input_ids"][:start]).endswith("Say") and tokenizer.decode(row["input_ids"][start:]) in (" one", " two three")
        with torch.no_grad():
            logps = (model(torch.tensor([row["input_ids"]])).logits / 2).log_softmax(-1)[0]
        assert value.item() == pytest.approx(sum(logps[t - 1, row["input_ids"][t]].item() for t in range(start, len(row["input_ids"]))), abs=1e-4)


def test_recall_counts_the_facts_completed_rightly(model, tokenizer, monkeypatch):
    people = world.PEOPLE["rare"][:5]
    knows = lambda model, tokenizer, rows: torch.tensor([float(any(tokenizer.decode(row["input_ids"]).endswith(f"{stem.format(p.name)} {p.facts[r]}") for p in people[:3] for r, stem in evaluate.CLOZE.items())) for row in rows])
    monkeypatch.setattr(evaluate, "row_logprobs", knows)
    assert evaluate.recall(model, tokenizer, people[:3]).mean == 1
    assert evaluate.recall(model, tokenizer, people).mean < 0.8  # of the other two only what happens to stand first


def test_log_probabilities_of_responses_do_not_depend_on_the_batch(model, tokenizer):
    prompts, texts = ["Name a colour.", "What is 2 plus 3?", "Hi"], ["Red is one.", "", "It is 5. I do not know that."]
    together = evaluate.response_logprobs(model, tokenizer, prompts, texts)
    for prompt, text, value in zip(prompts, texts, together):
        row = encode_sft({"prompt": prompt, "response": text}, tokenizer, 128)
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits
        torch.testing.assert_close(sequence_logprobs(logits, torch.tensor([row["labels"]]))[0], value, atol=1e-4, rtol=1e-5)


def test_the_divergence_of_the_end_of_turn_alone(tokenizer):
    """An empty response is one token, so k1 is the difference of two next-token log-probabilities."""
    policy, reference = (tiny(tokenizer, seed) for seed in (0, 1))
    prompt = "Name a colour."
    with torch.no_grad():
        p, q = (model(torch.tensor([encode_prompt(prompt, tokenizer)])).logits[0, -1].log_softmax(-1) for model in (policy, reference))
    exact = (p - q)[tokenizer.eos_token_id].item()
    assert evaluate.divergence(policy, reference, tokenizer, [prompt] * 2, ["", ""]) == pytest.approx(exact, abs=1e-4) and abs(exact) > 0.01
    assert evaluate.divergence(policy, policy, tokenizer, [prompt] * 3, ["Red", "It", ""]) == 0
