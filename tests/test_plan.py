"""The plan for many devices: what is cut and what is not, the limits of it, and the cache against a real one."""

import doctest

import pytest
import torch
from conftest import tiny

from lab import calculator, memory, plan

SHAPE = calculator.SHAPES["Llama 2 7B"]
PARTS = memory.predict(SHAPE, batch=1, length=1024, accumulation=2)
METHODS = list(plan.CUT)


def test_examples_in_docstrings():
    result = doctest.testmod(plan)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("method", METHODS)
def test_one_device_holds_what_the_ledger_says(method):
    assert plan.per_device(PARTS, 1, method, gathered=1e9)["peak"] == pytest.approx(PARTS["peak"])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_in_cutting(method):
    """Over all devices: what is cut is there once, what is not is there on each."""
    shares = plan.per_device(PARTS, 8, method)
    for part, size in PARTS.items():
        if part != "peak":
            assert 8 * shares[part] == pytest.approx(size if part in plan.CUT[method] else 8 * size)


def test_each_method_cuts_more_than_the_one_before_and_none_cuts_activations():
    peaks = [plan.per_device(PARTS, 8, method)["peak"] for method in METHODS]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)
    floor = PARTS["activations"] + PARTS["logits"]
    assert plan.per_device(PARTS, 2**40, "ZeRO-3 or FSDP")["peak"] == pytest.approx(floor, rel=1e-6)


def test_the_number_of_devices_is_the_smallest_that_does():
    gathered = plan.gathered_bytes(SHAPE, 32)
    n = plan.devices(PARTS, 80e9, "ZeRO-3 or FSDP", gathered)
    fits = [plan.per_device(PARTS, k, "ZeRO-3 or FSDP", gathered)["peak"] <= 0.8 * 80e9 for k in (n // 2, n)]
    assert n > 1 and fits == [False, True]
    assert plan.devices(PARTS, 80e9, "data parallel") is None  # more devices do not help what every device holds


def test_traffic():
    assert all(plan.traffic(PARTS, 1, method) == 0 for method in METHODS)
    whole = [plan.traffic(PARTS, 8, method) for method in METHODS]
    assert whole[0] == whole[1] == whole[2] and whole[3] == pytest.approx(1.5 * whole[0])  # weights and gradients are as large


def test_the_cache_is_as_large_as_a_real_one(tokenizer):
    model = tiny(tokenizer)
    cache = model(input_ids=torch.ones(3, 7, dtype=torch.long), use_cache=True).past_key_values
    real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert plan.cache_bytes(memory.Shape.of(model.config), 3 * 7, bits=32) == real


def test_arithmetic_of_a_step():
    """Two operations a weight and token in a forward pass; counted by torch on a real model, head included."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)
    model, ids = LlamaForCausalLM(config), torch.ones(1, 8, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    shape = memory.Shape.of(config)
    assert counter.get_total_flops() == pytest.approx(8 * plan.flop_per_token(shape), rel=0.05)  # attention scores are the rest
    assert plan.flop_per_token(shape, r=8) == plan.flop_per_token(shape) * 2 / 3
    assert plan.flop_per_token(shape, r=8, checkpointing=True) == plan.flop_per_token(shape)
