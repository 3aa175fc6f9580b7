"""The three sizes of every experiment: one environment variable, LAB_SIZE, read here and nowhere else.

The code path is the same at each size; only model, data and step counts differ.
"""

import difflib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A named configuration.

    tasks        held-out prompts that a result is measured on; their binomial error is 1/(2 sqrt(tasks)) at most
    ppo_updates  each of 64 sampled responses and two passes over them
    ppo_rows     responses in one step of these passes: what fits into the memory of a 16 GB card at size gpu
    dpo_prompts  prompts whose sampled responses make the preference pairs
    seeds        how many times an experiment is repeated
    precision    what the forward pass computes in while training: "no" is float32, "half" 16 bits of the kind that the GPU has
    """

    name: str
    model: str
    bits: int = 4
    lora_r: int = 8
    lora_alpha: int = 16
    batch_size: int = 32
    accumulation: int = 1
    precision: str = "no"
    sft_rows: int = 2000
    sft_lr: float = 5e-3
    sft_epochs: float = 3
    dpo_prompts: int = 800
    dpo_lr: float = 6e-4
    dpo_epochs: float = 1
    beta: float = 0.1
    reward_lr: float = 1e-3
    reward_epochs: float = 2
    ppo_lr: float = 1e-3
    ppo_updates: int = 32
    ppo_rows: int = 32
    tasks: int = 400
    seeds: int = 3


# SmolLM2 has seen far more text than the pocket model, so a gentler learning rate and fewer rows do.
SIZES = {
    "pocket": Size("pocket", "pocket"),
    "smollm2": Size("smollm2", "smollm2", batch_size=8, sft_rows=64, sft_lr=5e-4, sft_epochs=2, dpo_prompts=32,
                    dpo_lr=1e-4, reward_lr=3e-4, ppo_lr=1e-4, ppo_updates=4, tasks=32, seeds=1),
    "gpu": Size("gpu", "HuggingFaceTB/SmolLM2-1.7B", batch_size=16, accumulation=4, precision="half", sft_rows=2000,
                sft_lr=2e-4, sft_epochs=1, dpo_prompts=500, dpo_lr=5e-5, reward_lr=1e-4, ppo_lr=2e-5, ppo_rows=8, tasks=200, seeds=1, lora_r=16, lora_alpha=32),
}


def current():
    """The size that LAB_SIZE names; pocket if it is not set.

    >>> current().model
    'pocket'
    """
    name = os.environ.get("LAB_SIZE") or "pocket"
    if name not in SIZES:
        near = difflib.get_close_matches(name, SIZES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SIZES)}"
        raise ValueError(f"LAB_SIZE={name!r} is not a size: {hint}")
    return SIZES[name]
