"""The same numbers as the industrial libraries: TRL's SFT and DPO trainers on one batch, PEFT's parameter counts."""

import pytest
import torch
from conftest import ROWS, tiny
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from lab import dpo, sft
from lab.data import encode_pair, encode_prompt, encode_sft, pair_collator, sft_collator
from lab.models import add_lora
from lab.objectives import lora_parameters

PAIRS = [{"prompt": f"What is {n}?", "chosen": f"It is {n}." * (1 + n % 3), "rejected": "I do not know" + "!" * n} for n in range(6)]


def shifted(model, seed=1):
    """The model with some noise on its weights: a policy that has left its reference."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=generator)
    return model


def settings(kind, tmp_path, **options):
    return kind(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
                per_device_train_batch_size=len(ROWS), **options)


def test_sft_loss_is_trls(tokenizer, tmp_path):
    model = tiny(tokenizer)
    talks = [{"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"] * (1 + i % 3)}]}
             for i, r in enumerate(ROWS)]
    trainer = SFTTrainer(model, settings(SFTConfig, tmp_path, assistant_only_loss=True), train_dataset=Dataset.from_list(talks),
                         processing_class=tokenizer)
    theirs = trainer.compute_loss(model, trainer.data_collator(list(trainer.train_dataset)))
    ours = sft.loss(model, lean(sft_collator(tokenizer)([encode_sft(talk, tokenizer, 128) for talk in talks])))["loss"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_loss_is_trls(tokenizer, tmp_path, beta):
    reference, policy = tiny(tokenizer), shifted(tiny(tokenizer))
    texts = [{"prompt": tokenizer.decode(encode_prompt(p["prompt"], tokenizer)), "chosen": p["chosen"] + "<|im_end|>",
              "rejected": p["rejected"] + "<|im_end|>"} for p in PAIRS]
    trainer = DPOTrainer(policy, reference, settings(DPOConfig, tmp_path, beta=beta), train_dataset=Dataset.from_list(texts),
                         processing_class=tokenizer)
    theirs = trainer.compute_loss(policy, trainer.data_collator(list(trainer.train_dataset)))
    collate = pair_collator(tokenizer)
    pairs = dpo.add_reference(reference, [encode_pair(pair, tokenizer, 128) for pair in PAIRS], collate, batch_size=2)
    ours = dpo.loss(policy, lean(collate(pairs)), beta)["loss"]
    assert abs(ours.item() - 0.693147) > 1e-3  # the policy did leave its reference
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def lean(batch):
    return {key: value for key, value in batch.items() if torch.is_tensor(value)}


@pytest.mark.parametrize("r", [1, 4, 16])
def test_the_formula_counts_what_peft_counts(tokenizer, r):
    model = add_lora(tiny(tokenizer), r=r)
    trainable, _ = model.get_nb_trainable_parameters()
    config = model.config
    d, f, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    shapes = [(d, d), (kv, d), (kv, d), (d, d), (f, d), (f, d), (d, f)]  # q, k, v, o, gate, up, down
    assert trainable == config.num_hidden_layers * sum(lora_parameters(out, into, r) for out, into in shapes)
