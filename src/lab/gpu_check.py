"""The labs at size gpu in short, on one GPU that is held to the room of a 16 GB card: `make gpu-check`, or `python -m lab.gpu_check`.

4-bit SFT, DPO, a reward model and a few updates of PPO on the hand-written sets, with the peak of memory of each; SFT and DPO once more
in TRL's trainers on the same batches. At the end stands one JSON record. `--cpu` is a tiny form that shows that the program runs.
"""

import argparse
import gc
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback

from lab import data, memory, models, real, size
from lab.command import exit_code
from lab.dpo import dpo
from lab.ppo import PPOError, ppo
from lab.reward import RewardModel, load_reward, rewards, save_reward, train_reward
from lab.sft import sft
from lab.train import batch_order, length

RECORD = real.RECORD.with_name("gpu-check.json")
ROOM = 15 * 10**9  # bytes: what a 16 GB card has left beside the driver's own
LENGTH = 512  # tokens of the longest conversation that SFT is tried on, in full windows
ROLLOUTS, NEW = 64, 48  # of PPO
# How far the first loss may be from TRL's, relatively: the two sum in another order, in numbers of 24, 11 or 8 binary digits.
TOLERANCE = {"no": 1e-4, "fp16": 2e-3, "bf16": 1e-2}


class CheckFailed(RuntimeError):
    """What did not work, in one sentence."""


# The machine


def share(total, room=ROOM):
    """The share of a card of `total` bytes that is `room` bytes; all of a smaller card.

    >>> share(60 * 10**9)
    0.25
    """
    return min(1.0, room / total)


def precision():
    """What the GPU computes the forward pass in: "bf16" if its hardware has that format, else "fp16", as on a T4."""
    return "fp16" if models.half(torch.device("cuda")) == torch.float16 else "bf16"


def gpu():
    """The GPU's compute capability, its bytes, its driver (None if nvidia-smi is not there) and torch's CUDA; {} without a GPU."""
    if not torch.cuda.is_available():
        return {}
    found, tool = torch.cuda.get_device_properties(0), shutil.which("nvidia-smi")
    ask = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(ask, capture_output=True, text=True).stdout.split("\n")[0].strip() or None if tool else None
    return {"compute capability": f"{found.major}.{found.minor}", "total_bytes": found.total_memory, "driver": driver, "CUDA": torch.version.cuda}


@contextmanager
def measured(stages, name):
    """Put the seconds and the peak of memory of what is inside under stages[name]. Too little memory becomes CheckFailed."""
    gc.collect()
    torch.cuda.empty_cache()
    real.forget_peak()
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CheckFailed(f"{name}: the GPU's memory, held to {ROOM / 1e9:g} GB, is not enough ({str(error).split('. ')[0]})") from error
    stages[name] = {"seconds": round(time.perf_counter() - started, 1), "peak_bytes": real.peak_bytes()}


# Stages: each loads its own models and gives back a log


def start(config, adapter=None, seed=0):
    """(model, tokenizer): the base with a new adapter, or with the one in a folder."""
    if adapter:
        return models.load(adapter, config.bits)
    model, tokenizer = models.load(config.model, config.bits)
    return models.add_lora(model, config.lora_r, config.lora_alpha, seed), tokenizer


def here(stage, config, rows, lr, seed, adapter=None, keep=None, **options):
    """Our training of one epoch; the adapter goes into the folder `keep`, that of a reward model with its head."""
    model, tokenizer = start(config, adapter, seed)
    trained = RewardModel(model) if stage is train_reward else model
    # save_every=1 reads each step's loss, as TRL does below: only then are the seconds those of the GPU, and not of handing it work.
    log = stage(trained, tokenizer, rows, lr=lr, epochs=1, batch_size=config.batch_size, accumulation=config.accumulation,
                precision=config.precision, warmup=0.0, seed=seed, save_every=1, **options)
    if keep:
        (save_reward if stage is train_reward else models.save_adapter)(trained, keep, tokenizer)
    return log


def in_trl(kind, config, rows, lr, seed, adapter=None, **options):
    """TRL's training, kind "SFT" or "DPO", on the same rows in the same batches, cut into the same parts: our log's keys."""
    import trl

    disable_progress_bars()
    model, tokenizer = start(config, adapter, seed)
    given = {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}
    clock, texts = Clock(), [as_text(row, tokenizer) for row in in_order(rows, config, tokenizer, seed)]
    with tempfile.TemporaryDirectory() as folder, models.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = like_ours(getattr(trl, f"{kind}Config"), folder, lr, config.batch_size // config.accumulation, config.precision, seed,
                             gradient_accumulation_steps=config.accumulation, **options)
        run = getattr(trl, f"{kind}Trainer")(model=model, args=settings, train_dataset=Dataset.from_list(texts), processing_class=tokenizer, callbacks=[clock])
        # TRL makes the adapter of a 4-bit model bfloat16. Ours is float32, and fp16's scaled gradients need it to be.
        for name, p in model.named_parameters():
            p.data = given[name].to(p.device) if name in given else p.data
        run.remove_callback(PrinterCallback)
        run.train()
    if {p.dtype for name, p in model.named_parameters() if name in given} != {torch.float32}:
        raise CheckFailed(f"{kind} in TRL: the adapter was not float32 as ours is, so the two runs cannot be compared")
    log = [record for record in run.state.log_history if "loss" in record]
    return [{"loss": one["loss"], "tokens": int(one["num_tokens"]), "seconds": end} for one, end in zip(log, clock.ends, strict=True)]


