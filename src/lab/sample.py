"""Sampling in batches: our own loop with a key-value cache, because `generate` spends most of a small model's time
outside the arithmetic. Greedy sampling gives the same tokens as `model.generate(do_sample=False)`."""

import contextlib
import math

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import Cache

from lab.data import DataError, by_length, check_tokenizer, encode_prompt, pad
from lab.models import Linear4bit, decoded
from lab.train import parts


def sample(model, tokenizer, prompts, *, max_new_tokens=48, temperature=1.0, seed=0, template=True, batch_size=64):
    """One response per prompt, as text without special tokens: list[str].

    prompts      strings, or lists of messages for a conversation of several turns.
    temperature  divides the logits; 0 is greedy.
    seed         each prompt gets its own row of random numbers, so a response does not depend on the batch size.
    template     False takes the prompts as raw text, for a base model.
    """
    if template:
        check_tokenizer(tokenizer)
    ids = [encode_prompt(prompt, tokenizer, template) for prompt in prompts]
    rows = sample_ids(model, tokenizer, ids, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, batch_size=batch_size)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def first_lines(texts):
    """What a base model says before it goes on with the next question: the first line of each text.

    >>> first_lines([" Irby.\\nWhere does Anna live?"])
    ['Irby.']
    """
    return [text.strip().split("\n")[0] for text in texts]


def sample_ids(model, tokenizer, ids, *, max_new_tokens=48, temperature=1.0, seed=0, batch_size=64):
    """The new tokens after each prompt, the token that ended it included: list[list[int]]. ids: the prompts' tokens."""
    check_lengths(ids, model.config.max_position_embeddings)
    chance = torch.rand(len(ids), max_new_tokens, generator=torch.Generator().manual_seed(seed))
    responses, stop = [None] * len(ids), stop_tokens(model, tokenizer)
    with dense(model) as plain, torch.inference_mode():
        for part in by_length([len(row) for row in ids], batch_size):
            tokens = continue_batch(plain, [ids[i] for i in part], chance[part], temperature, stop)
            for i, row in zip(part, tokens):
                responses[i] = row
    return responses


def check_lengths(ids, context):
    """Raise DataError where a prompt leaves no room in the context."""
    for i, row in enumerate(ids, 1):
        if not row:
            raise DataError(f"prompt {i} has no token")
        if len(row) >= context:
            raise DataError(f"prompt {i} has {len(row)} tokens, which leaves no room in a context of {context}")


def stop_tokens(model, tokenizer):
    """Ids after which a response is over: the end of the turn, and the end of the document for a base model."""
    configured = model.generation_config.eos_token_id
    stop = set(configured if isinstance(configured, list) else [configured])
    stop |= {tokenizer.eos_token_id, tokenizer.get_vocab().get("<|endoftext|>")}
    return sorted(stop - {None})


def continue_batch(model, ids, chance, temperature, stop):
    """The new tokens of each prompt, up to and with the stop token: B lists.

    ids        the prompts, shortest first.
    chance     (B, N) random numbers, for N new tokens at most; a row also ends where the context does.
    """
    device, (rows, new) = model.device, chance.shape
    lengths = torch.tensor([len(row) for row in ids], device=device)  # (B,)
    cache = PreallocatedCache(rows, int(lengths.max()) + new)
    written = torch.full((rows, new), stop[0])
    stop_ids, chance = torch.tensor(stop, device=device), chance.to(device)
    alive, index = torch.ones(rows, dtype=torch.bool, device=device), torch.arange(rows)
    logits = read_prompts(model, ids, cache)  # (B, V)
    for t in range(new):
        token = choose(logits, temperature, chance[:, t])  # (B,)
        written[index, t] = token.cpu()
        alive = alive & ~torch.isin(token, stop_ids)
        left = int(alive.sum())
        if left == 0 or t == new - 1:
            break
        if left <= 0.8 * len(alive):  # dropping a row copies the cache, so it waits until a fifth is finished
            cache.keep(alive)
            index, token, lengths, chance = index[alive.cpu()], token[alive], lengths[alive], chance[alive]
            alive = alive[alive]
        position = lengths + t  # (B,) where this token stands, over the pads of the prompt
        mask = cache.step(position)
        logits = model(input_ids=token[:, None], position_ids=position[:, None], attention_mask=mask,
                       past_key_values=cache, use_cache=True).logits[:, 0]
    room = [min(new, model.config.max_position_embeddings - len(row)) for row in ids]
    return [up_to_stop(row[:n], stop) for row, n in zip(written.tolist(), room)]


