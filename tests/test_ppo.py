"""The reward model and PPO on a tiny model: what they compute, that they learn, and what stops them."""

import copy
import math
from itertools import count

import pytest
import torch

from lab import models
from lab.objectives import sequence_logprobs, token_logprobs
from lab.ppo import ActorCritic, PPOError, by_parts, ppo, rollout, token_rewards
from lab.reward import RewardModel, rewards, train_reward

PROMPTS = ["What is 1 plus 1?", "What is 2 plus 3?", "Name a colour."]
FAST = dict(beta=0.05, lr=3e-3, updates=2, rollouts=12, minibatch=6, max_new_tokens=6)


@pytest.fixture
def policy(model):
    return models.add_lora(model, r=4, alpha=8)


def test_a_new_reward_model_is_indifferent_and_learns(policy, tokenizer, pairs):
    reward_model = RewardModel(policy)
    assert rewards(reward_model, tokenizer, PROMPTS, ["a", "b", ""]).tolist() == [0, 0, 0]
    log = train_reward(reward_model, tokenizer, pairs, lr=5e-3, epochs=6, batch_size=8)
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and log[-1]["loss"] < 0.4 and log[-1]["accuracy"] == 1


def test_a_reward_does_not_depend_on_the_batch_it_is_computed_in(policy, tokenizer):
    reward_model = RewardModel(policy).eval()
    torch.nn.init.normal_(reward_model.head.weight)
    texts = ["It is 2.", "I do not know that. Please tell me more about it.", "Red"]
    together = rewards(reward_model, tokenizer, PROMPTS, texts)
    alone = torch.cat([rewards(reward_model, tokenizer, [p], [t]) for p, t in zip(PROMPTS, texts)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_actor_sees_the_log_probability_of_each_sampled_token(policy, tokenizer):
    batch, texts = rollout(policy, tokenizer, PROMPTS * 2, 6, seed=0)
    with torch.no_grad():
        logps, values, mask = by_parts(ActorCritic(policy), batch, size=2)
        whole = sequence_logprobs(policy(input_ids=batch["input_ids"]).logits, batch["labels"])
    torch.testing.assert_close((logps * mask).sum(1), whole, atol=1e-4, rtol=1e-4)
    assert mask.sum() == (batch["labels"] != -100).sum() and values.abs().max() == 0
    for row, text in zip(batch["labels"], texts):
        assert tokenizer.decode(row[row != -100], skip_special_tokens=True) == text


def test_ppo_raises_a_reward_and_starts_at_its_reference(model, tokenizer):
    """The reward is the share of letters, which a random model can learn to write more of."""
    letters = lambda asked, texts: [sum(c.isascii() and c.isalpha() for c in text) / (len(text) + 1) for text in texts]
    log = ppo(model, copy.deepcopy(model), tokenizer, PROMPTS, letters, beta=0.0, lr=3e-3, updates=30, rollouts=32, minibatch=32, max_new_tokens=8, max_kl=1e4)
    assert log[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert sum(r["score"] for r in log[-5:]) > sum(r["score"] for r in log[:5]) + 5 * 0.15
    assert log[-1]["kl"] > 0.1 and log[-1]["tokens"] > log[0]["tokens"]


def test_the_tokens_rewards_sum_to_the_penalised_score():
    scores, k1, mask = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, -1.0, 9.0], [0.1, 0.2, 0.3]]), torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    rewards = token_rewards(scores, k1, mask, beta=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 1.1, 0.0], [-0.01, -0.02, 1.97]]))
    torch.testing.assert_close(rewards.sum(1), scores - 0.1 * (k1 * mask).sum(1))


@pytest.mark.parametrize("reward, words", [
    (lambda asked, texts: [math.nan] * len(texts), "update 1: the reward of 12 responses is not a number"),
    (lambda asked, texts: [0.5] * len(texts), r"update 1: all 12 responses, .* earn the same reward \(0.5\)")])
def test_a_reward_without_a_signal_stops_the_run(policy, tokenizer, reward, words):
    with pytest.raises(PPOError, match=words):
        ppo(policy, copy.deepcopy(policy), tokenizer, PROMPTS, reward, **FAST)


