"""Every call of TRL, PEFT, transformers, accelerate, datasets and bitsandbytes that the book prints fits the installed versions."""

import doctest
from pathlib import Path

import pytest

from tools import drift

ROOT = Path(__file__).parent.parent
PAGES = drift.pages(ROOT)


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
