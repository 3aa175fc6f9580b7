"""Export: a tuned model as one standard folder, which plain transformers loads, and `transformers serve` or vLLM can serve.

The adapter is merged into the weights. What the course does by hand at each call is written into the folder: where a response ends,
what pads it, and the conversation's template.
"""

import re
from pathlib import Path

import torch
from peft import PeftModel
from transformers import GenerationConfig

from lab import models
from lab.reward import HEAD
from lab.sample import stop_tokens

DTYPES = ("float32", "bfloat16", "float16")
LONGEST = 256  # tokens of a response, unless whoever asks says otherwise; transformers' own default is 20
MARKERS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # for TRL's loss mask; servers that are not transformers do not know them


def export(name, folder, bits=4, dtype="float32"):
    """Write the model `name` (see `models.load`) into the new folder, with its adapter merged into the weights.

    bits   what the base is loaded in. An adapter trained on a 4-bit base makes up for that base's rounding, so it belongs to that
           base: the folder then holds the decoded 4-bit weights plus the adapter's update.
    dtype  of the written weights. Only float32 gives exactly the model that was trained on a CPU; the others take half the space.
    """
    check(name, folder, dtype)
    model, tokenizer = models.load(name, bits)
    model = merged(model)
    generation = settings(model, tokenizer)
    model = model.to(getattr(torch, dtype))
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise models.ModelError(f"a weight of {str(name)!r} does not fit into {dtype}: use float32 or bfloat16")
    model.generation_config = generation
    save(model, for_serving(tokenizer), Path(folder))


def check(name, folder, dtype):
    """Raise an error, before anything is loaded, if the export cannot be what was meant."""
    if dtype not in DTYPES:
        raise models.ModelError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if (Path(name) / HEAD).exists():
        raise models.ModelError(f"{str(name)!r} is a reward model: it gives numbers, not text")
    if Path(folder).exists() and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
        raise models.ModelError(f"{str(folder)!r} is there already: name a new folder, or empty this one")


def merged(model):
    """The plain model: without adapter, without 4-bit layers."""
    if isinstance(model, PeftModel):
        return models.merge(model)
    return model.dequantize() if models.linear4bit(model) else model


def settings(model, tokenizer):
    """What `generate` does unless it is told otherwise: greedy, up to the tokens that end a response."""
    length = min(LONGEST, model.config.max_position_embeddings // 2)
    return GenerationConfig(eos_token_id=stop_tokens(model, tokenizer), pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=length)


def for_serving(tokenizer):
    """The tokenizer with a template that every server understands, and with pads where `generate` needs them: on the left."""
    if tokenizer.chat_template:
        tokenizer.chat_template = MARKERS.sub("", tokenizer.chat_template)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only what is in init_kwargs is written to the folder
    return tokenizer


def save(model, tokenizer, folder):
    """Weights as safetensors, configuration, tokenizer with its template, generation settings. A killed export leaves no half folder."""
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if folder.exists():
        folder.rmdir()  # it is empty
    partial.rename(folder)
