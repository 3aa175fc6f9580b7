"""RLHF with PPO, to be read from top to bottom. The equations are in `lab.objectives`; the numbers follow the chapter.

Sources of the details: Ziegler et al. 2019 and Stiennon et al. 2020 (penalty per token, value head, whitening), Schulman
et al. 2016 and 2017 (GAE, clipping), Huang et al. 2024, "The N+ implementation details of RLHF with PPO".
"""

import math
import random
import time
import zlib

import torch
from torch import nn
from tqdm import tqdm

from lab import models, train
from lab.data import as_rows, by_length, encode_prompt, sft_collator
from lab.objectives import IGNORE, gae, kl_estimators, masked_mean, ppo_policy_loss, ppo_value_loss, token_logprobs, whiten
from lab.sample import sample_ids


class PPOError(ValueError):
    """A run that must not go on, in one sentence. What was saved before it is whole."""


class ActorCritic(nn.Module):
    """The policy, and on its last hidden state a linear head: the value, what is still to come after each token."""

    def __init__(self, policy):
        super().__init__()
        self.policy, self.value_head = policy, nn.Linear(policy.config.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, input_ids, labels):
        """log pi, values and mask, each (B, P): a column is the state before a token of the response, and its choice."""
        positions, kept = models.supervised_positions(labels)  # (B, P + 1)
        out = self.policy(input_ids=input_ids, logits_to_keep=positions, output_hidden_states=True, use_cache=False)
        logps = token_logprobs(out.logits, kept)[:, :-1]
        hidden = out.hidden_states[-1].gather(1, positions[..., None].expand(-1, -1, out.hidden_states[-1].shape[-1]))
        values = self.value_head(hidden.float())[:, :-1, 0]
        return logps, values, (kept[:, 1:] != IGNORE).float()


def ppo(policy, reference, tokenizer, prompts, reward_fn, *, beta, lr, value_lr=1e-3, updates=60, rollouts=64, epochs=2,
        minibatch=32, clip=0.2, gamma=1.0, lam=0.95, value_weight=0.1, max_new_tokens=48, max_kl=100.0, seed=0, precision="no",
        watch=None, out=None, save_every=1):
    """Tune `policy` in place to earn `reward_fn` and stay near `reference`; returns the log, one dict for each update:
    score, kl (k1) and kl_k3, nats per response; length; entropy, nats per token, estimated by -log pi of the samples;
    tokens and seconds so far; policy_loss, value_loss, approxkl and clipfrac of its training passes.

    prompts    list of str, from which each update draws `rollouts`.
    reward_fn  (prompts, responses) -> one number for each, as a tensor or list.
    beta       price of a nat of KL, charged token by token. 0 charges nothing.
    max_kl     nats per response at which the run is stopped.
    precision  as in lab.train.train: what the forward passes over responses compute in.
    watch      (prompts, responses) -> dict of numbers for the log, such as a gold score. The policy never sees them.
    out        a folder for the adapter and the state of the run, written every `save_every` updates, after the checks, and at
               the end. Called again with the same `out`, an interrupted run goes on where it was written.
    """
    accelerator, actor = train.new_accelerator(precision), ActorCritic(policy)
    optimizer = torch.optim.AdamW([{"params": [p for p in policy.parameters() if p.requires_grad], "lr": lr},
                                   {"params": actor.value_head.parameters(), "lr": value_lr}], weight_decay=0.0)
    optimizer = accelerator.prepare_optimizer(optimizer)
    settings = dict(beta=beta, lr=lr, value_lr=value_lr, updates=updates, rollouts=rollouts, epochs=epochs, minibatch=minibatch, clip=clip, gamma=gamma,
                    lam=lam, value_weight=value_weight, max_new_tokens=max_new_tokens, seed=seed, data=zlib.crc32(repr(prompts).encode()))
    log = train.restore(out, actor, optimizer, settings) if out else []
    started = time.perf_counter() - (log[-1]["seconds"] if log else 0.0)
    plan = draws(prompts, updates, rollouts, epochs, seed)
    for update in tqdm(range(len(log) + 1, updates + 1), initial=len(log), total=updates, disable=None):
        # 1. Sample: the policy answers a batch of prompts.
        asked, orders = plan[update - 1]
        batch, texts = rollout(policy, tokenizer, asked, max_new_tokens, seed=seed * 100_003 + update)
        check_texts(texts, asked, update)
        # 2. Score: one number for a whole response.
        scores = torch.as_tensor(reward_fn(asked, texts), dtype=torch.float32, device=policy.device)  # (B,)
        check_scores(scores, asked, update)
        # 3. Penalise: beta (log pi - log pi_ref) for each token; summed over a response this is the sequence's KL, k1.
        with torch.no_grad(), accelerator.autocast():
            old_logps, old_values, mask = by_parts(actor, batch)
            (ref_logps,) = by_parts(lambda **part: [token_logprobs(*models.supervised_logits(reference, **part))[:, :-1]], batch)
        k1, _, k3 = kl_estimators(old_logps, ref_logps)
        rewards = token_rewards(scores, k1, mask, beta)
        kl = (k1 * mask).sum(1).mean().item()
        check_kl(kl, max_kl, update)
        if out and (update - 1) % save_every == 0:  # here the policy has just been found sound
            keep(out, actor, tokenizer, optimizer, settings, log)
        # 4. Credit: how much better than expected was each token?
        advantages = gae(rewards, old_values, mask, gamma, lam)
        returns = advantages + old_values
        advantages = whiten(advantages, mask)
        # 5. Improve: a few passes over the batch, held near the policy that sampled it by the clip.
        stats = improve(accelerator, actor, optimizer, batch, (old_logps, old_values, advantages, returns, mask), orders,
                        minibatch=minibatch, clip=clip, value_weight=value_weight)
        watched = watch(asked, texts) if watch else {}
        log.append({"update": update, "score": scores.mean().item(), "kl": kl, "kl_k3": (k3 * mask).sum(1).mean().item(),
                    "length": mask.sum(1).mean().item(), "entropy": masked_mean(-old_logps, mask).item(),
                    "tokens": int(mask.sum()) + (log[-1]["tokens"] if log else 0), "seconds": time.perf_counter() - started} | stats | watched)
    if out:
        keep(out, actor, tokenizer, optimizer, settings, log)
    return log