def like_ours(kind, folder, lr, batch, precision="no", seed=0, **options):
    """TRL's configuration, a `trl.SFTConfig` for example, with what our loop does: its order, schedule, clipping and optimiser."""
    return kind(output_dir=str(folder), per_device_train_batch_size=batch, num_train_epochs=1, learning_rate=lr, lr_scheduler_type="linear",
                warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, train_sampling_strategy="sequential", gradient_checkpointing=False,
                use_cpu=not torch.cuda.is_available(), fp16=precision == "fp16", bf16=precision == "bf16", logging_steps=1, save_strategy="no",
                report_to="none", disable_tqdm=True, seed=seed, **options)


class Clock(TrainerCallback):
    """When each of TRL's steps ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def as_text(row, tokenizer):
    """A row for TRL: the prompt as rendered text, which the response follows, so that nothing is left to a template."""
    sides = {"completion" if key == "response" else key: row[key] for key in ("response", "chosen", "rejected") if key in row}
    return {"prompt": data.render(tokenizer, data.as_messages(row["prompt"]), prompt=True)} | sides


def tokens(row, tokenizer):
    """The tokens of a row, those of the longer side of a pair."""
    return length((data.encode_sft if "response" in row else data.encode_pair)(row, tokenizer, 10**9))


def in_order(rows, config, tokenizer, seed):
    """The rows as our loop takes them: in its batches, and in a batch by length, from which it cuts its parts."""
    sizes = [tokens(row, tokenizer) for row in rows]
    return [rows[i] for batch in batch_order(len(rows), 1, config.batch_size, seed).tolist() for i in sorted(batch, key=sizes.__getitem__)]


def in_ppo(config, prompts, seed, adapter, judge, rollouts):
    """PPO from an adapter against the reward model in the folder `judge`, with policy, reference and reward model in memory."""
    (policy, tokenizer), (reference, _) = start(config, adapter), start(config, adapter)
    learnt = load_reward(judge, config.bits)
    return ppo(policy, reference, tokenizer, prompts, lambda x, y: rewards(learnt, tokenizer, x, y), beta=config.beta, lr=config.ppo_lr,
               updates=config.ppo_updates, rollouts=rollouts, minibatch=config.ppo_rows, precision=config.precision, max_new_tokens=NEW, seed=seed)


# The check


def check(config, seed=0, rollouts=ROLLOUTS):
    """Every stage once: the part of the record that is measured. Raises CheckFailed, or PPOError, at a stage that does not get through."""
    stages, began = {}, time.perf_counter()
    with measured(stages, "load"):
        model, tokenizer = models.load(config.model, config.bits)
    facts = {"weight_bytes": models.weight_bytes(model), "commit": getattr(model.config, "_commit_hash", None)}
    shape, context = memory.Shape.of(model.config), min(LENGTH, model.config.max_position_embeddings)
    del model
    rows, pairs = (fitting(name, tokenizer, context)[:count] for name, count in (("instructions", config.sft_rows), ("preferences", config.dpo_prompts)))
    parts = {"batch": config.batch_size // config.accumulation, "accumulation": config.accumulation}
    facts["predicted_bytes"] = {"SFT, full windows": memory.predict(shape, bits=config.bits, r=config.lora_r, length=context, **parts)["peak"]}
    with tempfile.TemporaryDirectory() as folder:
        tuned, judge = f"{folder}/sft", f"{folder}/reward"
        with measured(stages, "SFT"):
            ours = here(sft, config, rows, config.sft_lr, seed, keep=tuned)
        with measured(stages, "SFT in TRL"):
            theirs = in_trl("SFT", config, rows, config.sft_lr, seed)
        with measured(stages, "SFT, full windows"):
            here(sft, config, fitting("instructions", tokenizer, context)[: 4 * config.sft_rows], config.sft_lr, seed, packing=True, max_length=context)
        with measured(stages, "DPO"):
            ours_dpo = here(dpo, config, pairs, config.dpo_lr, seed, tuned, beta=config.beta)
        with measured(stages, "DPO in TRL"):
            theirs_dpo = in_trl("DPO", config, pairs, config.dpo_lr, seed, tuned, beta=config.beta, precompute_ref_log_probs=True)
        with measured(stages, "reward model"):
            here(train_reward, config, pairs, config.reward_lr, seed, tuned, keep=judge)
        with measured(stages, "PPO"):
            log = in_ppo(config, [row["prompt"] for row in rows], seed, tuned, judge, rollouts)
    against = {"SFT": against_trl(ours, theirs, config.precision), "DPO": against_trl(ours_dpo, theirs_dpo, config.precision)}
    return facts | {"seconds": round(time.perf_counter() - began), "stages": stages, "against TRL": against, "PPO": log,
                    "passed": all(one["same tokens"] and one["first gap"] <= one["tolerance"] for one in against.values())}


def fitting(name, tokenizer, context):
    """The rows of a hand-written set that have no more tokens than the context."""
    with models.quiet():  # the tokenizer warns of a long row
        return [row for row in real.rows(name) if tokens(row, tokenizer) <= context]


def against_trl(ours, theirs, precision):
    """Two logs of the same training side by side. Gaps are relative to TRL's loss; the first step, which warms up, is not in the pace."""
    pace = lambda log: (log[-1]["tokens"] - log[0]["tokens"]) / (log[-1]["seconds"] - log[0]["seconds"])
    gaps = [abs(one["loss"] - other["loss"]) / abs(other["loss"]) for one, other in zip(ours, theirs, strict=True)]
    return {"tokens per second": {"here": pace(ours), "TRL": pace(theirs)}, "losses": {"here": [r["loss"] for r in ours], "TRL": [r["loss"] for r in theirs]},
            "first gap": gaps[0], "largest gap": max(gaps), "tolerance": TOLERANCE[precision], "same tokens": ours[-1]["tokens"] == theirs[-1]["tokens"]}


