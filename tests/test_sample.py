"""Our sampling loop against model.generate, and the properties that experiments rely on."""

import pytest
import torch
from conftest import ROWS, tiny

from lab.data import DataError, encode_prompt
from lab.models import add_lora, linear4bit, load
from lab.sample import check_lengths, choose, dense, sample
from lab.sft import sft

PROMPTS = [row["prompt"] for row in ROWS] + ["Hi", "Name a colour. " * 6, "Tell me what the capital of Peru is, please."]


def by_generate(model, tokenizer, prompts, n, template=True):
    texts = []
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(prompt, tokenizer, template)])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)
        texts.append(tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True))
    return texts


@pytest.fixture(scope="module")
def trained(tokenizer):
    """A model that has learnt to answer and to stop, so that rows of a batch end at different times."""
    model = tiny(tokenizer)
    rows = [{"prompt": p, "response": "It is so. " * (1 + i % 5)} for i, p in enumerate(PROMPTS)]
    sft(model, tokenizer, rows, lr=1e-2, epochs=25, batch_size=8)
    return model.eval()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_is_generate_token_by_token(tokenizer, seed, batch_size):
    model = tiny(tokenizer, seed)
    assert sample(model, tokenizer, PROMPTS, max_new_tokens=20, temperature=0, batch_size=batch_size) == by_generate(model, tokenizer, PROMPTS, 20)


def test_greedy_is_generate_when_rows_end_at_different_times(trained, tokenizer):
    ours = sample(trained, tokenizer, PROMPTS, max_new_tokens=40, temperature=0)
    assert ours == by_generate(trained, tokenizer, PROMPTS, 40)
    assert len({len(text) for text in ours}) > 2  # the batch did shrink on the way


def test_raw_text_for_a_base_model(trained, tokenizer):
    ours = sample(trained, tokenizer, ["It is", "What"], max_new_tokens=12, temperature=0, template=False)
    assert ours == by_generate(trained, tokenizer, ["It is", "What"], 12, template=False)


@pytest.mark.parametrize("bits", [16, 4])
def test_greedy_is_generate_with_an_adapter_on_fewer_bits(folder, tokenizer, bits):
    model = add_lora(load(folder, bits)[0])
    sft(model, tokenizer, ROWS, lr=1e-2, epochs=3, batch_size=8)
    prompts = PROMPTS[:6] if bits == 4 else PROMPTS[:1]
    assert sample(model, tokenizer, prompts, max_new_tokens=12, temperature=0) == by_generate(model.eval(), tokenizer, prompts, 12)


def test_the_seed_decides_and_the_batch_size_does_not(trained, tokenizer):
    one, other = (sample(trained, tokenizer, PROMPTS, seed=3, batch_size=size) for size in (64, 5))
    assert one == other != sample(trained, tokenizer, PROMPTS, seed=4)


def test_equal_prompts_get_different_samples(tokenizer):
    assert len(set(sample(tiny(tokenizer), tokenizer, ["Hi"] * 8, max_new_tokens=6))) == 8


def test_samples_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5]]).expand(20000, 4)
    chance = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    for temperature in (0.5, 1.0, 2.0):
        share = torch.bincount(choose(logits, temperature, chance), minlength=4) / 20000
        assert torch.allclose(share, torch.softmax(logits[0] / temperature, 0), atol=0.012)


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, 3)
    assert choose(logits, 1.0, torch.tensor([0.0, 0.5, 1.0 - 2**-24])).tolist() == [1, 1, 1]


def test_a_cold_temperature_is_greedy(trained, tokenizer):
    assert sample(trained, tokenizer, PROMPTS, temperature=1e-4) == sample(trained, tokenizer, PROMPTS, temperature=0)


@pytest.mark.parametrize("bits", [32, 4])
def test_sampling_restores_the_model_exactly(folder, tokenizer, bits):
    model = add_lora(load(folder, bits)[0]).train()
    sft(model, tokenizer, ROWS, lr=1e-2, epochs=1, batch_size=8)
    modules, weights = dict(model.named_modules()), {n: p.clone() for n, p in model.named_parameters()}
    sample(model, tokenizer, PROMPTS, max_new_tokens=4)
    assert model.training and all(module is modules[name] for name, module in model.named_modules())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_an_error_while_sampling_restores_the_model_too(folder):
    model = add_lora(load(folder, 4)[0])
    with pytest.raises(RuntimeError), dense(model) as plain:
        assert not linear4bit(plain)
        raise RuntimeError
    assert linear4bit(model)


def test_a_disabled_adapter_is_left_out(folder, tokenizer):
    base = sample(load(folder)[0], tokenizer, PROMPTS[:4], temperature=0)
    model = add_lora(load(folder)[0])
    sft(model, tokenizer, ROWS, lr=1e-2, epochs=2, batch_size=8)
    assert sample(model, tokenizer, PROMPTS[:4], temperature=0) != base
    with model.disable_adapter():
        assert sample(model, tokenizer, PROMPTS[:4], temperature=0) == base


def test_a_row_ends_where_the_context_does(tokenizer):
    model = tiny(tokenizer)
    room = 5
    prompt = tokenizer.decode([40] * 122)  # and the token that begins a page
    ids = encode_prompt(prompt, tokenizer, template=False)
    assert len(ids) == model.config.max_position_embeddings - room
    both = sample(model, tokenizer, [prompt, "Hi"], max_new_tokens=30, temperature=0, template=False)
    assert both == by_generate(model, tokenizer, [prompt], room, False) + by_generate(model, tokenizer, ["Hi"], 30, False)


def test_several_turns(trained, tokenizer):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Bye"}]
    assert sample(trained, tokenizer, [talk], temperature=0) == by_generate(trained, tokenizer, [talk], 48)


def test_prompts_that_cannot_be(model, tokenizer):
    with pytest.raises(DataError, match="prompt 2 has .* no room"):
        sample(model, tokenizer, ["Hi", "word " * 200])
    with pytest.raises(DataError, match="prompt 2 has no token"):
        check_lengths([[1], []], 10)


def test_a_raw_prompt_begins_a_page(tokenizer):
    assert tokenizer.decode(encode_prompt("It is", tokenizer, template=False)) == "<|endoftext|>It is"


def test_no_prompt_no_response(model, tokenizer):
    assert sample(model, tokenizer, []) == []


def test_prompts_that_occur_several_times_are_read_once(tokenizer):
    model, often, read = tiny(tokenizer, 1), [PROMPTS[i] for i in (3, 0, 3, 17, 3, 0)], []
    hook = model.register_forward_pre_hook(lambda module, args, kwargs: read.append(len(kwargs["input_ids"])) if kwargs["input_ids"].shape[1] > 1 else None, with_kwargs=True)
    together = sample(model, tokenizer, often, max_new_tokens=12)
    hook.remove()
    assert sum(read) == 3 and together == sample(model, tokenizer, often, max_new_tokens=12, batch_size=1)
