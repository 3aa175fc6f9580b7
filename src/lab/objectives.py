"""The equations of the book as pure tensor functions. Nothing else in the package repeats one of them.

Shapes: B sequences, T tokens, V words in the vocabulary. A label of -100 means "not supervised".
"""

import math

import torch
import torch.nn.functional as F

IGNORE = -100  # the label that torch, transformers and TRL all read as "no loss here"


def token_logprobs(logits, labels):
    """log pi(y_t | x, y_<t) of each supervised token, 0 elsewhere.

    logits (B, T, V) and labels (B, T), aligned with the input ids; the shift is inside: the logits at t
    predict the label at t+1. Returns (B, T), where column t holds the log-probability of label t+1.

    >>> token_logprobs(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]]))    # log(1/4) twice
    tensor([[-1.3863, -1.3863,  0.0000]])
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} disagree on (B, T)")
    # Shifting the labels instead of slicing the logits avoids a copy of the largest tensor in the run.
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)  # (B, T)
    nll = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="none")
    return -nll.view_as(targets)  # (B, T)


def sequence_logprobs(logits, labels):
    """log pi(y | x): the sum over the supervised tokens, not their mean. Equation eq-sequence-logprob.

    logits (B, T, V), labels (B, T) -> (B,).

    >>> sequence_logprobs(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]]))    # 2 log(1/4)
    tensor([-2.7726])
    """
    return token_logprobs(logits, labels).sum(-1)


def sft_loss(logits, labels):
    """The supervised fine-tuning loss: mean negative log-likelihood per supervised token. Equation eq-sft-loss.

    logits (B, T, V), labels (B, T) -> scalar. With labels equal to the input ids it is the pretraining loss.
    A batch without a supervised token has no loss: the result is nan. `lab.data` rejects such examples.

    >>> sft_loss(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]]))    # log 4
    tensor(1.3863)
    """
    return -token_logprobs(logits, labels).sum() / (labels[:, 1:] != IGNORE).sum()


def implicit_reward(policy_logps, ref_logps, beta):
    """The reward that a policy implies, up to a constant of the prompt. Equation eq-implicit-reward (DPO, eq. 5).

    policy_logps (B,) = log pi_theta(y|x), ref_logps (B,) = log pi_ref(y|x) -> (B,).
    """
    return beta * (policy_logps - ref_logps)


def dpo_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    """Direct preference optimisation, the loss of each pair. Equation eq-dpo-loss (Rafailov et al. 2023, eq. 7).

    -log sigma( beta log[pi_theta(y_w|x)/pi_ref(y_w|x)] - beta log[pi_theta(y_l|x)/pi_ref(y_l|x)] )

    Four (B,) tensors of summed log-probabilities -> (B,). At the reference itself each pair costs ln 2.

    >>> dpo_loss(*torch.tensor([[-5.0], [-7.0], [-5.0], [-7.0]]), beta=0.1)
    tensor([0.6931])
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}: it is the weight of the KL term that DPO stands on")
    chosen = implicit_reward(policy_chosen_logps, ref_chosen_logps, beta)  # (B,)
    rejected = implicit_reward(policy_rejected_logps, ref_rejected_logps, beta)  # (B,)
    return -F.logsigmoid(chosen - rejected)


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """The reward model's loss for each pair: -log sigma( r(x, y_w) - r(x, y_l) ). Equation eq-reward-loss (Ouyang et al. 2022, eq. 1 for K = 2).

    Two (B,) tensors -> (B,). A constant added to both rewards changes nothing.

    >>> bradley_terry_loss(torch.tensor([3.0]), torch.tensor([3.0]))    # ln 2
    tensor([0.6931])
    """
    return -F.logsigmoid(chosen_rewards - rejected_rewards)


def kl_estimators(logps, ref_logps):
    """(k1, k2, k3): three estimates of KL(pi || pi_ref) from samples of pi. Equation eq-kl-estimators (Schulman 2020).

    With u = pi_ref/pi:  k1 = -log u,  k2 = (log u)^2 / 2,  k3 = u - 1 - log u.
    logps and ref_logps: log-probabilities of the samples, of one shape -> three tensors of that shape.
    k1 and k3 are unbiased; k2 and k3 are never negative.

    >>> [round(k.item(), 3) for k in kl_estimators(torch.tensor(-1.0), torch.tensor(-2.0))]
    [1.0, 0.5, 0.368]
    """
    log_u = ref_logps - logps
    return -log_u, log_u**2 / 2, torch.expm1(log_u) - log_u


def gae(rewards, values, mask, gamma, lam):
    """Generalised advantage estimation: A_t = sum_l (gamma lam)^l delta_{t+l}. Equation eq-gae (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t, and after the last token of the mask V is 0: the episode is over.
    rewards, values, mask: (B, T), the mask 1 on one unbroken run of tokens in each row -> (B, T), 0 outside the mask.

    >>> gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), torch.ones(1, 2), gamma=1.0, lam=1.0)
    tensor([[0.5000, 0.5000]])
    """
    advantages, values = torch.zeros_like(rewards), values * mask
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value, advantages[:, t] = values[:, t], next_advantage
    return advantages


def masked_mean(x, mask):
    """The mean over the positions where the mask is 1: (B, T) -> scalar."""
    return (x * mask).sum() / mask.sum()


def whiten(x, mask):
    """x with mean 0 and variance 1 over the positions where the mask is 1. (B, T) -> (B, T)."""
    mean = masked_mean(x, mask)
    return (x - mean) * torch.rsqrt(masked_mean((x - mean) ** 2, mask) + 1e-8)


def ppo_policy_loss(logps, old_logps, advantages, mask, clip):
    """PPO's clipped surrogate, a mean over tokens. Equation eq-ppo-clip (Schulman et al. 2017, eq. 7), with the sign of a loss.

    -min( rho A, clip(rho, 1 - clip, 1 + clip) A ),  rho = exp(logps - old_logps)

    All (B, T) -> scalar. The gradient is zero where rho is beyond the clip in the direction that A asks for.
    """
    ratio = torch.exp(logps - old_logps)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask)


def ppo_value_loss(values, old_values, returns, mask, clip):
    """Half the squared error of the values, the larger of the plain and the clipped one. Equation eq-ppo-value.

    All (B, T) -> scalar. As in the code of InstructGPT's forerunners; the paper of PPO has no clip here.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


def lora_parameters(d, k, r):
    """Trainable parameters of Delta W = (alpha/r) B A with B (d, r) and A (r, k): r (d + k). Equation eq-lora-count.

    >>> lora_parameters(192, 512, r=8)
    5632
    """
    return r * (d + k)


def best_of_n_kl(n):
    """KL(pi_n || pi) of best-of-n sampling, in nats, if no reward has a positive probability; else a bound from above.

    log n - (n - 1)/n. Equations eq-bon-kl and eq-bon-bound (Stiennon et al. 2020, appendix G.3; Beirami et al. 2024).

    >>> round(best_of_n_kl(4), 3)
    0.636
    """
    return math.log(n) - (n - 1) / n
