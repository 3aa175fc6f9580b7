"""The command line: python -m lab sft|reward|dpo|ppo|eval|card|export|pretrain. On several devices: accelerate launch -m lab sft ...

Bad input ends the command before any training, with one sentence and exit code 2.
"""

import argparse
import json
import math
import sys
import zlib
from functools import partial
from pathlib import Path

from lab import size
from lab.command import exit_code


def parser():
    """The command line: one command for each stage."""
    config = size.current()
    top = argparse.ArgumentParser(prog="python -m lab", description=f"One stage of post-training, at size {config.name!r} (LAB_SIZE).")
    commands = top.add_subparsers(dest="command", required=True, metavar="{sft,reward,dpo,ppo,eval,card,export,pretrain}")
    command = commands.add_parser("sft", help="instruction tuning")
    add_training(command, config.sft_lr, config.sft_epochs, config)
    command.add_argument("--packing", action="store_true", help="fill windows with several conversations each")
    command = commands.add_parser("reward", help="a reward model from preferences")
    add_training(command, config.reward_lr, config.reward_epochs, config)
    command = commands.add_parser("ppo", help="RLHF with a reward model, on one device")
    add_ppo(command, config)
    command = commands.add_parser("dpo", help="preference tuning")
    add_training(command, config.dpo_lr, config.dpo_epochs, config)
    command.add_argument("--beta", type=positive, default=config.beta, help="weight of the KL term (default %(default)s)")
    command = commands.add_parser("eval", help="the gold judge on held-out tasks of the pocket world, as a JSON report")
    add_common(command, config)
    command.add_argument("--tasks", type=whole, default=config.tasks, help="how many (default %(default)s)")
    command.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default %(default)s)")
    command = commands.add_parser("card", help="the whole pipeline in one run: a page of what each stage brought, and the best model as a folder")
    command.add_argument("--out", required=True, help="folder for index.html, record.json and the best model; one for each size")
    command = commands.add_parser("export", help="one standard folder for transformers, `transformers serve` or vLLM, the adapter merged in")
    command.add_argument("--model", required=True, help="what `sft` or `dpo` has written, or any other model")
    command.add_argument("--out", required=True, help="a new folder")
    command.add_argument("--bits", type=int, choices=(32, 16, 4), default=config.bits, help="of the base that the adapter was trained on (default %(default)s)")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the written weights (default %(default)s)")
    command = commands.add_parser("pretrain", help="make the pocket base model from a seed")
    command.add_argument("--out", required=True, help="folder for the weights; an interrupted run goes on")
    command.add_argument("--seed", type=int, default=0)
    return top


def add_common(command, config):
    """What every command takes."""
    command.add_argument("--model", default=config.model, help="pocket, smollm2, a Hub id, a folder or an adapter folder (default %(default)s)")
    command.add_argument("--out", required=True, help="folder for the adapter, or file for the report")
    command.add_argument("--bits", type=int, choices=(32, 16, 4), default=config.bits, help="of the weights (default %(default)s)")
    command.add_argument("--seed", type=int, default=0)


def add_training(command, lr, epochs, config):
    """What every training takes."""
    add_common(command, config)
    add_data(command)
    command.add_argument("--lr", type=positive, default=lr, help="peak learning rate (default %(default)s)")
    command.add_argument("--epochs", type=positive, default=epochs, help="(default %(default)s)")
    command.add_argument("--batch-size", type=whole, default=config.batch_size, help="examples per step, over all devices (default %(default)s)")
    command.add_argument("--accumulation", type=whole, default=config.accumulation, help="parts that a batch is computed in (default %(default)s)")
    add_adapter(command, config)
    command.add_argument("--max-length", type=whole, help="longest conversation in tokens (default: the model's context)")
    command.add_argument("--drop", action="store_true", help="leave out rows that cannot be used, with a count, instead of stopping")


