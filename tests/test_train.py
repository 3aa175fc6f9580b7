"""The loop: it learns, repeats itself, resumes exactly, and gives one curve however a batch is shared out."""

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from conftest import PAIR_ROWS, ROWS, tiny

from lab import dpo as dpo_module
from lab import train as train_module
from lab.data import encode_all, encode_sft, sft_collator
from lab.dpo import dpo
from lab.models import add_lora
from lab.objectives import sft_loss
from lab.sft import loss, sft
from lab.train import batch_order, learning_rate, parts, train

SETTINGS = dict(lr=5e-3, epochs=3, batch_size=6)
CURVE = ("loss", "lr", "grad_norm", "tokens")


def curve(log):
    return [tuple(record[key] for key in CURVE) for record in log]


def test_sft_lowers_the_loss(model, tokenizer, rows):
    log = sft(model, tokenizer, rows, lr=5e-3, epochs=8, batch_size=8)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert [record["step"] for record in log] == list(range(1, 17))


def test_dpo_starts_at_ln_2_and_falls(model, tokenizer, pairs):
    log = dpo(model, tokenizer, pairs, beta=0.1, lr=1e-3, epochs=4, batch_size=8)
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert log[-1]["loss"] < 0.5 and log[-1]["accuracy"] == 1.0
    assert log[-1]["margin"] == pytest.approx(log[-1]["reward_chosen"] - log[-1]["reward_rejected"], abs=1e-5)


def test_dpo_starts_at_ln_2_in_half_precision_too(model, tokenizer, pairs):
    """The reference is read in the precision of the policy. What is left is rounding, which depends on a batch's pads."""
    assert dpo(add_lora(model), tokenizer, pairs, beta=1.0, lr=1e-3, batch_size=len(pairs), precision="bf16")[0]["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_the_reference_of_dpo_is_the_model_handed_in(model, tokenizer, rows, pairs):
    """An adapter trained by SFT is part of the reference: with the base as reference, DPO would not start at ln 2."""
    model = add_lora(model)
    sft(model, tokenizer, rows, lr=1e-2, epochs=4, batch_size=8)
    assert dpo(model, tokenizer, pairs, beta=1.0, lr=1e-3, batch_size=8)[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_the_reference_does_not_move_with_the_policy(model, tokenizer, pairs, monkeypatch):
    seen = []
    true_loss = dpo_module.loss
    monkeypatch.setattr(dpo_module, "loss", lambda model, batch, beta: seen.append(batch["reference"].clone()) or true_loss(model, batch, beta))
    dpo(model, tokenizer, pairs[:4], beta=0.1, lr=1e-2, epochs=3, batch_size=4, seed=3)
    assert all(torch.equal(first.sort().values, seen[0].sort().values) for first in seen)


def test_same_seed_same_run_and_another_seed_another(tokenizer, rows):
    runs = [sft(tiny(tokenizer), tokenizer, rows, seed=seed, **SETTINGS) for seed in (0, 0, 1)]
    assert curve(runs[0]) == curve(runs[1]) != curve(runs[2])


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("accumulation", [2, 3, 6])
def test_accumulation_does_not_change_the_curve(tokenizer, rows, pairs, stage, accumulation):
    """Not even with responses of unequal length, where a mean of means would differ."""
    def run(**options):
        if stage == "dpo":
            return dpo(tiny(tokenizer), tokenizer, pairs, beta=0.1, **SETTINGS, **options)
        return sft(tiny(tokenizer), tokenizer, [r | {"response": r["response"] * (1 + i % 4)} for i, r in enumerate(rows)], **SETTINGS, **options)

    for one, other in zip(run(), run(accumulation=accumulation), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert one["tokens"] == other["tokens"]


class Interrupted(Exception):
    pass


def interrupted_after(steps, loss_fn=loss):
    calls = []

    def stopping(model, batch):
        if len(calls) == steps:
            raise Interrupted
        calls.append(1)
        return loss_fn(model, batch)

    return stopping


@pytest.mark.parametrize("killed_at", range(8))
@pytest.mark.parametrize("save_every", [1, 3])
def test_a_run_killed_at_any_step_goes_on_as_if_nothing_had_happened(tokenizer, tmp_path, killed_at, save_every):
    examples, collate = encode_all(ROWS, encode_sft, tokenizer, 128), sft_collator(tokenizer)
    wanted = train(whole := add_lora(tiny(tokenizer)), examples, collate, loss, **SETTINGS)
    with pytest.raises(Interrupted):
        train(add_lora(tiny(tokenizer)), examples, collate, interrupted_after(killed_at), out=tmp_path, save_every=save_every, **SETTINGS)
    got = train(second := add_lora(tiny(tokenizer)), examples, collate, loss, out=tmp_path, save_every=save_every, **SETTINGS)
    assert curve(got) == curve(wanted)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters()))


@pytest.mark.parametrize("with_lora, dropout", [(False, 0.0), (False, 0.2), (True, 0.0)])
def test_an_interrupted_run_goes_on_exactly(tokenizer, tmp_path, with_lora, dropout):
    examples, collate = encode_all(ROWS, encode_sft, tokenizer, 128), sft_collator(tokenizer)

    def new():
        model = tiny(tokenizer, attention_dropout=dropout)
        return add_lora(model) if with_lora else model

    whole, first, second = new(), new(), new()
    wanted = train(whole, examples, collate, loss, **SETTINGS)
    with pytest.raises(Interrupted):
        train(first, examples, collate, interrupted_after(5), out=tmp_path, save_every=2, **SETTINGS)
    calls = []
    counted = lambda model, batch: calls.append(1) or loss(model, batch)
    got = train(second, examples, collate, counted, out=tmp_path, save_every=2, **SETTINGS)
    assert curve(got) == curve(wanted)
    assert len(calls) == len(wanted) - 4  # steps 1 to 4 were on disk
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters()))


