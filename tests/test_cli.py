"""The command line: what it makes, and that bad input is one sentence and exit code 2, before any training."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import PAIR_ROWS, ROWS
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lab import train as train_module
from lab.__main__ import main
from lab.models import load
from lab.size import SIZES


@pytest.fixture
def files(tmp_path, folder):
    """The arguments that a good sft or dpo command shares, over small files."""
    for name, rows in {"sft": ROWS, "dpo": PAIR_ROWS}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shared = ["--model", folder, "--out", str(tmp_path / "out"), "--batch-size", "8", "--epochs", "2", "--lr", "5e-3"]
    return {name: [name, "--data", str(tmp_path / f"{name}.jsonl"), *shared] for name in ("sft", "dpo")}


def log_of(path):
    return json.loads((path / "log.json").read_text())


@pytest.mark.parametrize("command, bits", [("sft", "32"), ("sft", "4"), ("dpo", "32"), ("dpo", "4")])
def test_a_stage_trains_and_saves_an_adapter_that_peft_loads(files, tmp_path, folder, command, bits, capsys):
    assert main([*files[command], "--bits", bits]) == 0
    assert "the adapter is in" in capsys.readouterr().out
    log = log_of(tmp_path / "out")
    assert len(log) == 4 and log[-1]["loss"] < log[0]["loss"]
    model = PeftModel.from_pretrained(load(folder, int(bits))[0], tmp_path / "out")
    assert any(p.abs().sum() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_dpo_goes_on_from_an_adapter_folder(files, tmp_path):
    assert main([*files["sft"], "--bits", "32"]) == 0
    first, second = tmp_path / "out", str(tmp_path / "second")
    assert main(["dpo", "--model", str(first), *files["dpo"][1:3], "--out", second, "--bits", "32", "--batch-size", "8"]) == 0
    before, after = load_file(first / "adapter_model.safetensors"), load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert before.keys() == after.keys() and any((before[key] != after[key]).any() for key in before)
    assert log_of(tmp_path / "second")[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # the reference is the SFT model


def test_reward_and_ppo_follow_each_other(files, tmp_path, folder, capsys):
    pairs, out = files["dpo"][2], lambda name: ["--out", str(tmp_path / name), "--bits", "32"]
    assert main(["reward", "--model", folder, "--data", pairs, *out("reward"), "--batch-size", "8"]) == 0
    assert (tmp_path / "reward" / "head.safetensors").exists() and log_of(tmp_path / "reward")[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    ppo = ["ppo", "--model", folder, "--data", pairs, "--reward", str(tmp_path / "reward"), *out("ppo"), "--updates", "2", "--rollouts", "8", "--max-new-tokens", "4", "--lr", "1e-4"]
    assert main(ppo) == 0 and len(log_of(tmp_path / "ppo")) == 2 and log_of(tmp_path / "ppo")[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert "2 updates" in capsys.readouterr().out and isinstance(load(tmp_path / "ppo")[0], PeftModel)
    head = load_file(tmp_path / "reward" / "head.safetensors")
    save_file({key: torch.zeros_like(value) for key, value in head.items()}, tmp_path / "reward" / "head.safetensors")
    assert main([*ppo, "--out", str(tmp_path / "none")]) == 2 and "earn the same reward" in capsys.readouterr().err
    assert main(ppo) == 2 and "another model or with another reward model" in capsys.readouterr().err
    assert main([*ppo, "--reward", folder]) == 2 and "holds no reward model" in capsys.readouterr().err


def test_ppo_takes_the_parts_and_the_precision_of_its_size(files, tmp_path, folder, monkeypatch):
    """32 responses in one step would not fit a 16 GB card at size gpu."""
    asked = {}
    monkeypatch.setattr("lab.ppo.ppo", lambda *_, **options: asked.update(options) or [{"score": 0.0, "kl": 0.0}])
    monkeypatch.setattr("lab.reward.load_reward", lambda *_: None)
    (tmp_path / "head.safetensors").touch()
    monkeypatch.setenv("LAB_SIZE", "gpu")
    assert main(["ppo", "--model", folder, *files["dpo"][1:3], "--reward", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert asked["minibatch"] == SIZES["gpu"].ppo_rows < 32 and asked["precision"] == "half"


def test_a_finished_command_is_not_silently_repeated(files, tmp_path, capsys):
    assert main(files["sft"]) == 0
    first = log_of(tmp_path / "out")
    assert main(files["sft"]) == 0
    assert "nothing is trained again" in capsys.readouterr().out and log_of(tmp_path / "out") == first
    assert main([*files["sft"], "--seed", "1"]) == 2
    assert "holds a run with another" in capsys.readouterr().err


def test_an_interrupted_command_goes_on(files, tmp_path, monkeypatch, capsys):
    assert main([*files["sft"][:-6], "--out", str(tmp_path / "whole"), *files["sft"][-6:]]) == 0
    step = train_module.update

    def stop(*args):
        if (tmp_path / "out" / "training.safetensors").exists():
            raise KeyboardInterrupt
        return step(*args)

    saved = train_module.train.__kwdefaults__
    monkeypatch.setitem(saved, "save_every", 2)
    monkeypatch.setattr(train_module, "update", stop)
    assert main(files["sft"]) == 130 and "goes on" in capsys.readouterr().err
    monkeypatch.setattr(train_module, "update", step)
    assert main(files["sft"]) == 0
    losses = [[record["loss"] for record in log_of(tmp_path / name)] for name in ("whole", "out")]
    assert losses[0] == losses[1]


def test_eval_writes_a_report(folder, tmp_path, capsys):
    out = tmp_path / "reports" / "base.json"
    assert main(["eval", "--model", folder, "--bits", "32", "--tasks", "12", "--out", str(out)]) in (0, 2)
    if "no room in a context" in (error := capsys.readouterr().err):
        pytest.skip(error)  # the tiny model's context is short for some tasks
    report = json.loads(out.read_text())
    assert len(report["responses"]) == 12 and 0 <= report["summary"]["score"] <= 1


# Bad input


def run(capsys, *arguments):
    """The one-line message of a command that must fail with exit code 2, having trained nothing."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit:  # argparse
        code = exit.code
    output = capsys.readouterr()
    assert code == 2, output
    lines = output.err.strip().split("\n")
    assert "Traceback" not in output.err and lines[-1].count("error: ") == 1
    return lines[-1]


