"""The report card: every column and measure has its interval, the costs are those of the settings, and the page shows it all."""

import dataclasses
import json
import re

import pytest

from lab import card, recipe, size
from lab.__main__ import main

SMALL = dataclasses.replace(size.SIZES["pocket"], sft_rows=200, dpo_prompts=16, ppo_updates=1, tasks=60, seeds=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, record) of one run of the command at a small size."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("card")
        patch.setenv("LAB_RUNS", str(folder / "runs"))
        patch.setattr(size, "SIZES", {"pocket": SMALL})
        patch.setattr(card, "VARIED", 4)
        assert main(["card", "--out", str(folder / "card")]) == 0
        yield folder / "card", json.loads((folder / "card" / "record.json").read_text())


def test_every_column_has_every_measure_with_its_interval(made):
    results = made[1]["results"]
    assert list(results) == ["base", "SFT", "SFT+DPO", "SFT+PPO", "SFT, best of 4"]
    for name, column in results.items():
        assert set(column) == set(card.MEASURES.values())
        assert [measure for measure, one in column.items() if one is None] == (["calibration: ECE above luck"] if "best of" in name else [])
        assert all(one["low"] <= one["mean"] <= one["high"] and one["n"] == 2 for one in column.values() if one)
    assert results["base"]["helpful: right answers"]["mean"] > 0.5  # its prompt is marked
    assert all(0 <= column[m]["low"] and column[m]["high"] <= 1 for column in results.values() for m in card.SHARES)


def test_best_of_n_takes_the_answer_with_the_highest_reward(monkeypatch):
    monkeypatch.setattr(card, "answers", lambda model, tokenizer, tasks, seed: [f"{i}" for i in range(len(tasks))])
    import torch
    monkeypatch.setattr(card, "rewards", lambda model, tokenizer, prompts, texts: torch.tensor([float(int(text) % 4 == 2) for text in texts]))
    tasks = card.world.held_out(5, 0)
    assert card.best_of(None, None, None)(tasks, 0) == ["2", "6", "10", "14", "18"]


def test_differences_are_taken_within_a_seed():
    found = [{name: dict.fromkeys(card.MEASURES, level + 0.1 * step) for step, name in enumerate(["base", "SFT", "SFT+DPO", "SFT+PPO"])} for level in (0.0, 0.5)]
    runs = [{"found": one | {card.BEST: {"score": one["SFT"]["score"] + 0.3}}} for one in found]
    made = card.differences(runs)
    assert list(made) == ["SFT against base", "SFT+DPO against SFT", "SFT+PPO against SFT", f"{card.BEST} against SFT"]
    one = made["SFT+PPO against SFT"]["harmless: look-alikes refused"]
    assert one["mean"] == pytest.approx(0.2) and one["high"] - one["low"] < 1e-9  # the seeds differ by 0.5, their differences do not
    assert list(made[f"{card.BEST} against SFT"]) == ["gold score"]


def test_the_costs_are_counted(made):
    costs = made[1]["costs"]
    pairs = 4 * len(recipe.training_tasks(SMALL, 0))
    assert costs["SFT+DPO"]["answers sampled to train it"] == pairs
    assert costs["SFT+PPO"]["answers sampled to train it"] == pairs + 64 * SMALL.ppo_updates
    assert [column["answers sampled for one answer"] for column in costs.values()] == [1, 1, 1, 1, 4]


def test_the_page_shows_all_of_the_record_and_needs_nothing_else(made):
    folder, found = made
    page = (folder / "index.html").read_text("utf8")
    for words in [*found["results"], *card.MEASURES.values(), found["best"], "Failures that remain", found["failures"][0]["right"]]:
        assert words in page
    assert not re.search(r"https?://|<script", page) and card.frame(found).iloc[0, 1] in page
    assert card.table(found).count("\n") == 1 + len(card.MEASURES)


def test_what_a_model_says_cannot_break_the_page(made):
    found = made[1] | {"samples": [{"prompt": "<script>alert(1)</script>", "SFT": "<b>"}]}
    assert "<script>" not in card.page(found) and "&lt;script&gt;" in card.page(found)


def test_the_best_model_is_a_folder_that_transformers_loads(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, found = made
    assert found["best"] in ("SFT", "SFT+DPO", "SFT+PPO")
    AutoModelForCausalLM.from_pretrained(folder / found["best"].replace("+", "-"))
    assert AutoTokenizer.from_pretrained(folder / found["best"].replace("+", "-")).chat_template