def add_ppo(command, config):
    """What PPO takes."""
    add_common(command, config)
    add_data(command)
    command.add_argument("--reward", required=True, help="folder of a reward model, as `reward` writes it")
    command.add_argument("--lr", type=positive, default=config.ppo_lr, help="(default %(default)s)")
    command.add_argument("--beta", type=positive, default=config.beta, help="price of a nat of KL (default %(default)s)")
    command.add_argument("--updates", type=whole, default=config.ppo_updates, help="each of --rollouts responses (default %(default)s)")
    command.add_argument("--rollouts", type=whole, default=64, help="(default %(default)s)")
    command.add_argument("--max-new-tokens", type=whole, default=48, help="longest response (default %(default)s)")
    add_adapter(command, config)


def add_data(command):
    """The rows to train on."""
    command.add_argument("--data", required=True, help=".jsonl, .json, .csv or .parquet file, or a Hub data set, owner/name or owner/name:split")


def add_adapter(command, config):
    """What the adapter is trained in, and the shape of a new one; one that is trained further keeps its own."""
    command.add_argument("--precision", choices=("no", "half", "bf16", "fp16"), default=config.precision, help="(default %(default)s)")
    command.add_argument("--lora-r", type=whole, default=config.lora_r, help="rank of a new adapter (default %(default)s)")
    command.add_argument("--lora-alpha", type=positive, default=config.lora_alpha, help="(default %(default)s)")


def positive(text):
    """An argument that must be a number above zero."""
    value = float(text)
    if not value > 0 or math.isinf(value):
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def whole(text):
    """An argument that must be a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above zero")
    return value


def run_sft(args):
    """`lab sft`."""
    from lab.data import SFT, read
    from lab.sft import sft

    read(args.data, SFT)  # before the model is loaded: the quickest way to hear of a bad row
    train_adapter(args, sft, packing=args.packing)


def run_dpo(args):
    """`lab dpo`."""
    from lab.data import PAIRS, read
    from lab.dpo import dpo

    read(args.data, PAIRS)
    train_adapter(args, dpo, beta=args.beta)


def run_reward(args):
    """`lab reward`."""
    from lab.data import PAIRS, read
    from lab.reward import RewardModel, save_reward, train_reward

    read(args.data, PAIRS)
    train_adapter(args, train_reward, RewardModel, save_reward)


def train_adapter(args, stage, wrap=None, save=None, **options):
    """Train a new adapter, or go on with the one that --model names, and save it in --out in PEFT's format.
    wrap, save: for a stage that trains more than the model it is given."""
    from lab.models import save_adapter
    from lab.train import write_log

    process, model, tokenizer = start(args)
    model = wrap(model) if wrap else model
    log = stage(model, tokenizer, args.data, lr=args.lr, epochs=args.epochs, batch_size=args.batch_size, seed=args.seed,
                accumulation=args.accumulation, precision=args.precision, max_length=args.max_length, drop=args.drop,
                out=args.out, **options)
    if process.is_main_process:
        (save or save_adapter)(model, args.out, tokenizer)
        write_log(args.out, log)
        many = "es" * (process.num_processes > 1)
        print(f"{args.command}: {len(log)} steps on {process.num_processes} process{many}, loss {log[0]['loss']:.3f} -> "
              f"{log[-1]['loss']:.3f}; the adapter is in {args.out}")


def start(args):
    """(process, model with an adapter, tokenizer), after a look at --out."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env
    from peft import PeftModel

    from lab.models import add_lora, load

    writable(args.out)
    process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # first, so that CPU processes find each other too
    model, tokenizer = load(args.model, args.bits)
    return process, model if isinstance(model, PeftModel) else add_lora(model, args.lora_r, args.lora_alpha, args.seed), tokenizer