def with_row(tmp_path, row, name="bad.jsonl"):
    (tmp_path / name).write_text("\n".join(map(json.dumps, [ROWS[0] | PAIR_ROWS[0], row])))
    return str(tmp_path / name)


SFT_ROWS = [
    ({"promt": "a", "response": "b"}, "row 2: the column 'prompt' is missing; did you mean 'promt'?"),
    ({"prompt": "a", "response": ""}, "row 2: 'response' is empty"),
    ({"prompt": "a", "response": "word " * 200}, "row 2: the conversation has"),
]
DPO_ROWS = [
    ({"prompt": "a", "chosen": "b", "reject": "c"}, "row 2: the column 'rejected' is missing; did you mean 'reject'?"),
    ({"prompt": "a", "chosen": "word " * 200 + "b", "rejected": "word " * 200 + "c"}, "row 2: chosen and rejected are equal once cut"),
]


@pytest.mark.parametrize("command, row, wanted", [("sft", *r) for r in SFT_ROWS] + [("dpo", *r) for r in DPO_ROWS])
def test_bad_rows(files, tmp_path, capsys, monkeypatch, command, row, wanted):
    monkeypatch.setattr(train_module, "update", None)  # any step would fail
    path = with_row(tmp_path, row)
    text = run(capsys, command, "--data", path, *files[command][3:])
    assert f"{path}, " in text and wanted in text
    assert not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize("extra, wanted", [
    (["--data", "none.jsonl"], "none.jsonl: there is no such file"),
    (["--data", "owner/set"], "'owner/set' is not a .jsonl, .json, .csv, .parquet file, and could not be loaded from the Hub"),
    (["--model", "owner/model"], "the model 'owner/model' is not a folder here, and the Hub did not give it"),
    (["--lr", "-1"], "--lr: -1 is not above zero"),
    (["--lr", "nan"], "--lr: nan is not above zero"),
    (["--batch-size", "0"], "--batch-size: 0 is not a whole number above zero"),
    (["--batch-size", "2", "--accumulation", "3"], "a batch of 2 cannot be shared among 3"),
    (["--bits", "8"], "--bits: invalid choice: 8"),
])
def test_bad_arguments(files, capsys, extra, wanted):
    assert wanted in run(capsys, *files["sft"], *extra)


def test_beta_must_be_positive(files, capsys):
    assert "--beta: 0 is not above zero" in run(capsys, *files["dpo"], "--beta", "0")


def test_a_corrupt_adapter_folder(files, tmp_path, capsys):
    assert main(files["sft"]) == 0
    (tmp_path / "out" / "adapter_model.safetensors").write_bytes(b"junk")
    assert "is corrupt" in run(capsys, "eval", "--model", tmp_path / "out", "--out", tmp_path / "report.json")


@pytest.mark.parametrize("absent, wanted", [("chat_template", "the tokenizer has no chat template"), ("pad_token", "the tokenizer has no pad token")])
def test_a_model_without_template_or_pad(files, tmp_path, folder, capsys, absent, wanted):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    (model / "chat_template.jinja").unlink() if absent == "chat_template" else None
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop(absent, None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert wanted in run(capsys, *files["sft"], "--model", model)


def test_an_unknown_size(files, capsys, monkeypatch):
    monkeypatch.setenv("LAB_SIZE", "poket")
    assert "LAB_SIZE='poket' is not a size: did you mean 'pocket'?" in run(capsys, *files["sft"])


def test_out_must_fit_the_command(files, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert "this is a file, and a folder is needed" in run(capsys, *files["sft"])
    assert "this is a folder, and a file" in run(capsys, "eval", "--model", "pocket", "--out", tmp_path)


# As a command of its own


def shell(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, env=environment, timeout=300)


def test_the_exit_code_of_the_command(files):
    done = shell(sys.executable, "-m", "lab", *files["sft"], "--data", "none.csv")
    assert done.returncode == 2 and done.stderr == "error: none.csv: there is no such file\n" and done.stdout == ""


@pytest.mark.parametrize("launcher, processes", [
    (["accelerate.commands.launch", "--cpu", "--num_machines", "1", "--num_processes", "1", "--mixed_precision", "no", "--dynamo_backend", "no"], 1),
    # On a CPU accelerate leaves several processes to MPI; torchrun is what it calls on several GPUs.
    (["torch.distributed.run", "--standalone", "--nproc_per_node", "2"], 2),
])
def test_any_number_of_processes_gives_the_same_curve(files, tmp_path, launcher, processes):
    assert main(files["sft"]) == 0
    done = shell(sys.executable, "-m", *launcher, "-m", "lab", *files["sft"], "--out", tmp_path / "launched")
    assert done.returncode == 0, done.stderr
    assert f"on {processes} process" in done.stdout
    for one, other in zip(log_of(tmp_path / "out"), log_of(tmp_path / "launched"), strict=True):
        assert one["tokens"] == other["tokens"]
        for key in ("loss", "grad_norm"):
            assert one[key] == pytest.approx(other[key], rel=1e-3)
