"""The course's models, stage by stage: SFT, preference pairs, a reward model, then DPO or PPO.

Several chapters start from the same stages. Each stage is trained once for a size and a seed, and kept in a folder `runs`
beside the notebook, or where LAB_RUNS says. A stage is trained anew when the settings, the code that makes it, the pocket
weights or the version of a library have changed, so what is kept is what training would give. (Weights that a Hub has changed
under the same name go unnoticed.) Delete `runs` to start afresh.
"""

import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from lab import models, train, world
from lab.dpo import dpo
from lab.judge import judge
from lab.ppo import ppo
from lab.preferences import preferences
from lab.reward import RewardModel, load_reward, rewards, save_reward, train_reward
from lab.sft import sft

# The files whose change makes a kept stage worthless: what this module imports, directly or not. A test compares.
SOURCES = ("__init__.py", "data/__init__.py", "dpo.py", "hub.py", "judge.py", "models.py", "objectives.py", "pocket/model.safetensors", "ppo.py",
           "preferences.py", "recipe.py", "reward.py", "sample.py", "sft.py", "train.py", "world.py")


def sft_model(config, seed):
    """Stage 1: (model, tokenizer), the base with an adapter, after one epoch on instruction rows."""
    return models.load(sft_folder(config, seed), bits=config.bits)


def sft_folder(config, seed):
    """Where its adapter is.

    Half of the rows at half the rate of the chapter on SFT: later stages find something to mend, and many seeds fit.
    """

    def make(folder):
        model, tokenizer = models.load(config.model, bits=config.bits)
        model = models.add_lora(model, r=config.lora_r, alpha=config.lora_alpha, seed=seed)
        log = sft(model, tokenizer, instruction_rows(config, seed), lr=config.sft_lr / 2, epochs=1, batch_size=max(1, config.batch_size // 2),
                  seed=seed, **loop(config, folder))
        models.save_adapter(model, folder, tokenizer)
        train.write_log(folder, log)

    return kept(config, seed, "sft", make)


def instruction_rows(config, seed):
    """What stage 1 reads."""
    return world.instructions(config.sft_rows // 2, seed=seed)


def training_tasks(config, seed):
    """The tasks whose prompts the preference pairs and PPO use; none is held out."""
    return world.training_tasks(config.dpo_prompts // 2, seed=1000 + seed)


def preference_pairs(config, seed):
    """Stage 2: pairs of the SFT model's own samples, four for each prompt, the best and the worst by the gold judge."""

    def make(folder):
        pairs = preferences(*sft_model(config, seed), training_tasks(config, seed), seed=seed)
        (folder / "pairs.json").write_text(json.dumps(pairs))

    return json.loads((kept(config, seed, "pairs", make) / "pairs.json").read_text())


def reward_model(config, seed):
    """Stage 3: r_phi, the SFT model with a head of one number, fitted to the pairs. With it the log of its training."""

    def make(folder):
        model, tokenizer = sft_model(config, seed)
        fitted = RewardModel(model)
        log = train_reward(fitted, tokenizer, preference_pairs(config, seed), lr=config.reward_lr, epochs=config.reward_epochs,
                           batch_size=config.batch_size, seed=seed, **loop(config, folder))
        save_reward(fitted, folder, tokenizer)
        train.write_log(folder, log)

    folder = kept(config, seed, "reward", make)
    return load_reward(folder, config.bits), train.read_log(folder)


def dpo_policy(config, seed, faster=1, longer=1):
    """Stage 4, one way: (policy, log) of DPO on the pairs. faster, longer: multiples of the size's learning rate and epochs."""
    folder = dpo_folder(config, seed, faster, longer)
    return models.load(folder, bits=config.bits)[0], train.read_log(folder)


def dpo_folder(config, seed, faster=1, longer=1):
    """Where its adapter and its log are."""

    def make(folder):
        policy, tokenizer, log = dpo_on(preference_pairs(config, seed), config, seed, faster, longer, folder)
        models.save_adapter(policy, folder, tokenizer)
        train.write_log(folder, log)

    return kept(config, seed, f"dpo-{faster:g}-{longer:g}", make)


def dpo_on(pairs, config, seed, faster=1, longer=1, folder=None):
    """(policy, tokenizer, log): the SFT model of a seed after DPO on any pairs. folder: where an interrupted run goes on."""
    policy, tokenizer = sft_model(config, seed)
    log = dpo(policy, tokenizer, pairs, beta=config.beta, lr=faster * config.dpo_lr, epochs=longer * config.dpo_epochs,
              batch_size=config.batch_size, seed=seed, **loop(config, folder))
    return policy, tokenizer, log


def ppo_policy(config, seed, beta):
    """Stage 4, the other way: (policy, log) of PPO against the reward model.

    The log has `gold` as well, the judge's mean score of each batch, which the policy never sees.
    """
    folder = ppo_folder(config, seed, beta)
    return models.load(folder, bits=config.bits)[0], train.read_log(folder)


def ppo_folder(config, seed, beta):
    """Where its adapter and its log are."""

    def make(folder):
        policy, tokenizer = sft_model(config, seed)
        learnt, tasks = reward_model(config, seed)[0], {task.prompt: task for task in training_tasks(config, seed)}
        gold = lambda prompts, texts: {"gold": sum(judge(tasks[x], y).score for x, y in zip(prompts, texts)) / len(texts)}
        log = ppo(policy, sft_model(config, seed)[0], tokenizer, list(tasks), lambda x, y: rewards(learnt, tokenizer, x, y), beta=beta,
                  lr=config.ppo_lr, updates=config.ppo_updates, minibatch=config.ppo_rows, precision=config.precision, seed=seed, watch=gold, out=folder)
        train.write_log(folder, log)

    return kept(config, seed, f"ppo-{beta:g}", make)


def loop(config, folder=None):
    """What a size says about the training loop, which keeps its state in the folder of its stage until that is done."""
    return {"accumulation": config.accumulation, "precision": config.precision, "out": folder, "save_every": 10}


def kept(config, seed, stage, make):
    """The folder of a stage. If it is not there, `make(folder)` fills it; a run that is killed leaves no half of one.

    Until it is whole it has another name. What a killed run has left there is given to `make` again, so that a training goes on.
    Two programs that want one stage at the same time: one makes it, the other waits.
    """
    whole = place(config, seed, stage)
    whole.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{whole}.lock"):
        if not whole.exists():
            partial = whole.with_name(stage + ".partial")
            partial.mkdir(exist_ok=True)
            make(partial)
            (partial / train.STATE).unlink(missing_ok=True)  # three times the size of what it is for
            partial.rename(whole)
    return whole


def place(config, seed, stage):
    """Where a stage is kept."""
    return Path(os.environ.get("LAB_RUNS") or "runs") / config.name / state(config) / f"seed-{seed}" / stage


def state(config):
    """A short name for everything that a kept stage depends on, beside its seed."""
    package, digest = Path(__file__).parent, hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for path in SOURCES:
        digest.update((package / path).read_bytes())
    for library in ("torch", "transformers", "peft", "bitsandbytes"):
        digest.update(version(library).encode())
    return digest.hexdigest()[:12]
