"""The memory of fine-tuning: counted from a model's sizes, and measured in a fresh process.

Every formula here is a polynomial in the sizes, the rank, the batch and the length, with no branch on any of them:
that is what lets `calculator` print the very same formulas as JavaScript.
"""

import ctypes
import gc
import multiprocessing
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import bitsandbytes
import psutil
import torch

from lab import models
from lab.objectives import lora_parameters
from lab.sft import loss


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like decoder: all that its parameters and its memory depend on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # width of one head
    ff: int
    vocab: int
    tied: bool  # the head is the embedding

    @classmethod
    def of(cls, config):
        """The shape in a transformers config. Raises ModelError for a family that the formulas do not describe."""
        if config.model_type not in ("llama", "mistral") or getattr(config, "attention_bias", False):
            raise models.ModelError(f"the memory formulas describe Llama-like models without biases, not {config.model_type!r}")
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, head,
                   config.intermediate_size, config.vocab_size, config.tie_word_embeddings)


# Counts


def linear_layers(shape):
    """(d, k) of the linear layers of one block, outputs and inputs: query, key, value, output, gate, up, down."""
    q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    return [(q, shape.hidden), (kv, shape.hidden), (kv, shape.hidden), (shape.hidden, q),
            (shape.ff, shape.hidden), (shape.ff, shape.hidden), (shape.hidden, shape.ff)]


def linear_parameters(shape):
    """Weights in the linear layers of all blocks: those that a 4-bit model quantises and that LoRA adapts."""
    return shape.layers * sum(d * k for d, k in linear_layers(shape))


def other_parameters(shape):
    """Weights in the embedding, the head, and the gains: two in a block, one at the end."""
    return shape.vocab * shape.hidden * (1 if shape.tied else 2) + (2 * shape.layers + 1) * shape.hidden


def parameters(shape):
    """All weights of the model."""
    return linear_parameters(shape) + other_parameters(shape)


def adapter_parameters(shape, r):
    """Trainable weights of LoRA on every linear layer but the head: the sum of r (d + k). Equation eq-lora-model."""
    return shape.layers * sum(lora_parameters(d, k, r) for d, k in linear_layers(shape))


# Bytes. bits is 32, 16 or 4 as in models.load; r=None is full fine-tuning, which has no adapter.