def draws(prompts, updates, rollouts, epochs, seed):
    """All that a run draws beside its samples: for each update (the prompts it asks, the order of the rollouts in each epoch).
    Drawn at the start, so that a run which goes on after an interruption draws the same."""
    draw = random.Random(seed)
    return [([draw.choice(prompts) for _ in range(rollouts)], [draw.sample(range(rollouts), rollouts) for _ in range(epochs)]) for _ in range(updates)]


def keep(out, actor, tokenizer, optimizer, settings, log):
    """Write the adapter, for use, and the state of the run, for going on."""
    models.save_adapter(actor.policy, out, tokenizer)
    train.save(out, actor, optimizer, settings, log)


def rollout(policy, tokenizer, asked, max_new_tokens, seed):
    """The policy's answers: a batch {"input_ids", "labels"} (B, T) whose labels are the sampled tokens, and the texts."""
    prompts = [encode_prompt(prompt, tokenizer) for prompt in asked]
    answers = sample_ids(policy, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed)
    batch = sft_collator(tokenizer)(as_rows(prompts, answers))
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    return {key: batch[key].to(policy.device) for key in ("input_ids", "labels")}, texts


def improve(accelerator, actor, optimizer, batch, fixed, orders, *, minibatch, clip, value_weight):
    """Clipped steps on one batch of rollouts, an epoch for each of the orders; the means of what the literature logs."""
    totals, steps = {}, 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for order in orders:
        for k in range(0, len(order), minibatch):
            part = torch.tensor(order[k : k + minibatch], device=batch["labels"].device)
            old_logps, old_values, advantages, returns, mask = (tensor[part] for tensor in fixed)
            with accelerator.autocast():
                logps, values, _ = by_parts(actor, {key: value[part] for key, value in batch.items()}, width=mask.shape[1])
            policy_loss = ppo_policy_loss(logps, old_logps, advantages, mask, clip)
            value_loss = ppo_value_loss(values, old_values, returns, mask, clip)
            accelerator.backward(policy_loss + value_weight * value_loss)  # scaled, in fp16
            accelerator.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                ratio = torch.exp(logps - old_logps)
                stats = {"policy_loss": policy_loss, "value_loss": value_loss, "approxkl": masked_mean(0.5 * (logps - old_logps) ** 2, mask),
                         "clipfrac": masked_mean(((ratio - 1).abs() > clip).float(), mask)}
            totals, steps = {key: totals.get(key, 0.0) + value.item() for key, value in stats.items()}, steps + 1
    return {key: value / steps for key, value in totals.items()}


def by_parts(forward, batch, size=16, width=0):
    """The (B, P) tensors of `forward`, read in parts of like length: on a CPU a pad costs as much as a token.

    width: pad the result to so many columns at least, since a part of a batch may have shorter responses than the whole.
    """
    ends = batch["labels"].shape[1] - (batch["labels"] != IGNORE).flip(1).int().argmax(1)  # (B,) where each row's pads begin
    parts = by_length(ends.tolist(), size)
    outputs = [forward(**{key: value[part, : int(ends[part].max())] for key, value in batch.items()}) for part in parts]
    width = max(width, *(output[0].shape[1] for output in outputs))
    order = torch.tensor([row for part in parts for row in part]).argsort()
    whole = (torch.cat([nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in column]) for column in zip(*outputs))
    return [tensor[order.to(tensor.device)] for tensor in whole]


def token_rewards(scores, k1, mask, beta):
    """-beta k1 for each token, and the whole score at the last one. scores (B,), k1 and mask (B, T) -> (B, T).

    A row sums to r(x, y) - beta log [pi(y|x) / pi_ref(y|x)], the quantity that RLHF maximises.
    """
    rewards = -beta * k1 * mask
    end = mask.shape[1] - 1 - mask.flip(1).argmax(1)  # (B,) the column of each row's last token
    rewards[torch.arange(len(scores)), end] += scores
    return rewards


def check_texts(texts, asked, update):
    """Raise PPOError if no response has any text."""
    if not any(text.strip() for text in texts):
        raise PPOError(f"update {update}: every response is empty, the one to {asked[0]!r} among them; the policy has collapsed")


def check_scores(scores, asked, update):
    """Raise PPOError if a reward is not finite, or if all are equal."""
    wrong = [prompt for prompt, score in zip(asked, scores.tolist()) if not math.isfinite(score)]
    if wrong:
        raise PPOError(f"update {update}: the reward of {len(wrong)} responses is not a number, for example to {wrong[0]!r}")
    if len(scores) > 1 and scores.min() == scores.max():
        raise PPOError(f"update {update}: all {len(scores)} responses, from {asked[0]!r} to {asked[-1]!r}, earn the same reward "
                       f"({scores[0].item():g}), so there is nothing to learn")


def check_kl(kl, max_kl, update):
    """Raise PPOError if the policy is farther than max_kl from its reference, or at a distance that is not a number."""
    if not kl < max_kl:
        raise PPOError(f"update {update}: the policy is {kl:.3g} nats per response from its reference, more than {max_kl:g}: "
                       "raise beta or lower the learning rate")
