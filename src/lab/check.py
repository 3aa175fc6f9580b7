"""Checks for the exercise notebooks: is an answer right, and if not, what is wrong with it, in one sentence.

The types are strict: an object that says yes to every comparison is no number and no tensor.
"""

import math
from contextlib import ExitStack, contextmanager
from pkgutil import resolve_name
from types import FunctionType
from unittest.mock import patch

import numpy as np
import torch

NUMBERS = (int, float, np.float32, np.float64, np.int64)


def number(yours, expected, what, tol=1e-6):
    """One finite number, close to the expected one. A tensor with one element counts as a number.

    >>> number(0.7, 0.5, "the loss of this pair")
    Traceback (most recent call last):
    AssertionError: the loss of this pair should be 0.5, yours is 0.7
    """
    if type(yours) is torch.Tensor and yours.numel() == 1:
        yours = yours.item()
    assert type(yours) in NUMBERS, f"{what} should be a number, yours is {kind(yours)}"
    assert math.isfinite(yours), f"{what} is not finite: {yours}"
    assert math.isclose(yours, expected, rel_tol=tol, abs_tol=tol), f"{what} should be {expected:.6g}, yours is {yours:.6g}"


def tensor(yours, expected, what, tol=1e-5):
    """A tensor (or parameter) of the expected shape, with the expected values."""
    assert type(yours) in (torch.Tensor, torch.nn.Parameter), f"{what} should be a torch tensor, yours is {kind(yours)}"
    assert yours.is_complex() == expected.is_complex() and (yours.dtype == torch.bool) == (expected.dtype == torch.bool), \
        f"{what} should hold numbers of the type {expected.dtype}, yours has {yours.dtype}"
    assert yours.shape == expected.shape, f"{what} should have the shape {tuple(expected.shape)}, yours has {tuple(yours.shape)}"
    yours, expected = yours.detach().double(), expected.detach().double()
    assert yours.isfinite().all(), f"{what} is not finite everywhere"
    far = (yours - expected).abs() > tol + tol * expected.abs()
    if far.any():
        first = tuple(int(i) for i in far.nonzero()[0])
        raise AssertionError(f"{what} differs in {int(far.sum())} of {far.numel()} places, first at {first}: "
                             f"it should be {expected[first].item():.6g}, yours is {yours[first].item():.6g}")


def equal(yours, expected, what):
    """The same value of the same built-in type, all the way down through lists, tuples, sets and dictionaries."""
    assert type(yours) is type(expected), f"{what} should be {kind(expected)}, yours is {kind(yours)}"
    if isinstance(expected, (list, tuple)):
        assert len(yours) == len(expected), f"{what} should have {len(expected)} elements, yours has {len(yours)}"
        for i, (mine, theirs) in enumerate(zip(yours, expected)):
            equal(mine, theirs, f"{what}, element {i}")
    elif isinstance(expected, dict):
        assert typed(yours) == typed(expected), f"{what} should have the keys {sorted(map(str, expected))}, yours has {sorted(map(str, yours))}"
        for key in expected:
            equal(yours[key], expected[key], f"{what}, under {key!r}")
    elif isinstance(expected, (set, frozenset)):
        assert typed(yours) == typed(expected), f"{what} should be {expected!r}, yours is {yours!r}"
    else:
        assert yours == expected, f"{what} should be {expected!r}, yours is {yours!r}"


def typed(things):
    """With their types: to Python 1, 1.0 and True are one key."""
    return {(type(thing), thing) for thing in things}


def kind(value):
    name = type(value).__name__
    return "None (does your function return something?)" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@contextmanager
def without(*names):
    """While an answer runs, the package's own version of it is out of reach: without("lab.objectives.dpo_loss").

    The function's code is exchanged, so that it does not help to have imported it under another name before.
    """
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(_refusing(name))
        yield


@contextmanager
def _refusing(name):
    def used(*args, **kwargs):
        raise AssertionError("something ready-made was used that is out of reach here: the exercise is to write it yourself")

    thing = resolve_name(name)
    if isinstance(thing, FunctionType) and not thing.__closure__:
        own, thing.__code__ = thing.__code__, used.__code__
        try:
            yield
        finally:
            thing.__code__ = own
    else:
        with patch.object(thing, "__init__", used) if isinstance(thing, type) else patch(name, used):
            yield
