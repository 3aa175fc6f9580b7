"""One training loop for every stage: pretraining, SFT, DPO. An objective and a collator make it a trainer.

The loop stands on `accelerate`, so that `accelerate launch` takes it to several devices or to mixed precision.
`batch_size` is what one optimiser step sees in all: accumulation and devices only share it out, so the loss
curve does not depend on either.
"""

import json
import math
import os
import time
import zlib
from contextlib import nullcontext
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors import safe_open
from tqdm import tqdm

from lab import models


def train(model, examples, collate, loss_fn, *, lr, epochs=1.0, batch_size=8, seed=0, accumulation=1, warmup=0.1, decay=1.0,
          weight_decay=0.0, betas=(0.9, 0.999), max_grad_norm=1.0, precision="no", out=None, save_every=50):
    """Minimise `loss_fn` over `examples` with AdamW, and return the log: one dict per optimiser step.

    examples   anything with len() and [i].
    collate    list of examples -> dict of tensors, and optionally two numbers: "units", how many things the
               loss is a mean over (default: rows), and "tokens", how many tokens are read (default: all).
    loss_fn    (model, batch) -> dict of scalar tensors; "loss" is minimised, the rest is logged.
    lr         the peak: reached by a linear rise over the share `warmup` of the steps, left by a linear fall to 0 over the last
               share `decay`.
    precision  "no", "bf16" or "fp16": what the forward pass computes in. "half" is bf16, or fp16 on a GPU without it (a T4).
    out        a folder: the run is saved there every `save_every` steps. Called again with the same `out`, an
               interrupted run goes on exactly where it was, and a finished run is loaded instead of repeated.

    Each record has step, loss, lr, tokens (so far), seconds (so far), grad_norm and what `loss_fn` adds.
    """
    accelerator = new_accelerator(precision)
    torch.manual_seed(seed)
    batches = batch_order(len(examples), epochs, batch_size, seed)  # (S, B) indices
    check_share(batches.shape[1], accelerator.num_processes * accumulation)
    settings = dict(lr=lr, warmup=warmup, decay=decay, weight_decay=weight_decay, betas=list(betas), max_grad_norm=max_grad_norm,
                    precision=precision, order=checksum(batches), data=data_checksum(examples, collate))
    wrapped = accelerator.prepare_model(model)
    optimizer = accelerator.prepare_optimizer(adamw(model, lr, betas, weight_decay))
    log = restore(out, model, optimizer, settings) if out else []
    if len(log) == len(batches):
        print(f"{out} holds this run, finished: its weights are loaded, nothing is trained again.")
    model.train()
    clock = time.perf_counter() - (log[-1]["seconds"] if log else 0.0)
    for step in progress(log, len(batches), accelerator):
        set_rate(optimizer, rate := learning_rate(step, len(batches), lr, warmup, decay))
        micro = share(batches[step], examples, collate, accumulation, accelerator)
        record = {"step": step + 1, "lr": rate} | update(accelerator, wrapped, optimizer, micro, loss_fn, max_grad_norm)
        record["tokens"] += log[-1]["tokens"] if log else 0
        log.append(record | {"seconds": time.perf_counter() - clock})
        if (step + 1) % save_every == 0 or step + 1 == len(batches):
            floats(log)
            if out and accelerator.is_main_process:
                save(out, model, optimizer, settings, log)
    release(accelerator, wrapped, model)
    return log


def update(accelerator, model, optimizer, micro, loss_fn, max_grad_norm):
    """One optimiser step over its micro-batches: a dict of what was measured, tensors not yet read.

    Each micro-batch is weighted by its share of the units, so that the step's loss is the mean over all of
    them: averaging means of unequal batches, as is often done, gives short answers more weight.
    """
    units = torch.tensor(sum(batch["units"] for batch in micro), dtype=torch.float32, device=accelerator.device)
    tokens = torch.tensor(sum(batch["tokens"] for batch in micro), device=accelerator.device)
    if accelerator.num_processes > 1:
        units, tokens = accelerator.reduce(units), accelerator.reduce(tokens)
    total = {}
    for i, batch in enumerate(micro):
        weight = batch.pop("units") / units
        batch.pop("tokens")
        # Several devices average their gradients at the last backward pass only; the average is undone here.
        with nullcontext() if i == len(micro) - 1 else accelerator.no_sync(model):
            measured = loss_fn(model, batch)
            accelerator.backward(measured["loss"] * weight * accelerator.num_processes)
        for key, value in measured.items():
            total[key] = total.get(key, 0.0) + value.detach() * weight
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total)
    total["grad_norm"] = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return total | {"tokens": tokens}


