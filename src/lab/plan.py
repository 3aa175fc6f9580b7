"""A run on many devices, planned before any is rented: the parts of `memory.predict`, cut as FSDP and ZeRO cut them.

Counted, not measured. What a counted plan leaves out (the allocator's reserve, buffers of the network, kernels' workspaces)
is why `devices` fills a card to a share of its memory only.
"""

from lab import memory

# Which parts of the ledger each method cuts into as many pieces as there are devices; the others are whole on every device.
CUT = {
    "data parallel": (),
    "ZeRO-1": ("optimiser",),
    "ZeRO-2": ("optimiser", "gradients"),
    "ZeRO-3 or FSDP": ("optimiser", "gradients", "adapter", "weights"),
}


def per_device(parts, n, method, gathered=0.0):
    """Bytes on each of n devices, by part, with their "peak". Equation eq-sharded.

    parts     what `memory.predict` gives; activations and logits are those of one device's micro-batch
    gathered  weights that are whole for a moment, where the method cuts them: see `gathered_bytes`

    >>> per_device({"weights": 8.0, "optimiser": 16.0, "activations": 1.0, "peak": 25.0}, 4, "ZeRO-1")
    {'weights': 8.0, 'optimiser': 4.0, 'activations': 1.0, 'gathered': 0.0, 'peak': 13.0}
    """
    cut = CUT[method]
    shares = {part: size / n if part in cut else size for part, size in parts.items() if part != "peak"}
    shares["gathered"] = gathered if "weights" in cut and n > 1 else 0.0
    return shares | {"peak": sum(shares.values())}


def gathered_bytes(shape, bits):
    """The weights that are whole at one time when weights are cut: one block (or the embedding), and the next one on its way."""
    block = sum(d * k for d, k in memory.linear_layers(shape)) * bits / 8
    embedding = shape.vocab * shape.hidden * (4 if bits == 4 else bits / 8)
    return 2 * max(block, embedding)


def devices(parts, room, method, gathered=0.0, share=0.8, most=1024):
    """The smallest power of two of devices of `room` bytes that hold the run, filled to a share; None if `most` are too few."""
    n = 1
    while n <= most:
        if per_device(parts, n, method, gathered)["peak"] <= share * room:
            return n
        n *= 2
    return None


def traffic(parts, n, method):
    """Bytes that a device sends for one micro-batch and one step, with rings. Table in the chapter.

    >>> traffic({"weights": 4.0, "gradients": 4.0}, 2, "data parallel"), traffic({"weights": 4.0, "gradients": 4.0}, 2, "ZeRO-3 or FSDP")
    (4.0, 6.0)
    """
    passes = 2 * parts["weights"] + parts["gradients"] if "weights" in CUT[method] else 2 * parts["gradients"]
    return passes * (n - 1) / n


def cache_bytes(shape, tokens, bits=16):
    """Keys and values of so many tokens: what sampling keeps of a response, and of its prompt, while it is written."""
    return 2 * shape.layers * shape.kv_heads * shape.head * bits / 8 * tokens


def flop_per_token(shape, r=None, checkpointing=False):
    """Arithmetic of one training step for each token: two operations a weight and pass. The products of attention scores,
    which grow with the length, and the adapter are left out."""
    weights = memory.linear_parameters(shape) + shape.vocab * shape.hidden  # looking a token up in the embedding costs nothing
    passes = 2 + (r is None) + checkpointing  # forward, backward to the inputs, backward to the weights, forward once more
    return 2 * weights * passes
