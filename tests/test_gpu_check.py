"""`make gpu-check`: its tiny form on a CPU, how it ends where it cannot run, and the ledger's word on 15 GB. On a GPU: the real thing."""

import json
from pathlib import Path

import pytest
import torch

from lab import gpu_check, memory, models, plan, real, size
from lab.gpu_check import LENGTH, NEW, ROLLOUTS, ROOM

ROOT = Path(__file__).parent.parent
STAGES = ["load", "SFT", "SFT in TRL", "SFT, full windows", "DPO", "DPO in TRL", "reward model", "PPO"]
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the real check runs instead")


def whole(found):
    """A record has everything, and what it says of itself is true."""
    assert list(found["stages"]) == STAGES and found["passed"]
    assert all(one["peak_bytes"] > 1e6 and one["seconds"] >= 0 for one in found["stages"].values())
    for one in found["against TRL"].values():
        assert one["first gap"] <= one["tolerance"] == gpu_check.TOLERANCE[found["precision"]] and one["same tokens"]
        assert min(one["tokens per second"].values()) > 0 and len(one["losses"]["here"]) == len(one["losses"]["TRL"]) > 1
    assert len(found["PPO"]) == found["settings"]["ppo_updates"] > 1 and found["seconds"] > 0 and found["predicted_bytes"]
    assert {"torch", "bitsandbytes", "trl", "python"} <= set(found["versions"]) and {"seed", "date", "started from", "commit"} <= set(found)


