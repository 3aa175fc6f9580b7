"""Every call of TRL, PEFT, transformers, accelerate, datasets and bitsandbytes that the book prints fits the installed versions.

And the configurations in configs/ are what accelerate itself makes of them.
"""

import doctest
from pathlib import Path

import pytest
import yaml
from accelerate.commands import launch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from tools import drift

ROOT = Path(__file__).parent.parent
PAGES = drift.pages(ROOT)
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_fit_the_installed_libraries(path):
    assert drift.check(path, ROOT).problems == []


def test_the_finder_finds():
    """A finder that finds nothing would pass, so what it must find is named."""
    found = {path.stem: drift.check(path, ROOT).checked for path in PAGES if path.parent.name == "chapters"}
    assert {"SFTConfig", "SFTTrainer", "SFTTrainer.compute_loss", "Dataset.from_list"} <= set(found["02-instruction-tuning"])
    assert {"LoraConfig", "get_peft_model"} <= set(found["03-lora"])
    assert {"RLOOConfig", "RLOOTrainer", "LoraConfig"} <= set(found["05-rlhf"])
    assert {"DPOConfig", "DPOTrainer", "DPOTrainer.compute_loss"} <= set(found["06-dpo"])
    assert {"RewardConfig", "RewardTrainer", "accelerate launch", "trl sft"} <= set(found["11-real-model"])


GOOD = """
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer
import bitsandbytes.functional as bnb
model = AutoModelForCausalLM.from_pretrained("folder", use_safetensors=True, trust_remote_code=False, dtype="auto")
shared = dict(report_to="none", max_steps=3)
settings = SFTConfig(output_dir="x", **shared, assistant_only_loss=True)
trainer = SFTTrainer(model=model, args=settings, train_dataset=Dataset.from_list([]), peft_config=LoraConfig(r=8))
batch = trainer.data_collator([])
trainer.compute_loss(model, batch)
"""


def test_good_code_passes():
    found = drift.check_text(f"```python{GOOD}```")
    assert found.problems == [] and len(found.checked) == 6


@pytest.mark.parametrize("right, wrong, complaint", [
    ("assistant_only_loss", "assistant_only_lose", "SFTConfig: got an unexpected keyword argument 'assistant_only_lose'"),
    ("max_steps=3", "max_step=3", "SFTConfig: got an unexpected keyword argument 'max_step'"),
    ("LoraConfig(r=8)", "LoraConfig(rank=8)", "LoraConfig: got an unexpected keyword argument 'rank'"),
    ("use_safetensors", "use_safetensor", "nothing takes the argument 'use_safetensor'"),
    ("SFTTrainer(model=model, ", "SFTTrainer(", "SFTTrainer: missing a required argument: 'model'"),
    ("compute_loss(model, batch)", "compute_losses(model, batch)", "SFTTrainer has no compute_losses"),
    ("compute_loss(model, batch)", "compute_loss(model, batch, mean=True)", "SFTTrainer.compute_loss: got an unexpected keyword argument 'mean'"),
    ("Dataset.from_list", "Dataset.from_rows", "Dataset has no from_rows"),
    ("import LoraConfig", "import LoraConfiguration", "peft has no LoraConfiguration"),
    ("import bitsandbytes.functional as bnb", "import bitsandbytes.functions as bnb", "there is no module bitsandbytes.functions"),
])
def test_a_made_up_name_or_argument_is_noticed(right, wrong, complaint):
    assert right in GOOD
    problems = drift.check_text(f"```python{GOOD.replace(right, wrong)}```").problems
    assert any(complaint in problem for problem in problems), problems


HANDED_ON = """
from trl import DPOConfig, SFTConfig
def settings(kind, lr, **options):
    return kind(output_dir="x", learning_rate=lr, **options)
def run(kind, **options):
    return settings(kind, 1e-3, **options)
run(SFTConfig, packing=True)
run(DPOConfig, beta=0.1)
"""


def test_a_class_that_is_handed_to_a_function_is_followed():
    found = drift.check_text(f"```python{HANDED_ON}```")
    assert found.problems == [] and found.checked == ["SFTConfig", "DPOConfig"]
    assert "DPOConfig: got an unexpected keyword argument 'packing'" in drift.check_text(f"```python{HANDED_ON.replace('beta=0.1', 'packing=True')}```").problems[0]
    assert len(drift.check_text(f"```python{HANDED_ON.replace('learning_rate', 'lr')}```").problems) == 2


