"""A whole run in TRL's trainers is our run, step for step: order, schedule, clipping and optimiser, not the loss alone."""

import pytest
import torch
from conftest import PAIR_ROWS, ROWS, tiny
from datasets import Dataset
from transformers import LlamaForSequenceClassification
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from lab import dpo, reward, sft, train
from lab.gpu_check import as_text, like_ours

BATCH = 4
# Sides of unequal length, so that padding, the mean over tokens and the sum over a response all matter.
PAIRS = [row | {"rejected": row["rejected"] + " Sorry." * (i % 3)} for i, row in enumerate(PAIR_ROWS)]
LONGER = [row | {"response": row["response"] * (1 + i % 3)} for i, row in enumerate(ROWS)]


def theirs(trainer, kind, model, rows, tokenizer, folder, **options):
    """TRL's log of a run with our order and our schedule."""
    order = train.batch_order(len(rows), 1, BATCH, seed=0).flatten().tolist()
    settings = like_ours(kind, folder, 1e-3, BATCH, **options)
    run = trainer(model=model, args=settings, train_dataset=Dataset.from_list([as_text(rows[i], tokenizer) for i in order]), processing_class=tokenizer)
    run.train()
    return [record for record in run.state.log_history if "loss" in record]


def same(ours, log):
    assert len(ours) == len(log) == len(ROWS) // BATCH
    for one, other in zip(ours, log):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


SETTINGS = dict(lr=1e-3, epochs=1, batch_size=BATCH, warmup=0.0)


def test_sft(tokenizer, tmp_path):
    same(sft.sft(tiny(tokenizer), tokenizer, LONGER, **SETTINGS), theirs(SFTTrainer, SFTConfig, tiny(tokenizer), LONGER, tokenizer, tmp_path))


def test_dpo(tokenizer, tmp_path):
    same(dpo.dpo(tiny(tokenizer), tokenizer, PAIRS, beta=0.1, **SETTINGS),
         theirs(DPOTrainer, DPOConfig, tiny(tokenizer), PAIRS, tokenizer, tmp_path, beta=0.1, precompute_ref_log_probs=True))


def test_reward_model(tokenizer, tmp_path):
    judge, model = reward.RewardModel(tiny(tokenizer)), LlamaForSequenceClassification(tiny(tokenizer, num_labels=1).config)
    model.model.load_state_dict(judge.model.model.state_dict())
    torch.nn.init.zeros_(model.score.weight)
    same(reward.train_reward(judge, tokenizer, PAIRS, **SETTINGS), theirs(RewardTrainer, RewardConfig, model, PAIRS, tokenizer, tmp_path))


def test_another_order_is_noticed(tokenizer, tmp_path):
    with pytest.raises(AssertionError):
        same(sft.sft(tiny(tokenizer), tokenizer, LONGER, **SETTINGS | {"seed": 1}), theirs(SFTTrainer, SFTConfig, tiny(tokenizer), LONGER, tokenizer, tmp_path))