def chosen(options):
    """(configuration, rollouts, what it started from) of the command; raises ValueError if this machine cannot run it."""
    config = size.SIZES["gpu"]
    if importlib.util.find_spec("trl") is None:
        raise ValueError("the comparison needs TRL: pip install trl")
    if options.cpu:
        if torch.cuda.is_available():
            raise ValueError("there is a GPU here: leave --cpu out")
        if not options.out or Path(options.out).resolve() == RECORD.resolve():
            raise ValueError(f"--cpu needs --out and a file other than {RECORD.name}, which is the record of a GPU")
        tiny = dict(precision="no", batch_size=4, accumulation=2, sft_rows=12, dpo_prompts=12)
        return replace(config, model=models.POCKET, ppo_updates=2, **tiny), 8, "The pocket model on a CPU: this shows that the program runs, and nothing else."
    if not torch.cuda.is_available():
        raise ValueError("there is no GPU here: run this where there is one, or look at its tiny form with --cpu --out FILE")
    torch.cuda.set_per_process_memory_fraction(share(torch.cuda.get_device_properties(0).total_memory))  # before anything is allocated
    config = replace(config, precision=precision(), ppo_updates=3, sft_rows=8 * config.batch_size, dpo_prompts=8 * config.batch_size)
    return (replace(config, model=options.model), ROLLOUTS, f"{options.model}, as asked for.") if options.model else reachable(config)


def reachable(config):
    """The configuration if its model can be loaded, else one with the model that a package ships; and it says which."""
    try:
        models.load(config.model, config.bits)
        return config, ROLLOUTS, f"{config.model} from the Hub."
    except models.ModelError as error:
        return replace(config, model=models.SMOLLM2), ROLLOUTS, f"The shipped {models.SMOLLM2!r}, a far smaller model, because {error}."


def main(arguments=None):
    """The command line: 0 if all went well, 1 if the check failed, 2 if it could not be started."""
    parser = argparse.ArgumentParser(prog="python -m lab.gpu_check", description="The labs at size gpu in short, in 15 GB, beside TRL; with a record.")
    parser.add_argument("--out", help="file for the record (default runs/gpu-check.json)")
    parser.add_argument("--model", help="a model for lab.models.load (default: that of size gpu, or the shipped one if the Hub does not give it)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="the tiny form, without a GPU")
    options = parser.parse_args(arguments)
    return exit_code(lambda: write_record(options))


def write_record(options):
    """What the command line asks for: the record in a file; 1 if the check failed."""
    config, rollouts, source = chosen(options)
    found = {"started from": source, "seed": options.seed, "date": date.today().isoformat(), "precision": config.precision,
             "cap_bytes": None if options.cpu else ROOM, "machine": real.machine() | gpu(), "settings": asdict(config),
             "versions": {"python": platform.python_version()} | {package: version(package) for package in (*real.PACKAGES, "trl")}}
    try:
        found |= check(config, options.seed, rollouts)
    except (CheckFailed, PPOError, FloatingPointError, torch.OutOfMemoryError) as error:
        print(f"failed: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    out = Path(options.out or "runs/gpu-check.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{source} The record is in {out}; {'all is well' if found['passed'] else 'a first loss or the tokens differ from those in TRL'}.")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