def test_a_made_up_argument_in_a_chapter_is_noticed():
    text = (ROOT / "chapters" / "06-dpo.md").read_text("utf8")
    line = text[: text.index("DPOConfig(output_dir")].count("\n") + 1
    found = drift.check_text(text.replace("DPOConfig(output_dir", "DPOConfig(output_folder"), name="06-dpo.md")
    assert found.problems == [f"06-dpo.md, line {line}: DPOConfig: got an unexpected keyword argument 'output_folder'"]


def test_a_callback_for_an_event_that_is_gone_is_noticed():
    text = "```python\nfrom transformers import TrainerCallback\nclass Clock(TrainerCallback):\n    def on_step_over(self): pass\n```"
    assert drift.check_text(text).problems == ["page, line 4: TrainerCallback has no on_step_over"]


@pytest.mark.parametrize("command, complaint", [
    ("accelerate launch --config_file configs/fsdp.yaml -m lab sft --data rows.jsonl", None),
    ("accelerate launch --config-fiel configs/fsdp.yaml -m lab sft", "there is no option --config-fiel"),
    ("accelerate launch --config_file configs/gone.yaml -m lab sft", "there is no file configs/gone.yaml"),
    ("trl sft --accelerate_config configs/fsdp.yaml --model_name_or_path m --dataset_name d --output_dir o", None),
    ("trl dpo --model_name m", "there is no option --model_name"),
])
def test_commands(command, complaint):
    problems = drift.check_text(f"```bash\n{command}\n```", root=ROOT).problems
    assert (problems == []) if complaint is None else any(complaint in problem for problem in problems)


def test_examples_in_docstrings():
    result = doctest.testmod(drift)
    assert result.attempted and not result.failed


# The configurations for many devices


def launched(path, monkeypatch):
    """The environment that `accelerate launch --config_file path` would give its processes; they are not started."""
    started = []
    for launcher in ("deepspeed_launcher", "multi_gpu_launcher", "simple_launcher"):
        monkeypatch.setattr(launch, launcher, lambda args, launcher=launcher: started.append((launcher, args)))
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", str(path), "--main_process_port", "0", "-m", "lab"]))
    [(launcher, args)] = started
    assert launcher == ("deepspeed_launcher" if args.use_deepspeed else "multi_gpu_launcher")
    return prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)


def in_environment(monkeypatch, found):
    for key, value in found.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_one_that_accelerate_knows(path, monkeypatch):
    """Its keys are accelerate's own, and each key of its inner part is an option of `accelerate launch`."""
    config = load_config_from_file(str(path))  # raises for a key that accelerate does not know
    assert isinstance(config, ClusterConfig) and config.num_processes > 1 and config.mixed_precision == "bf16"
    options = set(vars(launch.launch_command_parser().parse_args(["-m", "lab"])))
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= options
    assert launched(path, monkeypatch)["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_every_kind_of_configuration_is_there():
    assert {load_config_from_file(str(path)).distributed_type for path in CONFIGS} == {
        DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED}


def test_fsdp_shards_everything_a_block_at_a_time(monkeypatch):
    in_environment(monkeypatch, launched(ROOT / "configs/fsdp.yaml", monkeypatch))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True and plugin.activation_checkpointing
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy" and plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_shards_by_its_stage(monkeypatch, stage):
    in_environment(monkeypatch, launched(ROOT / f"configs/deepspeed-zero{stage}.yaml", monkeypatch))
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    assert plugin.zero3_init_flag == plugin.zero3_save_16bit_model == (stage == 3)
    assert plugin.offload_optimizer_device == plugin.offload_param_device == "none"


@pytest.mark.parametrize("change, error", [({"fsdp_confg": {}}, "unknown keys"), ({"distributed_type": "FSPD"}, "FSPD")])
def test_a_mistyped_configuration_is_refused(tmp_path, change, error):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "configs/fsdp.yaml").read_text()) | change))
    with pytest.raises((ValueError, KeyError), match=error):
        load_config_from_file(str(path))
