"""Direct preference optimisation: two likelihoods and a logistic loss, over one training loop.

The reference is the model as it is handed in. Its log-probabilities are computed once, before the first step,
and kept as two numbers a pair; no second model stays in memory. So it does not matter what the model is made of:
full weights, or an adapter, new or already trained. (Disabling the adapter, the common shortcut, gives the base
model: that is the right reference only if the adapter was added after SFT.)
"""

import torch

from lab.data import PAIRS, by_length, encode_all, encode_pair, name_of, pair_collator, read
from lab.models import supervised_logits
from lab.objectives import dpo_loss, implicit_reward, sequence_logprobs
from lab.train import length, new_accelerator, train


def dpo(model, tokenizer, pairs, *, beta, lr, epochs=1, batch_size=32, seed=0, max_length=None, drop=False, **loop):
    """Tune `model` in place on preference rows (see lab.data), and return the log.

    beta  weight of the KL term: a large one keeps the policy near the reference, a small one lets it go.
    The other arguments are those of lab.sft.sft. Each record of the log also has accuracy, the share of pairs
    whose chosen side has the higher implicit reward; margin, the mean difference of the two; and the rewards.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}")
    max_length = max_length or model.config.max_position_embeddings
    examples = encode_all(read(pairs, PAIRS), encode_pair, tokenizer, max_length, name_of(pairs), drop)
    collate = pair_collator(tokenizer)
    with new_accelerator(loop.get("precision", "no")).autocast():  # the reference is read in the precision of the policy, or the loss would not start at ln 2
        examples = add_reference(model, examples, collate, batch_size)
    return train(model, examples, collate, lambda model, batch: loss(model, batch, beta), lr=lr, epochs=epochs,
                 batch_size=batch_size, seed=seed, **loop)


def loss(model, batch, beta):
    """Equation eq-dpo-loss on one batch: the mean over its pairs, and what to watch beside it."""
    ref_chosen, ref_rejected = batch.pop("reference").chunk(2)  # (B,), (B,)
    chosen, rejected = pair_logprobs(model, batch)  # (B,), (B,)
    reward_chosen = implicit_reward(chosen, ref_chosen, beta).detach()
    reward_rejected = implicit_reward(rejected, ref_rejected, beta).detach()
    return {"loss": dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta).mean(),
            "accuracy": (reward_chosen > reward_rejected).float().mean(),
            "margin": (reward_chosen - reward_rejected).mean(),
            "reward_chosen": reward_chosen.mean(), "reward_rejected": reward_rejected.mean()}


def pair_logprobs(model, batch):
    """log pi(y_w | x) and log pi(y_l | x), each (B,), from one forward pass over both sides."""
    return sequence_logprobs(*supervised_logits(model, **batch)).chunk(2)


@torch.no_grad()
def add_reference(model, pairs, collate, batch_size):
    """Each pair with "reference": the model's own (log pi(y_w | x), log pi(y_l | x)), before any step."""
    with_reference = [None] * len(pairs)
    for part in by_length([length(pair) for pair in pairs], batch_size):
        batch = collate([pairs[i] for i in part])
        tensors = {key: value.to(model.device) for key, value in batch.items() if torch.is_tensor(value)}
        chosen, rejected = pair_logprobs(model, tensors)
        for i, w, l in zip(part, chosen.tolist(), rejected.tolist()):
            with_reference[i] = pairs[i] | {"reference": (w, l)}
    return with_reference
