"""The equations against slow, obvious versions of themselves, and the properties that any refactor must keep."""

import math

import pytest
import torch

from lab.objectives import dpo_loss, implicit_reward, lora_parameters, sequence_logprobs, sft_loss, token_logprobs

SEEDS = range(5)


def batch(seed, B=3, T=7, V=11):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, V, (B, T), generator=g)
    labels[torch.rand(B, T, generator=g) < 0.4] = -100
    labels[:, -1] = 1  # no row without a supervised token
    return torch.randn(B, T, V, generator=g, dtype=torch.float64), labels


def by_hand(logits, labels):
    """(token log-probabilities in a list, per row), one position at a time."""
    rows = []
    for row_logits, row in zip(logits, labels):
        rows.append([math.log(torch.softmax(row_logits[t - 1], 0)[row[t]]) for t in range(1, len(row)) if row[t] != -100])
    return rows


@pytest.mark.parametrize("seed", SEEDS)
def test_sequence_logprobs_are_sums_over_supervised_tokens(seed):
    logits, labels = batch(seed)
    wanted = torch.tensor([sum(row) for row in by_hand(logits, labels)])
    assert torch.allclose(sequence_logprobs(logits, labels), wanted, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_sft_loss_is_the_mean_over_tokens_not_over_rows(seed):
    logits, labels = batch(seed)
    tokens = [logprob for row in by_hand(logits, labels) for logprob in row]
    assert sft_loss(logits, labels).item() == pytest.approx(-sum(tokens) / len(tokens), abs=1e-5)


def test_the_shift_is_inside():
    logits = torch.full((1, 3, 4), -20.0)
    logits[0, 0, 2] = logits[0, 1, 3] = 20.0  # position 0 predicts token 2, position 1 predicts token 3
    assert sequence_logprobs(logits, torch.tensor([[0, 2, 3]])).item() == pytest.approx(0, abs=1e-6)
    assert sequence_logprobs(logits, torch.tensor([[2, 3, 0]])).item() < -30


def test_the_first_label_is_never_predicted():
    logits, labels = batch(0)
    changed = labels.clone()
    changed[:, 0] = 5
    assert torch.equal(sequence_logprobs(logits, labels), sequence_logprobs(logits, changed))


def test_masked_positions_do_not_matter():
    logits, labels = batch(0)
    silent = torch.cat([labels[:, 1:] == -100, torch.ones(len(labels), 1, dtype=torch.bool)], 1)
    noisy = torch.where(silent[..., None], torch.randn_like(logits), logits)
    assert torch.equal(token_logprobs(logits, labels), token_logprobs(noisy, labels))


def test_longer_responses_are_less_likely():
    """Sum, not mean: adding a token can only lower log pi(y | x)."""
    logits, labels = batch(1)
    fewer = labels.clone()
    fewer[:, -1] = -100
    assert (sequence_logprobs(logits, labels) < sequence_logprobs(logits, fewer)).all()


def test_half_precision_logits_are_summed_in_float32():
    logits, labels = batch(2)
    assert sequence_logprobs(logits.half(), labels).dtype == torch.float32


def test_misaligned_labels_are_refused():
    logits, labels = batch(0)
    with pytest.raises(ValueError, match="disagree"):
        sequence_logprobs(logits, labels[:, :-1])


def quartet(seed):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_dpo_starts_at_ln_2(beta):
    chosen, rejected = quartet(0)[:2]
    assert torch.allclose(dpo_loss(chosen, rejected, chosen, rejected, beta), torch.tensor(math.log(2), dtype=torch.float64))


@pytest.mark.parametrize("seed", SEEDS)
def test_swapping_the_sides_swaps_the_sign_of_the_margin(seed):
    pc, pr, rc, rr = quartet(seed)
    margin = implicit_reward(pc, rc, 0.3) - implicit_reward(pr, rr, 0.3)
    assert torch.allclose(dpo_loss(pr, pc, rr, rc, 0.3) - dpo_loss(pc, pr, rc, rr, 0.3), margin)


@pytest.mark.parametrize("seed", SEEDS)
def test_dpo_gradient_is_the_one_of_the_paper(seed):
    """d loss / d log pi(y_w) = -beta sigma(r_l - r_w), and the opposite for y_l (Rafailov et al. 2023, section 4)."""
    pc, pr, rc, rr = quartet(seed)
    pc, pr, beta = pc.requires_grad_(), pr.requires_grad_(), 0.2
    dpo_loss(pc, pr, rc, rr, beta).sum().backward()
    weight = beta * torch.sigmoid(implicit_reward(pr, rr, beta) - implicit_reward(pc, rc, beta)).detach()
    assert torch.allclose(pc.grad, -weight) and torch.allclose(pr.grad, weight)


def test_dpo_falls_as_the_chosen_side_gains():
    pc, pr, rc, rr = quartet(3)
    assert (dpo_loss(pc + 1, pr, rc, rr, 0.1) < dpo_loss(pc, pr, rc, rr, 0.1)).all()
    assert (dpo_loss(pc, pr + 1, rc, rr, 0.1) > dpo_loss(pc, pr, rc, rr, 0.1)).all()


def test_dpo_does_not_overflow():
    big = torch.tensor([1e4])
    assert dpo_loss(-big, big, big, -big, 1.0).isfinite().all()


@pytest.mark.parametrize("beta", [0, -0.1])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta"):
        dpo_loss(*quartet(0), beta)


def test_lora_parameters():
    assert lora_parameters(192, 512, 8) == torch.empty(192, 8).numel() + torch.empty(8, 512).numel()