def test_a_policy_that_runs_away_is_stopped_and_the_last_checkpoint_stays(policy, tokenizer, tmp_path):
    lengths = lambda asked, texts: [float(i % 2) for i in range(len(texts))]
    with pytest.raises(PPOError, match="nats per response from its reference, more than 1e-09"):
        ppo(policy, copy.deepcopy(policy), tokenizer, PROMPTS, lengths, **FAST | dict(updates=9), max_kl=1e-9, out=tmp_path, save_every=1)
    assert (tmp_path / "adapter_model.safetensors").exists()


def letters(asked, texts):
    """The share of letters in a response: a reward that a random model can learn."""
    return [sum(c.isascii() and c.isalpha() for c in text) / (len(text) + 1) for text in texts]


def run(policy, tokenizer, **how):
    return ppo(policy, copy.deepcopy(policy), tokenizer, PROMPTS, letters, **FAST | dict(updates=5, max_kl=1e4) | how)


def numbers(log):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in log]


@pytest.mark.parametrize("killed_at", range(5))
@pytest.mark.parametrize("save_every", [1, 2])
def test_a_run_killed_in_any_update_goes_on_as_if_nothing_had_happened(policy, tokenizer, tmp_path, killed_at, save_every):
    start = copy.deepcopy(policy)
    wanted = run(policy, tokenizer)
    calls, first, second = count(), copy.deepcopy(start), copy.deepcopy(start)

    def dies(asked, texts):
        if next(calls) == killed_at:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(first, tokenizer, watch=dies, out=tmp_path, save_every=save_every)
    # The reference is the model as it was, and not the one that is half tuned by now.
    got = ppo(second, start, tokenizer, PROMPTS, letters, **FAST | dict(updates=5, max_kl=1e4), out=tmp_path, save_every=save_every)
    assert numbers(got) == numbers(wanted)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), second.parameters()))
    assert numbers(run(copy.deepcopy(start), tokenizer, out=tmp_path)) == numbers(wanted)  # finished: loaded
    with pytest.raises(ValueError, match="another beta"):
        run(copy.deepcopy(start), tokenizer, out=tmp_path, beta=0.5)


def test_what_is_watched_is_logged_and_changes_nothing(policy, tokenizer):
    other = copy.deepcopy(policy)
    watched = run(policy, tokenizer, watch=lambda asked, texts: {"gold": float(len(texts))})
    assert [record.pop("gold") for record in watched] == [12.0] * 5
    assert numbers(watched) == numbers(run(other, tokenizer))


def test_empty_responses_stop_the_run(policy, tokenizer, monkeypatch):
    monkeypatch.setattr("lab.ppo.sample_ids", lambda model, tokenizer, ids, **_: [[tokenizer.eos_token_id]] * len(ids))
    with pytest.raises(PPOError, match="update 1: every response is empty"):
        ppo(policy, copy.deepcopy(policy), tokenizer, PROMPTS, lambda asked, texts: [1.0] * len(texts), **FAST)


def test_half_precision_starts_at_its_reference_and_goes_on_after_a_kill(policy, tokenizer, tmp_path, monkeypatch):
    """On a CPU bf16 stands in for the fp16 of a T4, which a CPU has not."""
    start, first, second = (copy.deepcopy(policy) for _ in range(3))
    dtypes = []  # of the policy's logits, scored and trained, and of the reference's
    monkeypatch.setattr("lab.ppo.token_logprobs", lambda logits, kept: dtypes.append(logits.dtype) or token_logprobs(logits, kept))
    wanted = run(policy, tokenizer, precision="bf16")
    assert abs(wanted[0]["kl"]) < 0.05 and set(dtypes) == {torch.bfloat16}

    def dies(asked, texts, calls=count()):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(first, tokenizer, precision="bf16", watch=dies, out=tmp_path)
    got = ppo(second, start, tokenizer, PROMPTS, letters, **FAST | dict(updates=5, max_kl=1e4), precision="bf16", out=tmp_path)
    assert numbers(got) == numbers(wanted)
