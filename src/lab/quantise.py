"""Four-bit weights from scratch: code books, block-wise absmax scaling, and scales that are quantised themselves.

bitsandbytes does this in training. The functions here are to be read, and give the very same codes.
"""

import torch
from scipy.stats import norm


def normal_code():
    """NF4: 16 levels in [-1, 1] at evenly spaced quantiles of a normal distribution, zero among them. Equation eq-nf4.

    Returns (16,). Dettmers et al. 2023, section 3.

    >>> [round(level, 2) for level in normal_code().tolist()][6:10]
    [-0.09, 0.0, 0.08, 0.16]
    """
    end = (1 - 1 / 30 + 1 - 1 / 32) / 2  # half of a level's share short of probability 1; the mean for 15 and for 16 levels
    positive = norm.ppf(torch.linspace(end, 0.5, 9)[:-1])  # 8 levels
    negative = -norm.ppf(torch.linspace(end, 0.5, 8)[:-1])  # 7 levels
    levels = torch.tensor([*positive, 0.0, *negative], dtype=torch.float32).sort().values
    return levels / levels.max()


def integer_code(bits=4):
    """Plain integers: 2^bits evenly spaced levels up to 1, zero among them, and so one more on the positive side.

    >>> integer_code(2)
    tensor([-0.5000,  0.0000,  0.5000,  1.0000])
    """
    half = 2 ** (bits - 1)
    return torch.arange(1 - half, half + 1) / half


def dynamic_code():
    """The 8-bit code of the scales: seven decades, with twice as many levels in each as in the one below. (256,).

    A sign, then zeros that count the decade, then what is left of the 8 bits divides it evenly (Dettmers 2015).
    """
    levels = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        levels += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(levels).sort().values


def quantise(x, code, block=64):
    """Codes (N / block, block), the index of the nearest level of x / absmax, and absmax (N / block), one scale a block.

    x: any shape, of N values; N must be a multiple of `block`.
    """
    if x.numel() % block:
        raise ValueError(f"{x.numel()} values cannot be cut into blocks of {block}")
    blocks = x.reshape(-1, block)
    absmax = blocks.abs().amax(1)
    scaled = blocks / absmax.clamp(min=torch.finfo(x.dtype).tiny)[:, None]
    edges = (code[1:] + code[:-1]) / 2
    return torch.bucketize(scaled, edges), absmax


def dequantise(codes, absmax, code):
    """The values that the codes stand for, (N / block, block)."""
    return code[codes] * absmax[:, None]


def rounded(x, code, block=64):
    """x as it comes back from being quantised, in its own shape."""
    return dequantise(*quantise(x, code, block), code).view_as(x)


def double_quantise(absmax, block=256):
    """The scales in 8 bits: (codes, absmax of each block of scales, mean). The mean is taken off first: scales are positive.

    absmax: (M,); the last block is filled up with zeros, which changes no absmax.
    """
    mean = absmax.mean()
    filled = torch.nn.functional.pad(absmax - mean, (0, -len(absmax) % block))
    codes, scales = quantise(filled, dynamic_code(), block)
    return codes.flatten()[: len(absmax)], scales, mean


def bits_per_weight(block=64, scale_bits=8, second_block=256):
    """4 bits and each weight's part of the scales. Equation eq-bits-per-weight.

    >>> round(bits_per_weight(), 3)
    4.127
    """
    return 4 + scale_bits / block + 32 / (block * second_block)
