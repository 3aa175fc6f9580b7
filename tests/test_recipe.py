"""The kept stages: what comes back from the folder is what was trained, once, and never anything stale."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab import ppo as ppo_module
from lab import recipe, size
from lab import train as train_module
from lab.models import ModelError
from lab.reward import RewardModel, load_reward, rewards, save_reward
from tools import closure

SRC = Path(__file__).parent.parent / "src"
SMALL = dataclasses.replace(size.SIZES["pocket"], sft_rows=16, dpo_prompts=16, dpo_lr=1e-4, ppo_updates=1, lora_r=2)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    return tmp_path


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_the_stages_follow_each_other_and_are_made_once(runs, monkeypatch):
    policy, log = recipe.ppo_policy(SMALL, 0, beta=0.1)
    assert len(log) == 1 and 0 <= log[0]["gold"] <= 1
    made = sorted(path.name for path in next(runs.glob("*/*/seed-0")).iterdir() if path.is_dir())
    assert made == ["pairs", "ppo-0.1", "reward", "sft"]
    start = weights(recipe.sft_model(SMALL, 0)[0])
    assert any(not torch.equal(start[name], p) for name, p in weights(policy).items())
    for name in ("sft", "ppo", "dpo", "train_reward", "preferences"):
        monkeypatch.setattr(recipe, name, lambda *_, **__: pytest.fail("trained twice"))
    again, _ = recipe.ppo_policy(SMALL, 0, beta=0.1)
    assert all(torch.equal(p, weights(again)[name]) for name, p in weights(policy).items())
    assert recipe.reward_model(SMALL, 0)[1][-1]["loss"] > 0


def test_a_kept_dpo_policy_is_the_trained_one(runs, monkeypatch):
    trained = {}
    monkeypatch.setattr(recipe, "dpo", lambda model, *rest, original=recipe.dpo, **how: [original(model, *rest, **how), trained.update(weights(model))][0])
    loaded = weights(recipe.dpo_policy(SMALL, 0)[0])
    assert trained and all(torch.equal(p, loaded[name]) for name, p in trained.items())
    assert recipe.dpo_policy(SMALL, 0, longer=2)[1][-1]["step"] == 2 * recipe.dpo_policy(SMALL, 0)[1][-1]["step"]


def test_other_settings_other_seeds_and_other_code_are_other_folders(runs, monkeypatch):
    make = lambda folder: (folder / "here").touch()
    folders = {recipe.kept(SMALL, 0, "x", make), recipe.kept(SMALL, 1, "x", make), recipe.kept(SMALL, 0, "y", make),
               recipe.kept(dataclasses.replace(SMALL, sft_lr=1.0), 0, "x", make)}
    monkeypatch.setattr(recipe, "version", lambda name: "another version")
    assert len(folders | {recipe.kept(SMALL, 0, "x", make)}) == 5


def test_the_sources_are_all_that_the_recipe_stands_on():
    found = {path.relative_to(SRC / "lab").as_posix() for path in closure.files("import lab.recipe", SRC)}
    assert {name for name in found if not name.startswith("pocket/") or name.endswith(".safetensors")} == set(recipe.SOURCES)


def test_an_interrupted_stage_is_not_taken_for_a_whole_one_and_finds_what_it_left(runs):
    def killed(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe.kept(SMALL, 0, "x", killed)
    folder = recipe.kept(SMALL, 0, "x", lambda folder: (folder / "half").rename(folder / "whole"))
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_two_programs_make_a_stage_once(runs):
    code = ("import sys, time\nfrom pathlib import Path\nfrom lab import recipe, size\n"
            "def make(folder): time.sleep(0.5); print('made')\nrecipe.kept(size.SIZES['pocket'], 0, 'x', make)")
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert "".join(one.communicate()[0] for one in both).count("made") == 1


def test_a_reward_model_survives_saving(runs, tmp_path):
    model, tokenizer = recipe.sft_model(SMALL, 0)
    reward_model = RewardModel(model)
    torch.nn.init.normal_(reward_model.head.weight)
    save_reward(reward_model, tmp_path / "reward", tokenizer)
    prompts, texts = ["What is 7 plus 12?"] * 2, ["7 plus 12 is 19.", "Kelso."]
    before, after = (rewards(r, tokenizer, prompts, texts) for r in (reward_model, load_reward(tmp_path / "reward", bits=4)))
    assert torch.equal(before, after) and before[0] != before[1]
    with pytest.raises(ModelError, match="no reward model"):
        load_reward(runs)


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "ppo"])
def test_a_killed_stage_goes_on_where_its_training_was(tmp_path, monkeypatch, stage):
    """Killed in its last step, it takes that step again and no other, and gives the weights of a run that was not killed."""
    config = dataclasses.replace(SMALL, batch_size=4, ppo_updates=2)
    make = {"sft": lambda: recipe.sft_model(config, 0), "dpo": lambda: recipe.dpo_policy(config, 0, longer=2),
            "reward": lambda: recipe.reward_model(config, 0), "ppo": lambda: recipe.ppo_policy(config, 0, beta=0.1)}[stage]
    module, name = (ppo_module, "improve") if stage == "ppo" else (train_module, "update")
    one_step, steps, loop = getattr(module, name), [], recipe.loop
    monkeypatch.setattr(recipe, "loop", lambda *arguments: loop(*arguments) | {"save_every": 1})

    def run(folder, killed_at=None):
        def step(*arguments, **options):
            steps.append(folder)
            if len(steps) == killed_at:
                raise KeyboardInterrupt
            return one_step(*arguments, **options)

        monkeypatch.setenv("LAB_RUNS", str(tmp_path / folder))
        monkeypatch.setattr(module, name, lambda *arguments, **options: one_step(*arguments, **options))
        recipe.reward_model(config, 0) if stage == "ppo" else stage == "sft" or recipe.preference_pairs(config, 0)
        monkeypatch.setattr(module, name, step)
        steps.clear()
        return weights(make()[0])

    wanted, total = run("whole"), len(steps)
    with pytest.raises(KeyboardInterrupt):
        run("killed", killed_at=total)
    got = run("killed")
    assert total > 1 and len(steps) == 1 and all(torch.equal(p, got[name]) for name, p in wanted.items())
    assert not list(tmp_path.rglob(train_module.STATE))  # it is three times the size of what it is for
