"""The memory formulas against what autograd keeps, what the weights take, and what a process uses."""

import itertools

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from lab import calculator, memory, models

TOKENS = 24


def kept(blocks, bits, r):
    """Bytes kept for the backward pass by a small Llama of so many blocks, and its shape."""
    config = LlamaConfig(vocab_size=64, hidden_size=48, num_hidden_layers=blocks, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                         intermediate_size=80)
    model = LlamaForCausalLM(config).to(torch.bfloat16 if bits == 16 else torch.float32)
    model = model if r is None else models.add_lora(model, r=r)
    weights, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes() * (storage.data_ptr() not in weights)
        return tensor

    ids = torch.randint(64, (1, TOKENS))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
    assert loss.requires_grad
    return sum(found.values()), memory.Shape.of(config)


@pytest.mark.parametrize("bits, r", itertools.product((32, 16), (None, 3)))
def test_activations_of_a_block_to_the_byte(bits, r):
    (three, shape), (two, _) = kept(3, bits, r), kept(2, bits, r)
    assert three - two == TOKENS * memory.block_activations(shape, bits, r)


@pytest.mark.parametrize("bits", [32, 4])
def test_weight_bytes_are_those_of_the_loaded_model(bits):
    model, _ = models.load(models.POCKET, bits)
    model = models.prepared(model)
    assert memory.weight_bytes(memory.Shape.of(model.config), bits) == models.weight_bytes(model)


def test_full_fine_tuning_costs_sixteen_bytes_a_weight_before_activations():
    shape = calculator.SHAPES["Llama 2 7B"]
    parts = memory.predict(shape, accumulation=2)
    assert parts["weights"] + parts["gradients"] + parts["optimiser"] == 16 * memory.parameters(shape)
    assert parts["peak"] == sum(parts[part] for part in parts if part != "peak")


def test_every_lever_of_the_formula_lowers_the_peak():
    shape = calculator.SHAPES["Llama 3.2 1B"]
    start = dict(bits=32, r=8, batch=8, length=512)
    for change in ({"bits": 4}, {"checkpointing": True}, {"batch": 4}, {"length": 256}, {"r": 4}, {"supervised": 100}, {"adam_bits": 8}):
        assert memory.predict(shape, **start | change)["peak"] < memory.predict(shape, **start)["peak"], change


def test_prediction_meets_a_measured_step():
    batch = dict(bits=32, r=8, batch=32, length=64, supervised=24)
    model, _ = models.load(models.POCKET)
    predicted, measured = memory.predict(memory.Shape.of(model.config), **batch)["peak"], memory.measure(models.POCKET, **batch)
    assert 0.9 < predicted / measured["bytes"] < 1.1 and measured["seconds"] > 0


def test_bad_input_is_named():
    with pytest.raises(models.ModelError, match="'gpt2'"):
        memory.Shape.of(GPT2Config())
    with pytest.raises(ValueError, match="give r"):
        memory.predict(calculator.SHAPES["pocket, 2M"], bits=4)


def test_the_calculators_formulas_are_the_functions():
    import sympy

    for key, parts in list(calculator.formulas().items())[::7]:
        model, method, bits, adam_bits, checkpointing = key.split("|")
        predicted = memory.predict(calculator.SHAPES[model], bits=int(bits), r=None if method == "full" else 16, batch=3, length=700,
                                   adam_bits=int(adam_bits), checkpointing=bool(int(checkpointing)))
        for part, value in predicted.items():
            printed = sympy.sympify(parts[part].replace("Math.abs", "Abs"))
            assert float(printed.subs({"r": 16, "b": 3, "t": 700})) == pytest.approx(value), (key, part)
