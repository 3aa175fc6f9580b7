"""Reward model, KL estimators, GAE and PPO's losses, each against a second way to compute it."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lab.objectives import bradley_terry_loss, gae, kl_estimators, masked_mean, ppo_policy_loss, ppo_value_loss, whiten

double = {"dtype": torch.float64}


def test_bradley_terry_is_logistic_regression():
    """Rewards linear in features, fitted by our loss and by scikit-learn on feature differences."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(400, 3)), np.array([1.0, -2.0, 0.5])
    wins = rng.random(400) < 1 / (1 + np.exp(-x @ w))
    difference = torch.tensor(np.where(wins[:, None], x, -x))
    weights = torch.zeros(3, **double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = bradley_terry_loss(difference @ weights, torch.zeros(400, **double)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x, wins)
    np.testing.assert_allclose(weights.detach(), fitted.coef_[0], rtol=1e-3)


def test_bradley_terry_sees_only_the_difference():
    a, b = torch.randn(5), torch.randn(5)
    torch.testing.assert_close(bradley_terry_loss(a + 7, b + 7), bradley_terry_loss(a, b))
    torch.testing.assert_close(torch.exp(-bradley_terry_loss(a, b)) + torch.exp(-bradley_terry_loss(b, a)), torch.ones(5))


def test_kl_estimators_on_an_enumerated_space():
    torch.manual_seed(0)
    p, q = torch.randn(2, 7, **double).softmax(-1)
    exact = (p * (p / q).log()).sum()
    k1, k2, k3 = kl_estimators(p.log(), q.log())
    torch.testing.assert_close((p * k1).sum(), exact)
    torch.testing.assert_close((p * k3).sum(), exact)
    assert (k2 >= 0).all() and (k3 >= 0).all()
    assert (p * (k3 - exact) ** 2).sum() < (p * (k1 - exact) ** 2).sum()
    torch.testing.assert_close((p * k2).sum(), (p * (p / q).log() ** 2).sum() / 2)


def gae_by_hand(rewards, values, mask, gamma, lam):
    """The double loop of the definition."""
    out = np.zeros(rewards.shape)
    for b in range(len(rewards)):
        steps = [t for t in range(rewards.shape[1]) if mask[b, t]]
        for i, t in enumerate(steps):
            for l, u in enumerate(steps[i:]):
                following = values[b, u + 1] if u != steps[-1] else 0.0
                out[b, t] += (gamma * lam) ** l * (rewards[b, u] + gamma * following - values[b, u])
    return out


@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0)])
def test_gae_against_the_double_loop(gamma, lam):
    torch.manual_seed(1)
    rewards, values = torch.randn(2, 4, 9, **double)
    mask = torch.zeros(4, 9, **double)
    for row, (start, end) in enumerate([(0, 9), (3, 7), (8, 9), (0, 1)]):
        mask[row, start:end] = 1
    got = gae(rewards, values, mask, gamma, lam)
    np.testing.assert_allclose(got, gae_by_hand(rewards.numpy(), values.numpy(), mask.numpy(), gamma, lam))


def test_gae_at_both_ends_of_lambda():
    torch.manual_seed(2)
    rewards, values = torch.randn(2, 3, 6, **double)
    mask = torch.ones(3, 6, **double)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gae(rewards, values, mask, 1.0, 1.0), to_go - values)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1, **double)], 1)
    torch.testing.assert_close(gae(rewards, values, mask, 0.9, 0.0), rewards + 0.9 * following - values)


@pytest.mark.parametrize("log_ratio, advantage, active", [
    (0.5, 1.0, False), (0.5, -1.0, True), (-0.5, 1.0, True), (-0.5, -1.0, False), (0.1, 1.0, True), (0.1, -1.0, True), (-0.1, 1.0, True)])
def test_the_clipped_gradient_in_each_region(log_ratio, advantage, active):
    logp = torch.tensor([[log_ratio]], **double, requires_grad=True)
    one = torch.ones(1, 1, **double)
    ppo_policy_loss(logp, torch.zeros(1, 1, **double), advantage * one, one, clip=0.2).backward()
    expected = -advantage * math.exp(log_ratio) if active else 0.0  # d rho / d logp = rho
    assert logp.grad.item() == pytest.approx(expected)


def test_the_first_ppo_gradient_is_the_policy_gradient_of_a_bandit():
    """At rho = 1, averaged over the policy's own actions, against finite differences of the expected reward."""
    torch.manual_seed(3)
    logits, reward = torch.randn(5, **double), torch.randn(5, **double)
    expected = lambda l: (l.softmax(-1) * reward).sum()
    eps, eye = 1e-6, torch.eye(5, **double)
    differences = torch.stack([(expected(logits + eps * e) - expected(logits - eps * e)) / (2 * eps) for e in eye])
    theta = logits.clone().requires_grad_()
    logp, p = theta.log_softmax(-1), logits.softmax(-1)
    baseline = (p * reward).sum()
    # one "token" per action; the mask weighs each action with its probability
    loss = ppo_policy_loss(logp[None], logp.detach()[None], (reward - baseline)[None], p[None], clip=0.2)
    loss.backward()
    torch.testing.assert_close(-theta.grad, differences, atol=1e-8, rtol=1e-6)


def test_the_value_loss_takes_the_worse_of_two():
    one = torch.ones(1, 1)
    assert ppo_value_loss(2.0 * one, 0.0 * one, 2.0 * one, one, clip=0.5) == pytest.approx(0.5 * 1.5**2)  # right, but a long way
    assert ppo_value_loss(0.2 * one, 0.0 * one, 1.0 * one, one, clip=0.5) == pytest.approx(0.5 * 0.8**2)


def test_masked_positions_do_not_matter():
    torch.manual_seed(4)
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    x, y = torch.randn(2, 1, 3)
    y[:, :2] = x[:, :2]
    assert masked_mean(x, mask) == masked_mean(y, mask)
    torch.testing.assert_close(whiten(x, mask)[:, :2], whiten(y, mask)[:, :2])
    white = whiten(torch.randn(8, 40), torch.ones(8, 40))
    assert abs(white.mean()) < 1e-6 and white.var(unbiased=False) == pytest.approx(1.0, abs=1e-4)
