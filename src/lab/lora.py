"""LoRA from scratch, to be read. The trainings use PEFT, whose layer computes the same."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class LoRALinear(nn.Module):
    """W x + (alpha/r) B A x, with W frozen. Equation eq-lora (Hu et al. 2021).

    base: a Linear layer with weight W (d, k). A (r, k) starts as PyTorch starts a Linear layer, B (d, r) at zero.
    """

    def __init__(self, base, r, alpha):
        super().__init__()
        d, k = base.weight.shape
        self.base, self.scale = base.requires_grad_(False), alpha / r
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(r, k), a=math.sqrt(5)))
        self.B = nn.Parameter(torch.zeros(d, r))

    def forward(self, x):  # (..., k) -> (..., d)
        return self.base(x) + self.scale * F.linear(F.linear(x, self.A), self.B)

    def merged(self):
        """W + (alpha/r) B A, (d, k): one matrix that does the work of the three."""
        return self.base.weight + self.scale * self.B @ self.A
