"""The reward model: a language model with one number at its end, fitted to preferences by Bradley and Terry's likelihood."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lab import models
from lab.data import PAIRS, encode_all, encode_pair, name_of, over_rows, pair_collator, read, response_rows
from lab.objectives import IGNORE, bradley_terry_loss
from lab.sample import dense
from lab.train import train

HEAD = "head.safetensors"


class RewardModel(nn.Module):
    """r_phi(x, y): a linear head on the last hidden state of the last token, where the model has read all of x and y.

    model: a causal language model, best an SFT model with a LoRA adapter, which is trained along with the head.
    """

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config
        self.head = nn.Linear(model.config.hidden_size, 1, device=model.device)
        nn.init.zeros_(self.head.weight)  # every response is worth nothing at first, and each pair costs ln 2
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids, labels):  # (B, T), (B, T) -> (B,)
        last = labels.shape[1] - 1 - (labels != IGNORE).flip(1).int().argmax(1)  # (B,) the end of the response
        hidden = hidden_states(self.model, input_ids)  # (B, T, D)
        return self.head(hidden[torch.arange(len(last)), last].float())[:, 0]


def hidden_states(model, input_ids):
    """What the head of a language model reads, (B, T, D); the logits themselves are computed for one position only."""
    return model(input_ids=input_ids, logits_to_keep=1, output_hidden_states=True, use_cache=False).hidden_states[-1]


def train_reward(reward_model, tokenizer, pairs, *, lr, epochs=1, batch_size=32, seed=0, max_length=None, drop=False, **loop):
    """Fit r_phi in place to preference rows (see lab.data), and return the log, with the accuracy and margin of each step."""
    length = max_length or reward_model.config.max_position_embeddings
    examples = encode_all(read(pairs, PAIRS), encode_pair, tokenizer, length, name_of(pairs), drop)
    return train(reward_model, examples, pair_collator(tokenizer), loss, lr=lr, epochs=epochs, batch_size=batch_size, seed=seed, **loop)


def loss(reward_model, batch):
    """Equation eq-reward-loss on one batch."""
    chosen, rejected = reward_model(batch["input_ids"], batch["labels"]).chunk(2)  # (B,), (B,)
    return {"loss": bradley_terry_loss(chosen, rejected).mean(), "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean()}


def rewards(reward_model, tokenizer, prompts, responses):
    """r_phi of one response to each prompt: (N,)."""
    with dense(reward_model.model):
        return over_rows(reward_model, tokenizer, response_rows(tokenizer, prompts, responses), reward_model.head.weight.device)


def save_reward(reward_model, folder, tokenizer):
    """Write a reward model whose body has an adapter: the adapter in PEFT's format, and the head."""
    models.save_adapter(reward_model.model, folder, tokenizer)
    save_file(reward_model.head.state_dict(), Path(folder) / HEAD)


def load_reward(folder, bits=32):
    """What save_reward wrote, ready to give rewards. bits: see `models.load`. Raises ModelError if there is no head."""
    if not (Path(folder) / HEAD).exists():
        raise models.ModelError(f"{str(folder)!r} holds no reward model: it has no {HEAD}")
    reward_model = RewardModel(models.load(folder, bits)[0])
    reward_model.head.load_state_dict(load_file(Path(folder) / HEAD))
    return reward_model.eval()