@on_cpu
def test_the_tiny_form_runs_through_and_gives_a_whole_record(tmp_path, capsys):
    out = tmp_path / "tiny.json"
    assert gpu_check.main(["--cpu", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    whole(found)
    assert found["cap_bytes"] is None and found["settings"]["model"] == models.POCKET and found["machine"]["device"] == "CPU only"
    assert "and nothing else" in found["started from"] and found["against TRL"]["DPO"]["losses"]["here"][0] == pytest.approx(0.693147, abs=1e-5)
    assert max(one["largest gap"] for one in found["against TRL"].values()) < 1e-3  # not only the first step: order, accumulation, schedule


def ends(capsys, arguments, code):
    """The one line on stderr of a command that ends with this code."""
    assert gpu_check.main(arguments) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_check, "RECORD", tmp_path / "gpu-check.json")  # a guard that is gone must not cost the real one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "check", lambda *_: {"passed": True})
    assert "no GPU here" in ends(capsys, [], 2)
    assert "--out" in ends(capsys, ["--cpu"], 2) and "record of a GPU" in ends(capsys, ["--cpu", "--out", str(gpu_check.RECORD)], 2)
    assert not list(tmp_path.iterdir())


@on_cpu
def test_too_little_memory_is_one_sentence_and_a_failed_check(tmp_path, monkeypatch, capsys):
    def too_much(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation.")

    monkeypatch.setattr(gpu_check, "here", too_much)
    error = ends(capsys, ["--cpu", "--out", str(tmp_path / "record.json")], 1)
    assert error.startswith("failed: SFT:") and "15 GB" in error and not list(tmp_path.iterdir())


@on_cpu
def test_a_check_that_does_not_pass_ends_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "check", lambda *_: {"passed": False})
    assert gpu_check.main(["--cpu", "--out", str(tmp_path / "record.json")]) == 1 and "differ" in capsys.readouterr().out


def test_gaps_and_pace():
    log = [{"loss": 2.0, "tokens": 100, "seconds": 5.0}, {"loss": 1.0, "tokens": 300, "seconds": 6.0}, {"loss": 1.0, "tokens": 500, "seconds": 7.0}]
    other = [record | {"loss": 1.1 * record["loss"], "seconds": 2 * record["seconds"]} for record in log]
    found = gpu_check.against_trl(log, other, "bf16")
    assert found["tokens per second"] == {"here": 200.0, "TRL": 100.0} and found["same tokens"]
    assert found["first gap"] == found["largest gap"] == pytest.approx(0.1 / 1.1) and found["first gap"] > found["tolerance"]


@pytest.mark.parametrize("total, expected", [(60e9, 0.25), (80 * 2**30, 15e9 / (80 * 2**30)), (16e9, 0.9375), (15e9, 1.0), (8e9, 1.0)])
def test_the_cap(total, expected):
    assert gpu_check.share(total) == pytest.approx(expected) and isinstance(gpu_check.share(int(total)), float)


def test_it_is_set_before_anything_else_and_the_precision_is_the_hardwares(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Card", (), {"total_memory": 60 * 10**9}))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: calls.append(share))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)  # a T4 emulates it

    def not_there(name, bits):
        calls.append(name)
        raise models.ModelError("the Hub did not give it")

    monkeypatch.setattr(models, "load", not_there)
    config, rollouts, source = gpu_check.chosen(type("Options", (), {"cpu": False, "model": None, "out": None}))
    assert calls == [0.25, "HuggingFaceTB/SmolLM2-1.7B"] and config.precision == "fp16" and rollouts == ROLLOUTS
    assert config.model == models.SMOLLM2 and "far smaller" in source and "the Hub did not give it" in source


# The ledger. It counts float32 activations, as PPO has them here; with mixed precision SFT and DPO keep less. It says nothing of
# the allocator's reserve.

SHAPE = memory.Shape(hidden=2048, layers=24, heads=32, kv_heads=32, head=64, ff=8192, vocab=49152, tied=True)  # SmolLM2-1.7B, as published
GPU = size.SIZES["gpu"]
PARTS = GPU.batch_size // GPU.accumulation  # rows in one forward pass


def peak(batch, length, **settings):
    return memory.predict(SHAPE, bits=GPU.bits, r=GPU.lora_r, batch=batch, length=length, **{"accumulation": GPU.accumulation} | settings)["peak"]


def test_the_shape_is_that_of_the_published_model():
    assert GPU.model == models.SMOLLM2_FAMILY + "1.7B" and memory.parameters(SHAPE) == 1_711_376_384


def test_sft_fits_and_would_not_in_one_piece_or_with_longer_rows():
    assert peak(PARTS, LENGTH) < ROOM
    assert peak(GPU.batch_size, LENGTH, accumulation=1) > ROOM and peak(PARTS, 640) > ROOM


def test_dpo_fits_up_to_256_tokens():
    assert peak(2 * PARTS, 256) < ROOM  # both sides of a pair at once
    assert peak(2 * GPU.batch_size, 256, accumulation=1) > ROOM and peak(2 * PARTS, 384) > ROOM


def test_the_public_rows_of_the_card_fit_one_at_a_time():
    public = real.plan_of(GPU)
    assert public.batch_size == public.accumulation and peak(2, public.max_length, accumulation=public.accumulation) < ROOM


def test_ppo_fits_with_small_minibatches_only():
    longest, frozen = 96, 2 * memory.weight_bytes(SHAPE, GPU.bits)  # tokens of a hand-written prompt; the reference and the reward model
    step = lambda rows: frozen + peak(rows, longest + NEW, supervised=NEW + 1, accumulation=1)
    assert step(GPU.ppo_rows) < ROOM < step(32)
    decoded, cache = 2 * memory.linear_parameters(SHAPE), plan.cache_bytes(SHAPE, ROLLOUTS * (longest + NEW), bits=32)
    assert frozen + memory.weight_bytes(SHAPE, GPU.bits) + decoded + cache < ROOM  # while it samples


# Where there is a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_check_itself(tmp_path):
    out = tmp_path / "record.json"
    assert gpu_check.main(["--out", str(out)]) == 0
    found = json.loads(out.read_text())
    whole(found)
    assert found["cap_bytes"] == ROOM and found["precision"] in ("fp16", "bf16") and all(one["peak_bytes"] <= ROOM for one in found["stages"].values())


@pytest.mark.skipif(not gpu_check.RECORD.exists(), reason="make gpu-check has not been run on a GPU: there is no record")
def test_the_shipped_record_is_whole():
    found = json.loads(gpu_check.RECORD.read_text())
    whole(found)
    assert found["cap_bytes"] == ROOM and "compute capability" in found["machine"] and all(one["peak_bytes"] <= ROOM for one in found["stages"].values())


def test_make_writes_the_record_of_the_package():
    assert gpu_check.RECORD == ROOT / "src/lab/records/gpu-check.json" and "--out src/lab/records/gpu-check.json" in (ROOT / "Makefile").read_text("utf8")