def read_prompts(model, ids, cache):
    """The logits after each prompt, (B, V), and the prompts' keys and values in the cache. Equal prompts are read once.

    Right padding, as in training: position t is t in every row, and causal attention needs no mask. On a CPU the
    prompts go in parts of like length, because there each pad costs as much as a token.
    """
    distinct = list(dict.fromkeys(map(tuple, ids)))  # still shortest first
    place = {row: i for i, row in enumerate(distinct)}
    where = torch.tensor([place[tuple(row)] for row in ids], device=model.device)
    once, logits = PreallocatedCache(len(distinct), len(distinct[-1])), []
    for part in parts(distinct, 1, 128 if model.device.type == "cpu" else math.inf):
        last = torch.tensor([[len(row) - 1] for row in part], device=model.device)
        logits.append(model(input_ids=pad(part, 0).to(model.device), past_key_values=once, use_cache=True,
                            logits_to_keep=last).logits[:, 0])
        once.start += len(part)
    cache.take(once, where)
    return torch.cat(logits)[where]


def choose(logits, temperature, chance):
    """One token per row, (B, V) and (B,) -> (B,): the point where the cumulative probability passes `chance`."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = torch.softmax(logits.float() / temperature, -1).cumsum(-1)  # (B, V)
    token = torch.searchsorted(cumulative, chance[:, None] * cumulative[:, -1:], right=True)
    return token[:, 0].clamp(max=logits.shape[-1] - 1)


def up_to_stop(row, stop):
    """The tokens up to the first that ends a response, that one included."""
    end = next((t for t, token in enumerate(row, 1) if token in stop), len(row))
    return row[:end]


class PreallocatedCache(Cache):
    """Keys and values of all layers in tensors of the final size, (B, H, S, D): a step writes one column, where
    transformers' default cache copies everything to make room. Each row writes at its own position."""

    def __init__(self, rows, size):
        self.shape, self.start, self.position = (rows, size), 0, None
        self.layers, self.keys, self.values = [], [], []

    def step(self, position):
        """Set where the next token of each row goes; returns the additive mask (B, 1, 1, S) up to the furthest."""
        self.position, self.rows = position, torch.arange(len(position), device=position.device)
        self.width = int(position.max()) + 1
        hidden = torch.arange(self.width, device=position.device) > position[:, None]
        return self.keys[0].new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None]

    def update(self, key, value, layer, *args, **kwargs):
        if self.position is None:  # prompts, from row `start` on: (b, H, T, D)
            for store, new in ((self.keys, key), (self.values, value)):
                if layer == len(store):
                    store.append(new.new_zeros(self.shape[0], new.shape[1], self.shape[1], new.shape[3]))
                store[layer][self.start : self.start + len(new), :, : new.shape[2]] = new
            return key, value
        self.keys[layer][self.rows, :, self.position] = key[:, :, 0]
        self.values[layer][self.rows, :, self.position] = value[:, :, 0]
        return self.keys[layer][:, :, : self.width], self.values[layer][:, :, : self.width]

    def take(self, prompts, where):
        """Row where[i] of a cache of prompts becomes row i of this one."""
        for mine, theirs in ((self.keys, prompts.keys), (self.values, prompts.values)):
            for store in theirs:
                mine.append(store.new_zeros(self.shape[0], store.shape[1], self.shape[1], store.shape[3]))
                mine[-1][:, :, : store.shape[2]] = store[where]

    def keep(self, rows):
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]

    def get_seq_length(self, layer=0):
        return 0 if self.position is None else self.width

    def get_query_offset(self, layer=0):
        return 0

    def get_mask_sizes(self, query_length, layer=0):
        return query_length, 0


@contextlib.contextmanager
def dense(model):
    """The base model with every LoRA or 4-bit layer replaced by one plain matrix, in evaluation mode.

    Adapters triple the number of matrix products of a step and 4-bit weights are decoded at each; here both are done
    once. The layers themselves are set aside and put back at the end, so nothing is rounded.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    training, aside = model.training, []
    model.eval()
    for name, module in list(base.named_modules()):
        plain = as_linear(module)
        if plain is not None and not any(name.startswith(outer + ".") for outer, _ in aside):
            base.set_submodule(name, plain)
            aside.append((name, module))
    try:
        yield base
    finally:
        for name, module in aside:
            base.set_submodule(name, module)
        model.train(training)


@torch.no_grad()
def as_linear(module):
    """One matrix that does what a LoRA or 4-bit layer does; None for any other module."""
    lora = isinstance(module, LoraLayer) and not module.merged and not module.lora_variant
    layer = module.get_base_layer() if lora else module
    if not isinstance(layer, torch.nn.Linear) or not (lora or isinstance(layer, Linear4bit)):
        return None
    weight = decoded(layer) if isinstance(layer, Linear4bit) else layer.weight
    for name in [] if not lora or module.disable_adapters else module.active_adapters:
        if name in module.lora_A:
            weight = weight + module.get_delta_weight(name).to(weight.dtype)  # W + (alpha/r) B A
    return Plain(weight, layer.bias)


class Plain(torch.nn.Module):
    """A frozen matrix product in the matrix's own type, whatever the type of the input, as 4-bit layers do it."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight, requires_grad=False), bias

    def forward(self, x):
        return torch.nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)