def test_a_finished_run_is_loaded_not_repeated(tokenizer, rows, tmp_path, capsys):
    first, second = tiny(tokenizer), tiny(tokenizer)
    log = sft(first, tokenizer, rows, out=tmp_path, **SETTINGS)
    again = sft(second, tokenizer, rows, out=tmp_path, **SETTINGS)
    assert again == log and "nothing is trained again" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


@pytest.mark.parametrize("changed, named", [({"lr": 1e-4}, "lr"), ({"epochs": 4}, "epochs"), ({"seed": 5}, "seed")])
def test_a_folder_with_another_run_is_refused(tokenizer, rows, tmp_path, changed, named):
    sft(tiny(tokenizer), tokenizer, rows, out=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match=f"another .*{named}"):
        sft(tiny(tokenizer), tokenizer, rows, out=tmp_path, **(SETTINGS | changed))


def test_a_folder_with_other_data_is_refused(tokenizer, rows, tmp_path):
    sft(tiny(tokenizer), tokenizer, rows, out=tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match="another training data"):
        sft(tiny(tokenizer), tokenizer, [row | {"response": "No."} for row in rows], out=tmp_path, **SETTINGS)


def test_the_checkpoint_holds_the_trainable_weights_only(model, tokenizer, rows, tmp_path):
    from safetensors import safe_open

    sft(add_lora(model), tokenizer, rows, out=tmp_path, **SETTINGS)
    with safe_open(tmp_path / "training.safetensors", "pt") as file:
        weights = [key for key in file.keys() if key.startswith("weight/")]
    assert weights and all("lora_" in key for key in weights)


def test_the_scale_of_an_fp16_loss_is_kept(model, tmp_path):
    def optimizer(scale):
        return AcceleratedOptimizer(torch.optim.AdamW(add_lora(model).parameters()), scaler=torch.amp.GradScaler("cpu", init_scale=scale))

    before, after = optimizer(128.0), optimizer(65536.0)
    train_module.save(tmp_path, model, before, {}, [])
    train_module.restore(tmp_path, model, after, {})
    assert after.scaler.get_scale() == 128.0


