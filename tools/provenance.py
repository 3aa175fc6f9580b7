"""Which functions of the package a claim was measured with: found by following a chapter's values from statement to statement,
without running anything.

A value is made with the functions that its expression names, with those that the values in it were made with, and with those
that the chapter's own functions in it name. What is kept as run["name"] is followed by that name, so that one record of a run can hold
several experiments. It is an estimate: a list that two experiments fill counts for both.
"""

import ast
from functools import lru_cache

from tools.closure import plain_python

TRAINERS = {"train.train", "sft.sft", "dpo.dpo", "reward.train_reward", "ppo.ppo"}  # they change the model that they are given first


@lru_cache(maxsize=None)  # several pages ask the same
def claims(code):
    """{claim: functions of the package} of a chapter's cells, joined. Its constants count as well; sizes, reports and plots do not.

    >>> claims("from lab import evaluate, report\\nrate = evaluate.wilson(1, 2)\\nreport.claim('A1', measured=rate)")
    {'A1': {'evaluate.wilson'}}
    """
    tree, found = ast.parse(plain_python(code)), {}
    _follow(tree.body, {}, _imported(tree), found)
    return {id: {name for name in names if name.split(".")[0] not in {"size", "report", "plots"}} for id, names in found.items()}


def calls(package):
    """{function or constant: functions that it names} of all modules in the folder src/lab. Methods count for their class."""
    found = {}
    for path in [*package.glob("*.py"), *package.glob("*/__init__.py")]:
        tree, module = ast.parse(path.read_text("utf8")), path.parent.name if path.stem == "__init__" else path.stem
        nodes = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        known = _imported(tree) | {name: f"{module}.{name}" for name in nodes}
        found |= {f"{module}.{name}": _functions(node, {}, known) for name, node in nodes.items()}
        for node in (node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value):
            names = (part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            found |= dict.fromkeys((f"{module}.{name}" for name in names), _functions(node.value, {}, known))
    return found


def reached(functions, calls):
    """The functions, those that they name, and so on."""
    found, waiting = set(), set(functions)
    while waiting:
        found.add(name := waiting.pop())
        waiting |= calls.get(name, set()) - found
    return found


def modules(code):
    """The modules of the package that some code imports."""
    return {name.split(".")[0] for name in _imported(ast.parse(code)).values()}


def _imported(tree):
    """{name in the code: "evaluate" or "judge.judge"} of what comes from the package."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lab"]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("lab.") for node in imports for alias in node.names}


def _follow(statements, made, known, found):
    """Run through the statements. made: {name: the functions its value was made with, or the definition of a chapter's function};
    known: what is imported; found: {claim: functions}, filled on the way."""
    for statement in statements:
        _train(statement, made, known)
        match statement:
            case ast.FunctionDef() | ast.ClassDef():
                made[statement.name] = statement
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                functions = _functions(statement.value, made, known)
                for target in getattr(statement, "targets", None) or [statement.target]:
                    _bind(target, functions, made, add=isinstance(statement, ast.AugAssign))
            case ast.Expr():
                functions = _functions(statement.value, made, known)
                found |= {id: found.get(id, set()) | functions for id in _claimed(statement)}
                for name in _changed(statement.value, made):
                    _bind(ast.Name(name), functions, made, add=True)
            case ast.For():
                _bind(statement.target, _functions(statement.iter, made, known), made)
                _follow(statement.body * 2, made, known, found)  # the second time with what the first has made
            case ast.If() | ast.With():
                for item in getattr(statement, "items", []):
                    if item.optional_vars:
                        _bind(item.optional_vars, _functions(item.context_expr, made, known), made)
                _follow(statement.body + getattr(statement, "orelse", []), made, known, found)


def _functions(node, made, known, seen=()):
    """The functions of the package that an expression, or a function of the chapter, was made with."""
    found, local = set(), {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    local |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in known.keys() - local:
            found.add(f"{known[part.value.id]}.{part.attr}")
        elif field := _field(part):
            found |= made.get(field, set())
        elif isinstance(part, ast.Name) and part.id in known.keys() - local:
            found.add(known[part.id])
        elif isinstance(part, ast.Name) and part.id not in {*local, *seen}:
            value = made.get(part.id, set())
            found |= value if isinstance(value, set) else _functions(value, made, known, (*seen, part.id))
    return {".".join(name.split(".")[:2]) for name in found if "." in name}


def _bind(target, functions, made, add=False):
    """Note what a name's value is now made with. One that is changed in part keeps what it had."""
    if isinstance(target, (ast.Tuple, ast.List)):
        for part in target.elts:
            _bind(part, functions, made, add)
    elif name := _field(target) or _root(target):
        old = made.get(name, set())
        if isinstance(old, set) and (add or not isinstance(target, ast.Name)):
            functions = functions | old
        made[name] = functions


def _train(statement, made, known):
    for call in (node for node in ast.walk(statement) if isinstance(node, ast.Call) and node.args):
        if trainer := _functions(call.func, {}, known) & TRAINERS:
            _bind(call.args[0], trainer, made, add=True)


def _changed(call, made):
    """The values that a call whose result is dropped may have changed: a method's object, the arguments, what a chapter's function names."""
    if not isinstance(call, ast.Call):
        return set()
    names, called = {_root(node) for node in (call.func, *call.args)}, made.get(_root(call.func))
    if isinstance(called, ast.FunctionDef):
        names |= {part.id for part in ast.walk(called) if isinstance(part, ast.Name)}
    return {name for name in names if isinstance(made.get(name), set)}


def _field(node):
    """'["name"]' for x["name"], else ""."""
    named = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    return f'["{node.slice.value}"]' if named else ""


def _root(node):
    """The name that a.b[c](d) starts with, if it starts with one."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call, ast.Starred)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _claimed(statement):
    """The ids of the claims that a statement reports."""
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "claim"]
    return {call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant)}