def run_ppo(args):
    """`lab ppo`: the reference is the model as --model gives it."""
    from lab.data import PROMPTS, read
    from lab.models import load
    from lab.ppo import ppo
    from lab.reward import load_reward, rewards
    from lab.train import write_log

    rows, learnt = read(args.data, PROMPTS), load_reward(args.reward, args.bits)
    same_inputs(args)
    process, policy, tokenizer = start(args)
    if process.num_processes > 1:
        raise ValueError("ppo runs on one device: start it without `accelerate launch` (chapter 11 says what more would take)")
    log = ppo(policy, load(args.model, args.bits)[0], tokenizer, [row["prompt"] for row in rows], lambda x, y: rewards(learnt, tokenizer, x, y),
              beta=args.beta, lr=args.lr, updates=args.updates, rollouts=args.rollouts, minibatch=max(1, min(size.current().ppo_rows, args.rollouts // 2)),
              precision=args.precision, max_new_tokens=args.max_new_tokens, seed=args.seed, out=args.out)
    write_log(args.out, log)
    print(f"ppo: {len(log)} updates, reward {log[0]['score']:.3f} -> {log[-1]['score']:.3f}, {log[-1]['kl']:.2f} nats from the start; the adapter is in {args.out}")


def writable(folder):
    """A folder that can be written to, found out before anything is trained."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"--out {folder}: this is a file, and a folder is needed")
    Path(folder).mkdir(parents=True, exist_ok=True)


def run_eval(args):
    """`lab eval`: answers to held-out tasks, judged."""
    from lab.evaluate import summarise
    from lab.judge import judge
    from lab.models import load
    from lab.sample import sample
    from lab.world import held_out

    if Path(args.out).is_dir():
        raise ValueError(f"--out {args.out}: this is a folder, and a file for the report is needed")
    model, tokenizer = load(args.model, args.bits)
    tasks = held_out(args.tasks, args.seed)
    responses = sample(model, tokenizer, [task.prompt for task in tasks], temperature=args.temperature, seed=args.seed)
    rows = [{"kind": task.kind, "prompt": task.prompt, "response": response, "score": judge(task, response).score}
            for task, response in zip(tasks, responses)]
    report = {"model": args.model, "bits": args.bits, "seed": args.seed, "temperature": args.temperature,
              "summary": summarise(tasks, responses), "responses": rows}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(report, indent=1))
    print("  ".join(f"{key} {value:.3f}" for key, value in report["summary"].items()))


def run_export(args):
    """`lab export`."""
    from lab.export import export

    export(args.model, args.out, args.bits, args.dtype)
    print(f"{args.out} holds the model, its tokenizer and its template: AutoModelForCausalLM.from_pretrained({args.out!r})")


def same_inputs(args):
    """Raise ValueError where --out holds a run from another start or reward model, which the state of the run itself does not know."""
    writable(args.out)
    inputs, path = {"model": args.model, "bits": args.bits, "reward": zlib.crc32((Path(args.reward) / "head.safetensors").read_bytes())}, Path(args.out) / "inputs.json"
    if path.exists() and json.loads(path.read_text()) != inputs:
        raise ValueError(f"--out {args.out} holds a run from another model or with another reward model: choose another folder, or delete this one")
    path.write_text(json.dumps(inputs))


def run_card(args):
    """`lab card`: an interrupted run goes on with the same command."""
    from lab import card, real, recipe
    from lab.export import export

    writable(args.out)
    config, out = size.current(), Path(args.out)
    if config.name == "pocket":
        found = card.pocket(config)
        folder = {"SFT": recipe.sft_folder, "SFT+DPO": recipe.dpo_folder, "SFT+PPO": partial(recipe.ppo_folder, beta=config.beta)}[found["best"]](config, 0)
    else:
        plan = real.plan_of(config)
        found = real.record(plan)
        folder = real.trained_folder(plan, found["best"])
    name = found["best"].replace("+", "-")
    (out / "record.json").write_text(json.dumps(found, indent=1))
    (out / "index.html").write_text(card.page(found), "utf8")
    if not (out / name).exists():
        export(folder, out / name, config.bits)
    print(f"{card.table(found)}\n\nThe page is {out / 'index.html'}; the best model, {found['best']}, is in {out / name}")


def run_pretrain(args):
    """`lab pretrain`."""
    from lab.pretrain import pretrain

    writable(args.out)
    pretrain(args.out, seed=args.seed)


def main(arguments=None):
    """Run one command; a wrong input ends it with one sentence."""

    def run():
        """Reading the arguments too: LAB_SIZE may be wrong."""
        args = parser().parse_args(arguments)
        globals()[f"run_{args.command}"](args)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
