"""LoRA from scratch, its count, and the 4-bit code, against PEFT and bitsandbytes."""

import bitsandbytes.functional as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lab import calculator, memory, quantise
from lab.lora import LoRALinear

torch.manual_seed(0)


def pair(r, alpha):
    """Our layer and PEFT's, with the same weights, B not zero."""
    linear = nn.Linear(24, 40, bias=False)
    model = get_peft_model(nn.Sequential(nn.Linear(24, 40, bias=False)), LoraConfig(r=r, lora_alpha=alpha, target_modules=["0"]))
    theirs, ours = model.base_model.model[0], LoRALinear(linear, r, alpha)
    with torch.no_grad():
        ours.B.normal_()
        theirs.base_layer.weight.copy_(linear.weight)
        theirs.lora_A["default"].weight.copy_(ours.A)
        theirs.lora_B["default"].weight.copy_(ours.B)
    return ours, theirs


@pytest.mark.parametrize("r, alpha", [(1, 16), (8, 16), (4, 3)])
def test_our_layer_is_pefts(r, alpha):
    ours, theirs = pair(r, alpha)
    x = torch.randn(7, 24)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(x @ ours.merged().T, theirs(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.A.grad, theirs.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.B.grad, theirs.lora_B["default"].weight.grad)
    assert ours.base.weight.grad is None


def test_a_new_layer_changes_nothing_and_can_learn():
    linear, x = nn.Linear(24, 40), torch.randn(3, 24)
    expected = linear(x).detach()
    layer = LoRALinear(linear, r=2, alpha=4)
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    assert layer.B.grad.abs().sum() > 0 and layer.A.grad.abs().sum() == 0


def test_the_code_books_are_those_of_bitsandbytes():
    torch.testing.assert_close(quantise.normal_code(), bnb.get_4bit_type("nf4", device="cpu"), atol=1e-6, rtol=0)
    assert torch.equal(quantise.dynamic_code(), bnb.create_dynamic_map())


@pytest.mark.parametrize("x", [torch.randn(96, 128), torch.randn(40, 64) * 1e-3, torch.randn(64, 64) ** 3, torch.zeros(2, 64)])
def test_nf4_codes_are_those_of_bitsandbytes(x):
    codes, absmax = quantise.quantise(x, quantise.normal_code())
    packed, state = bnb.quantize_4bit(x, quant_type="nf4")
    mine = (codes.flatten()[0::2] << 4 | codes.flatten()[1::2]).to(torch.uint8)
    assert torch.equal(mine, packed.flatten())
    torch.testing.assert_close(absmax, state.absmax)
    torch.testing.assert_close(quantise.rounded(x, quantise.normal_code()), bnb.dequantize_4bit(packed, state), atol=1e-6, rtol=1e-5)


def test_double_quantised_scales_are_within_a_level_of_bitsandbytes_and_never_farther():
    absmax = torch.rand(1000) + 0.5
    codes, scales, mean = quantise.double_quantise(absmax)
    theirs, state = bnb.quantize_blockwise(absmax - absmax.mean(), blocksize=256)
    torch.testing.assert_close(scales, state.absmax)
    assert (codes - theirs.long()).abs().max() <= 1 and (codes != theirs).float().mean() < 0.02
    wanted = (absmax - mean) / scales.repeat_interleave(256)[:1000]
    code = quantise.dynamic_code()
    assert ((code[codes] - wanted).abs() <= (code[theirs.long()] - wanted).abs()).all()


def test_quantise_refuses_a_remainder():
    with pytest.raises(ValueError, match="100 values cannot be cut into blocks of 64"):
        quantise.quantise(torch.zeros(100), quantise.normal_code())


@pytest.mark.parametrize("name", calculator.SHAPES)
def test_counts_are_pefts(name):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = calculator.SHAPES[name]
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads, head_dim=shape.head, intermediate_size=shape.ff, tie_word_embeddings=shape.tied))
        assert memory.Shape.of(model.config) == shape
        assert sum(p.numel() for p in model.parameters()) == memory.parameters(shape)
        adapted = get_peft_model(model, LoraConfig(r=5, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert adapted.get_nb_trainable_parameters()[0] == memory.adapter_parameters(shape, r=5)
