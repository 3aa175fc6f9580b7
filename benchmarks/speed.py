"""Speed of the training loop and of the sampler, against TRL's trainers and `model.generate`.

    python benchmarks/speed.py            # about five minutes on two free cores; writes benchmarks/speed.md

Both sides get the same model, the same rows, the same batch size and the same number of steps in one process, in turns.
What is compared is the seconds of a step after the first two, and tokens per second up to each row's end of turn.
"""

import copy
import platform
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from lab import models, world
from lab.data import encode_sft
from lab.dpo import dpo
from lab.sample import sample
from lab.sft import sft

SKIP = 2  # the first steps warm the caches up
CASES = {  # model -> batch size, steps of each turn, prompts to sample, new tokens at most
    models.POCKET: dict(batch=32, steps=12, prompts=64, new=48),
    models.SMOLLM2: dict(batch=8, steps=4, prompts=16, new=32),
}
TURNS = 2


def matrix_rate(n=2048):
    """FLOP per second of a float32 matrix product, the best of ten."""
    a, b, best = torch.randn(n, n), torch.randn(n, n), 0.0
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def rows_for(count):
    """The same rows in our form and in TRL's: (instructions, pairs)."""
    tasks = world.training_tasks(count, seed=0)
    rng = random.Random(0)
    sft_rows = [{"prompt": t.prompt, "response": t.sentence} for t in tasks]
    pairs = [{"prompt": t.prompt, "chosen": t.sentence, "rejected": world.manner(t, "wordy", rng)} for t in tasks]
    return sft_rows, pairs


def turn(role, text):
    return [{"role": role, "content": text}]


class Clock(TrainerCallback):
    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())


def per_step(times):
    return (times[-1] - times[SKIP - 1]) / (len(times) - SKIP)


def ours(stage, model, tokenizer, rows, case, **extra):
    log = stage(model, tokenizer, rows, lr=1e-4, epochs=1, batch_size=case["batch"], **extra)
    return per_step([record["seconds"] for record in log])


def theirs(trainer, config, model, tokenizer, rows, case, **extra):
    clock, folder = Clock(), tempfile.mkdtemp()
    arguments = config(
        output_dir=folder, per_device_train_batch_size=case["batch"], max_steps=case["steps"], learning_rate=1e-4,
        use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True,
        logging_strategy="no", **extra,
    )  # fmt: skip
    trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]).train()
    return per_step(clock.times)


def training(name, case):
    """{(stage, whose): mean seconds per step}."""
    sft_rows, pairs = rows_for(case["batch"] * case["steps"])
    trl_sft = [{"prompt": turn("user", r["prompt"]), "completion": turn("assistant", r["response"])} for r in sft_rows]
    trl_dpo = [{"prompt": turn("user", r["prompt"]), "chosen": turn("assistant", r["chosen"]),
                "rejected": turn("assistant", r["rejected"])} for r in pairs]  # fmt: skip
    base, tokenizer = models.load(name)
    fresh = lambda: models.add_lora(copy.deepcopy(base))
    seconds = {}
    for _ in range(TURNS):
        for key, run in {
            ("SFT", "ours"): lambda: ours(sft, fresh(), tokenizer, sft_rows, case),
            ("SFT", "TRL"): lambda: theirs(SFTTrainer, SFTConfig, fresh(), tokenizer, trl_sft, case),
            ("DPO", "ours"): lambda: ours(dpo, fresh(), tokenizer, pairs, case, beta=0.1),
            ("DPO", "TRL"): lambda: theirs(DPOTrainer, DPOConfig, fresh(), tokenizer, trl_dpo, case, precompute_ref_log_probs=True),
        }.items():
            seconds.setdefault(key, []).append(run())
    return {key: statistics.fmean(values) for key, values in seconds.items()}


def sampling(name, case):
    """Tokens per second of our sampler and of `generate`, on a model that ends its turns."""
    model, tokenizer = models.load(name)
    if name == models.POCKET:  # the base would seldom stop
        model = models.add_lora(model)
        sft(model, tokenizer, world.instructions(1000, seed=0), lr=5e-3, epochs=2)
        model = models.merge(model)
    prompts = [task.prompt for task in world.held_out(case["prompts"], seed=0)]
    chats = [tokenizer.apply_chat_template(turn("user", p), add_generation_prompt=True, tokenize=False) for p in prompts]
    tokenizer.padding_side = "left"
    batch = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
    stop = tokenizer.eos_token_id
    rates = {"ours": [], "generate": []}
    for seed in range(TURNS + 1):
        start = time.perf_counter()
        texts = sample(model, tokenizer, prompts, max_new_tokens=case["new"], seed=seed)
        count = sum(min(case["new"], len(tokenizer(t, add_special_tokens=False)["input_ids"]) + 1) for t in texts)
        rates["ours"].append(count / (time.perf_counter() - start))
        torch.manual_seed(seed)
        start = time.perf_counter()
        out = model.generate(**batch, max_new_tokens=case["new"], do_sample=True, temperature=1.0, top_k=0, eos_token_id=stop,
                             pad_token_id=tokenizer.pad_token_id)[:, batch["input_ids"].shape[1]:]  # fmt: skip
        count = sum((row.tolist() + [stop]).index(stop) + (stop in row.tolist()) for row in out)
        rates["generate"].append(count / (time.perf_counter() - start))
    return {key: statistics.fmean(values[1:]) for key, values in rates.items()}


def flop_per_step(name, case):
    """The arithmetic of one LoRA step of SFT: 2 N forward and 2 N backward for each token that is not padding."""
    model, tokenizer = models.load(name)
    sft_rows, _ = rows_for(case["batch"] * case["steps"])
    tokens = sum(len(encode_sft(row, tokenizer, model.config.max_position_embeddings)["input_ids"]) for row in sft_rows)
    return 4 * model.num_parameters() * tokens / case["steps"]


def table(name, case, rate):
    steps, rates = training(name, case), sampling(name, case)
    share = flop_per_step(name, case) / steps["SFT", "ours"] / rate
    lines = [f"| {name} | {stage}, seconds a step | {steps[stage, 'ours']:.3f} | TRL {steps[stage, 'TRL']:.3f} | "
             f"{steps[stage, 'TRL'] / steps[stage, 'ours']:.2f} |" for stage in ("SFT", "DPO")]
    lines.append(f"| {name} | sampling, tokens a second | {rates['ours']:,.0f} | generate {rates['generate']:,.0f} | "
                 f"{rates['ours'] / rates['generate']:.2f} |")
    return lines, f"{name}: an SFT step does {share:.0%} of what the matrix rate allows, pads and overhead not counted as work."


def main():
    rate = matrix_rate()
    results = [table(name, case, rate) for name, case in CASES.items()]
    packages = ("torch", "transformers", "peft", "trl", "accelerate")
    text = [
        "# Speed", "", "Made by `python benchmarks/speed.py`. LoRA of rank 8 on 32-bit weights; mean of "
        f"{TURNS} turns; a ratio above 1 means that this package is faster.", "",
        "| model | what | this package | the other | ratio |", "|---|---|---|---|---|",
        *[line for lines, _ in results for line in lines], "",
        f"Matrix rate of this machine, float32: {rate / 1e9:.0f} GFLOP/s with {torch.get_num_threads()} threads. "
        + " ".join(note for _, note in results), "",
        f"{platform.machine()}, Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages) + ".",
    ]  # fmt: skip
    Path(__file__).with_suffix(".md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
