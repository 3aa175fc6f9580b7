"""Code that runs inside the kernel, beside the learner's, to see whether the result of a test can be believed.

A test that ends without an error counts as passed. So a notebook could earn points by breaking what reports errors: the functions
of lab.check, torch or Python itself, or the shell that runs the cells. Three counters, none of them costly:

1. A test runs in a name space of its own, which has the names of the set-up cells, with their first values, and those of the answers.
2. After each test a check that must fail is run. If no failure comes back, errors are swallowed.
3. That failure carries one number for each module that tests rely on, made from the identities of its functions. It is compared,
   outside the kernel, with the one from before the learner's first cell.

What this cannot stop is code written against this very file, which undoes its changes before it is looked at, or reads the expected
value out of the test's frame. Such code needs names that no exercise needs; `suspicious` lists them for a person to look at.
"""

import json
import re

START = '''
import random as _random
import numpy as _numpy
import torch as _torch

_random.seed(0)  # an answer that draws without a seed draws the same each time it is graded
_numpy.random.seed(0)
_torch.manual_seed(0)


def exit(*_):
    raise SystemExit("exit() was called")

quit = exit  # IPython's own end the kernel a moment later, at a different cell each time
'''

PROBE = '''
def _probe(word):
    import builtins, contextlib, json, math, sys, types, unittest.mock
    from IPython import get_ipython
    import torch
    from lab import check

    shell = get_ipython()
    store = vars(builtins).setdefault("_grading", {"names": dict(shell.user_ns), "owners": {}})
    if not store["owners"]:
        relied = ("builtins", "contextlib", "functools", "itertools", "math", "numpy", "random", "unittest.mock",
                  "torch", "torch.autograd", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.testing")
        modules = {name: vars(module) for name, module in sys.modules.items() if name in relied or name.split(".")[0] == "lab"}
        classes = [torch.Tensor, torch.nn.Module, *type(shell).__mro__, *type(shell.kernel).__mro__]
        classes += [value for name, space in modules.items() if name.startswith("lab") for value in space.values() if isinstance(value, type)]
        for name, space in [*modules.items(), *((f"{kind.__module__}.{kind.__qualname__}", vars(kind)) for kind in classes)]:
            store["owners"][name] = sorted(key for key, value in space.items() if callable(value) and key not in ("_", "manual_seed"))  # torch wraps its own

    def mark(value):
        function = value.__func__ if isinstance(value, types.MethodType) else value  # a bound method may be made anew each time
        plain = isinstance(function, types.FunctionType)
        return id(function), id(function.__code__) if plain else 0, id(function.__defaults__) if plain else 0

    def space(name):
        if name in sys.modules:
            return vars(sys.modules[name])
        module, _, kind = name.rpartition(".")
        while module not in sys.modules:
            module, _, outer = module.rpartition(".")
            kind = f"{outer}.{kind}"
        found = sys.modules[module]
        for part in kind.split("."):
            found = getattr(found, part, None)
        return vars(found) if found is not None else {}

    marks = {name: hash(tuple(mark(space(name).get(key)) for key in keys)) for name, keys in store["owners"].items()}
    own = tuple(sorted(key for thing in (shell, shell.kernel) for key in vars(thing) if callable(getattr(type(thing), key, None))))
    hooks = (sys.gettrace(), sys.getprofile(), shell.custom_exceptions, len(shell.ast_transformers),
             len(shell.input_transformers_post), len(shell.input_transformer_manager.cleanup_transforms))
    marks["the shell that runs the cells"] = repr((own, hooks))
    check.number(1.0, 2.0, word + json.dumps(marks) + word)
'''

TEST = '''
def _test(source, answers):
    import builtins
    from IPython import get_ipython
    user, store = get_ipython().user_ns, builtins._grading
    space = store.setdefault("space", {})  # one for all tests of a notebook
    space.update(store["names"], __builtins__=builtins, __name__="__main__")
    space.update({name: user[name] for name in answers if name in user})
    exec(compile(source, "<test>", "exec"), space)
'''

UNUSUAL = r"_getframe|\bcurrentframe|f_locals|f_globals|f_back|\binspect\b|\bgc\.|\bctypes\b|__builtins__|\bbuiltins\b|get_ipython|sys\.modules" \
    r"|sys\.settrace|sys\.setprofile|atexit|unittest\.mock|AssertionError\s*=|\bcheck\.\w+\s*=|\bsetattr\(|__code__|__globals__|_grading|/solutions"


def probe(word):
    """A cell that must end with an error whose message `read` understands. word: not known to the notebook beforehand."""
    return f"{PROBE}\n_probe({word!r})"


def in_own_space(source, answers):
    """A cell that runs a test among the names of the set-up cells and of the answers, whatever else the notebook has defined."""
    return f"{TEST}\n_test({source!r}, {sorted(answers)!r})"


def read(outcome, word):
    """The marks that a probe brought back, {what: mark}; None if it did not end as it must."""
    parts = outcome.message.split(word)
    if outcome.status != "error" or outcome.error != "AssertionError" or len(parts) != 3 or parts[2] != " should be 2, yours is 1":
        return None
    try:
        marks = json.loads(parts[1])
    except ValueError:
        return None
    return marks if isinstance(marks, dict) else None


def tampering(before, after):
    """Why a test's result cannot be believed, in one sentence; empty if it can."""
    if after is None:
        return "errors are swallowed: a check that must fail did not"
    changed = [name for name in before if after.get(name) != before[name]]
    return f"while it ran, the notebook changed {changed[0]}, which the tests rely on" if changed else ""


def suspicious(source):
    """Names in a learner's code that no exercise needs, for the instructor to look at.

    >>> suspicious("import sys\\nexpected = sys._getframe(1).f_locals")
    ['_getframe', 'f_locals']
    """
    return sorted(set(re.findall(UNUSUAL, source)))