def batch_order(n, epochs, batch_size, seed):
    """The seeded order of a run: (S, B) indices, each epoch a new permutation of the n examples.

    Epochs follow each other without a seam and only whole batches are kept, so `epochs` may be a fraction.
    """
    if n == 0:
        raise ValueError("there is nothing to train on: the list of examples is empty")
    size = min(batch_size, n)
    generator = torch.Generator().manual_seed(seed)
    stream = torch.cat([torch.randperm(n, generator=generator) for _ in range(math.ceil(epochs))])
    steps = max(1, int(n * epochs) // size)
    return stream[: steps * size].view(steps, size)


def check_share(batch_size, parts):
    if batch_size < parts:
        raise ValueError(f"a batch of {batch_size} cannot be shared among {parts} micro-batches (devices x "
                         "accumulation): raise batch_size, lower accumulation, or give more examples")


def share(indices, examples, collate, accumulation, accelerator):
    """The collated micro-batches that this device computes of one batch, on the device."""
    mine = [examples[i] for i in indices[accelerator.process_index :: accelerator.num_processes].tolist()]
    worth = 128 if accelerator.device.type == "cpu" else math.inf
    batches = [collate(part) for part in parts(sorted(mine, key=length), accumulation, worth)]
    for batch in batches:
        batch.setdefault("units", len(batch["input_ids"]))
        batch.setdefault("tokens", batch["input_ids"].numel())
    return [{key: value.to(accelerator.device) if torch.is_tensor(value) else value for key, value in batch.items()}
            for batch in batches]


def parts(rows, count, worth):
    """Rows sorted by length, cut into at least `count` parts; halved on while that spares `worth` pad tokens.

    A step over several parts is the same step. On a CPU, where each pad costs as much as a token, this makes
    it a good deal faster; one more pass over a small model costs about as much there as 128 tokens do.
    """
    if count > 1:
        cuts = [len(rows) * k // count for k in range(count + 1)]
        return [part for a, b in zip(cuts, cuts[1:]) for part in parts(rows[a:b], 1, worth)]
    half = len(rows) // 2
    if half == 0 or half * (length(rows[-1]) - length(rows[half - 1])) < worth:
        return [rows]
    return parts(rows[:half], 1, worth) + parts(rows[half:], 1, worth)


def length(example):
    """Tokens of an example: a row of ids, {"input_ids": ...}, or a pair, whose longer side counts."""
    if not isinstance(example, dict):
        return len(example)
    sides = [example] if "input_ids" in example else [example["chosen"], example["rejected"]]
    return max(len(side["input_ids"]) for side in sides)


def progress(log, steps, accelerator):
    """The steps still to do, with a bar on stderr that shows the last loss (silent with TQDM_DISABLE=1)."""
    with tqdm(total=steps, initial=len(log), disable=None if accelerator.is_main_process else True) as bar:
        for step in range(len(log), steps):
            yield step
            bar.update()
            if step % 10 == 0 and not bar.disable:
                bar.set_postfix(loss=f"{float(log[-1]['loss']):.3f}")


def set_rate(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(step, steps, peak, warmup, decay=1.0):
    """A linear rise over the first `warmup` share of the steps, the peak, a linear fall over the last `decay` share; never 0
    at a step taken. A decay of 1 falls from the end of the rise on; a short one makes the warm-up, stable, decay schedule."""
    rise = int(warmup * steps)
    if step < rise:
        return peak * (step + 1) / (rise + 1)
    fall = max(rise, steps - round(decay * steps))
    return peak if step < fall else peak * (steps - step) / (steps - fall)


def trainable(model):
    """{name: parameter} of those that are trained; ValueError if there are none."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("the model has no trainable parameter: attach an adapter with lab.models.add_lora first")
    return named


def adamw(model, lr, betas, weight_decay):
    """AdamW in one fused kernel; matrices decay, gains and biases do not."""
    parameters = trainable(model).values()
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=tuple(betas), fused=True)


def new_accelerator(precision):
    """The Accelerator of one training, in its precision. ValueError where a launcher wants to cut the weights into parts."""
    if precision == "half":
        precision = "fp16" if models.half(PartialState().device) == torch.float16 else "bf16"
    # accelerate keeps one precision per process; a notebook that compares precisions needs a fresh state.
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(f"{accelerator.distributed_type.value} cuts weights into parts, and this loop keeps them whole on each device: "
                         "launch it with configs/data-parallel.yaml, or use TRL's trainers (chapter 11)")
    return accelerator


def release(accelerator, wrapped, model):
    """Undo what accelerate did to the model, so that the next stage gets the same plain module back."""
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    model._is_accelerate_prepared = False
    accelerator.free_memory()


def floats(log):
    """Read the tensors of a log, in place: done now and then, because each read waits for the device."""
    for record in log:
        record.update({key: value.item() for key, value in record.items() if torch.is_tensor(value)})
        if not math.isfinite(record["loss"]):
            raise FloatingPointError(f"the loss is {record['loss']} at step {record['step']}: lower the learning rate, "
                                     "or check that every batch has supervised tokens")


def checksum(ids):
    return zlib.crc32(ids.cpu().contiguous().numpy().tobytes())


def data_checksum(examples, collate):
    """A checksum of up to 64 examples, spread evenly: enough to notice that `out` belongs to other data."""
    rows = [examples[i] for i in range(0, len(examples), math.ceil(len(examples) / 64))]
    return checksum(collate(rows)["input_ids"])


# A checkpoint is one safetensors file: the trainable weights, AdamW's state for each and the random state, with the
# log, the settings and (for fp16) the scale of the loss in its header. accelerate's save_state would also write the frozen base, and it pickles.
STATE = "training.safetensors"


def save(out, model, optimizer, settings, log):
    """Write the state of a run to the folder `out`."""
    tensors = {"rng": torch.get_rng_state()}
    for name, p in trainable(model).items():
        tensors[f"weight/{name}"] = p.detach()
        tensors |= {f"{key}/{name}": value for key, value in optimizer.state[p].items()}
    Path(out).mkdir(parents=True, exist_ok=True)
    partial = Path(out) / "training.partial"
    header = {"settings": json.dumps(settings), "log": json.dumps(log)}
    if getattr(optimizer, "scaler", None):
        header["scaler"] = json.dumps(optimizer.scaler.state_dict())
    safetensors.torch.save_file({key: value.contiguous() for key, value in tensors.items()}, partial, header)
    os.replace(partial, Path(out) / STATE)  # one step: a killed run leaves the last one whole


def restore(out, model, optimizer, settings):
    """Put the saved state back into model and optimiser; the log so far, or [] if `out` holds no run."""
    path = Path(out) / STATE
    if not path.exists():
        return []
    with safe_open(path, "pt") as file:
        header = file.metadata()
    check_same_run(out, json.loads(header["settings"]), settings)
    tensors = safetensors.torch.load_file(path)
    log = json.loads(header["log"])
    torch.set_rng_state(tensors["rng"])
    if "scaler" in header:
        optimizer.scaler.load_state_dict(json.loads(header["scaler"]))
    for name, p in trainable(model).items():
        p.data.copy_(tensors[f"weight/{name}"])
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors]
        optimizer.state[p] = {key: tensors[f"{key}/{name}"].to(p.device) for key in keys}
    return log


def check_same_run(out, saved, wanted):
    """Raise ValueError, naming the first setting that differs, if `out` holds another run."""
    for key, value in wanted.items():
        if saved.get(key) != value:
            what = {"order": "number of examples, epochs, batch size or seed", "data": "training data"}.get(key, key)
            raise ValueError(f"out={str(out)!r} holds a run with another {what} ({saved.get(key)}, now {value}): "
                             "choose another folder, or delete this one")


def write_log(folder, log):
    """Keep a training's log beside what it made."""
    (Path(folder) / "log.json").write_text(json.dumps(log))


def read_log(folder):
    """One dict for each step or update, as the loops return it. `seconds` are those of the machine that trained."""
    return json.loads((Path(folder) / "log.json").read_text())
