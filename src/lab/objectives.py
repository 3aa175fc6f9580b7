"""The equations of the book as pure tensor functions. Nothing else in the package repeats one of them.

Shapes: B sequences, T tokens, V words in the vocabulary. A label of -100 means "not supervised".
"""

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


def lora_parameters(d, k, r):
    """Trainable parameters of Delta W = (alpha/r) B A with B (d, r) and A (r, k): r (d + k). Equation eq-lora-count.

    >>> lora_parameters(192, 512, r=8)
    5632
    """
    return r * (d + k)