def nf4_bytes(n, block=64):
    """n weights in NF4 with double quantisation: half a byte each, a byte for each block's scale, four bytes for each 256
    scales and for their mean, and the two code tables, of 16 and 256 floats."""
    blocks = -(-n // block)
    return n / 2 + blocks + 4 * -(-blocks // 256) + 4 + 4 * (16 + 256)


def weight_bytes(shape, bits):
    """The base model. In 4 bits only the blocks' linear layers are: the rest is kept in float32."""
    if bits == 4:
        return shape.layers * sum(nf4_bytes(d * k) for d, k in linear_layers(shape)) + 4 * other_parameters(shape)
    return parameters(shape) * bits / 8


def block_activations(shape, bits, r):
    """Bytes that one block keeps for the backward pass, for each token. Table in the chapter."""
    d, q, kv, ff = shape.hidden, shape.heads * shape.head, shape.kv_heads * shape.head, shape.ff
    c = 2 if bits == 16 else 4  # bytes of a number in the forward pass; a 4-bit layer computes in float32 here
    norms = 2 * (4 * d + 4)  # the input in float32, and one over its root mean square
    attention = c * (2 * q + 2 * kv) + 4 * shape.heads  # query, key, value, output; log-sum-exp of each head
    mlp = c * 3 * ff  # gate, its SiLU, up
    if r is None:
        return norms + attention + mlp + c * (4 * d + ff)  # + normalised input twice, before and after its gain; input of down
    # The inputs of A. In float32 query, key and value share one, gate and up another, and the output layer's is the
    # attention's; in 16 bits PEFT makes a float32 copy for each of the seven layers.
    inputs = 4 * (2 * d + ff) if c == 4 else 4 * (5 * d + q + ff)
    return norms + attention + mlp + inputs + 4 * 7 * r


def activation_bytes(shape, bits, r, batch, length, checkpointing=False):
    """What the blocks keep for the backward pass. With checkpointing: each block's input, and one block in full."""
    tokens = batch * length
    if checkpointing:
        c = 2 if bits == 16 else 4
        return tokens * (shape.layers * c * shape.hidden + block_activations(shape, bits, r))
    return tokens * shape.layers * block_activations(shape, bits, r)


def larger(a, b):
    """max(a, b), in a form that also works on symbols."""
    return (a + b + abs(a - b)) / 2


def predict(shape, *, bits=32, r=None, batch=1, length=512, supervised=None, accumulation=1, checkpointing=False, adam_bits=32):
    """Bytes of one training step with AdamW, by part, and their "peak". Equation eq-memory.

    bits         of the base model: 32, 16 or 4 (needs r)
    r            the rank of a LoRA adapter in float32; None trains all weights
    batch        sequences in one forward pass, of `length` tokens
    supervised   positions of each sequence that the loss looks at; all if not given
    accumulation forward passes for one step
    adam_bits    32, or 8: block-wise quantised optimiser states
    """
    if bits == 4 and r is None:
        raise ValueError("4-bit weights cannot be trained: give r, the rank of an adapter")
    supervised = length if supervised is None else supervised
    trained = parameters(shape) if r is None else adapter_parameters(shape, r)
    width = bits / 8 if r is None else 4  # bytes of a trained weight
    adapter = 0 if r is None else 4 * trained
    moments = 2 * trained * (width if adam_bits == 32 else 1 + 4 / 256)
    gradients = width * trained
    activations = activation_bytes(shape, bits, r, batch, length, checkpointing)
    logits = 3 * 4 * batch * supervised * shape.vocab  # log-probabilities and, as the backward pass begins, two gradients
    # A tied matrix gets a gradient as the head and one as the embedding, and for a moment both are there.
    twice = width * shape.vocab * shape.hidden if shape.tied and r is None else 0
    # A gradient appears as the activations behind it are freed, so the two share their space, unless gradients stay
    # from one forward pass to the next.
    moving = larger(activations + logits, gradients + twice) if accumulation == 1 else activations + logits + gradients
    parts = {"weights": weight_bytes(shape, bits), "adapter": adapter, "optimiser": moments, "gradients": gradients,
             "activations": activations, "logits": logits}
    return parts | {"peak": parts["weights"] + adapter + moments + moving}


# Measurement


def measure(name, **settings):
    """{"bytes": peak memory of training over that of the process before it, "seconds": of a step}, in a fresh process.

    name      what models.load takes
    settings  as in `predict`, and precision="bf16" or "fp16" for mixed precision, which `predict` does not cover
    On a CPU the resident memory of the process is watched; on a GPU torch's allocator is asked.
    """
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["lab.memory"])  # so that the imports are paid for once
    with ProcessPoolExecutor(1, context) as fresh:
        return fresh.submit(_measure, name, settings).result()


def _measure(name, settings):
    return_freed_memory()
    torch.manual_seed(0)
    bits = settings.get("bits", 32)
    small = {"batch": 2, "length": 16, "supervised": 8}
    _train(models.load(models.POCKET, bits)[0], **settings | small)  # threads, kernels and their buffers are not the model's,
    models.load(name, bits)  # nor is what the libraries keep from reading files
    with Peak() as peak:
        model, _ = models.load(name, bits)
        for p in model.parameters():
            p.data = p.data.clone()  # a weight may be a view of the file that it was read from, and keep all of it in memory
        peak.restart()
        seconds = _train(model, **settings)
    return {"bytes": peak.bytes, "seconds": seconds}


def _train(model, *, bits=32, r=None, batch=1, length=512, supervised=None, accumulation=1, checkpointing=False, adam_bits=32,
           precision="no"):
    """A step on a few random tokens, after which the optimiser has its states, and one on a whole batch: its seconds."""
    model = model if r is None else models.add_lora(model, r=r)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = bitsandbytes.optim.AdamW8bit(weights) if adam_bits == 8 else torch.optim.AdamW(weights, fused=True)
    ids = torch.randint(model.config.vocab_size, (batch, length), device=model.device)
    labels = ids.clone()
    labels[:, : length - (supervised or length)] = -100
    autocast = torch.autocast(model.device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision), precision != "no")
    few = {"input_ids": ids[:1, -8:], "labels": ids[:1, -8:]}
    for micro_batches in ([few], [{"input_ids": ids, "labels": labels}] * accumulation):
        start = time.perf_counter()
        for micro_batch in micro_batches:
            with autocast:
                value = loss(model, micro_batch)["loss"]
            value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


class Peak:
    """The most memory in use while it is entered, in bytes, over what was in use before."""

    def __enter__(self):
        self.cuda = torch.cuda.is_available()
        gc.collect()
        self.before = self._now()
        self.restart()
        self.running = not self.cuda
        if self.running:
            self.thread = threading.Thread(target=self._watch)
            self.thread.start()
        return self

    def restart(self):
        """Forget the peak so far."""
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.most = self._now()

    def __exit__(self, *_):
        if self.running:
            self.running = False
            self.thread.join()
        self.bytes = (torch.cuda.max_memory_allocated() if self.cuda else self.most) - self.before

    def _now(self):
        return torch.cuda.memory_allocated() if self.cuda else psutil.Process().memory_info().rss

    def _watch(self):
        while self.running:
            self.most = max(self.most, self._now())
            time.sleep(0.001)


def return_freed_memory():
    """Make the C library of Linux give every freed block of 64 kB or more back to the system at once.

    By default it keeps the most recent size of block for itself, up to 32 MB, and the resident memory of a process then
    says as much about the order of its allocations as about their size. Giving back costs time.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