def test_training_leaves_the_frozen_base_alone(model, tokenizer, rows):
    before = {name: p.clone() for name, p in add_lora(model).named_parameters()}
    sft(model := add_lora(tiny(tokenizer)), tokenizer, rows, **SETTINGS)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_mixed_precision_can_follow_float32_in_one_process(tokenizer, rows):
    model = tiny(tokenizer)
    for precision in ("no", "bf16", "no", "bf16"):
        log = sft(model, tokenizer, rows, precision=precision, lr=1e-3, epochs=1, batch_size=8)
        assert log[-1]["loss"] > 0
    plain, ids = tiny(tokenizer), torch.arange(4, 40)[None]
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)  # nothing of autocast stays behind


def test_a_loss_that_is_not_finite_is_an_error(model, tokenizer, rows):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        sft(model, tokenizer, rows, lr=1e9, max_grad_norm=1e9, epochs=4, batch_size=8)


def test_errors_come_before_training(model, tokenizer, rows):
    examples, collate = encode_all(rows, encode_sft, tokenizer, 128), sft_collator(tokenizer)
    with pytest.raises(ValueError, match="empty"):
        train(model, [], collate, loss, lr=1e-3)
    with pytest.raises(ValueError, match="cannot be shared"):
        train(model, examples, collate, loss, lr=1e-3, batch_size=2, accumulation=3)
    with pytest.raises(ValueError, match="beta"):
        dpo(model, tokenizer, PAIR_ROWS, beta=0, lr=1e-3)
    with pytest.raises(ValueError, match="no trainable parameter"):
        train(model.requires_grad_(False), examples, collate, loss, lr=1e-3)


def test_the_order_is_a_permutation_in_each_epoch():
    order = batch_order(12, epochs=3, batch_size=4, seed=0)
    assert order.shape == (9, 4)
    for epoch in order.view(3, 12).tolist():
        assert sorted(epoch) == list(range(12))
    assert not torch.equal(order[:3], order[3:6])


@pytest.mark.parametrize("n, epochs, size, steps", [(10, 1, 4, 2), (10, 0.5, 4, 1), (3, 1, 32, 1), (10, 2, 4, 5), (5, 0.1, 2, 1)])
def test_whole_batches_only(n, epochs, size, steps):
    assert len(batch_order(n, epochs, size, 0)) == steps


def test_the_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0


def test_a_short_decay_keeps_the_peak_until_then():
    rates = [learning_rate(step, 100, 2.0, 0.1, decay=0.2) for step in range(100)]
    assert rates[10:81] == [2.0] * 71 and rates[81] == pytest.approx(2.0 * 19 / 20) and rates[99] == pytest.approx(0.1)
    assert [learning_rate(step, 10, 2.0, 0.0, decay=0.0) for step in range(10)] == [2.0] * 10


def test_parts_group_like_lengths_and_lose_no_row():
    rows = sorted((torch.zeros(n) for n in [3, 90, 5, 4, 100, 2, 95, 6]), key=len)
    cut = parts(rows, 1, worth=128)
    assert [[len(row) for row in part] for part in cut] == [[2, 3, 4, 5], [6, 90, 95, 100]]
    assert parts(rows, 1, worth=1e9) == [rows]
    assert [len(part) for part in parts(rows, 3, worth=1e9)] == [2, 3, 3]
    equal = [torch.zeros(64)] * 12
    assert parts(equal, 1, worth=1) == [equal]  # pretraining windows are not split


def test_rows_of_unlike_length_give_the_same_curve_whole_or_in_parts(tokenizer, monkeypatch):
    rows = [{"prompt": "Hi " * (1 + 5 * (i % 6)), "response": f"Yes, {i}. " * (1 + i % 3)} for i in range(24)]
    calls = []

    def run(split):
        calls.clear()
        monkeypatch.setattr(train_module, "parts", parts if split else lambda rows, count, worth: [rows])
        return sft(tiny(tokenizer), tokenizer, rows, lr=5e-3, epochs=2, batch_size=12)

    monkeypatch.setattr("lab.sft.sft_loss", lambda *args: calls.append(1) or sft_loss(*args))
    whole, n_whole = run(False), len(calls)
    apart, n_apart = run(True), len(calls)
    assert n_apart > n_whole == len(whole)
    for one, other in zip(whole, apart, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4) and one["tokens"] == other["tokens"]
