"""Calls of the libraries that the book prints, against the signatures of the installed versions.

    python -m tools.drift       the calls that no longer fit, and how many were looked at

Nothing of a page is executed. Its Python is parsed, the names that it imports from the libraries are followed to functions,
classes and methods, and the arguments of each call are bound to the signature found there. A chapter that is executed would
notice a wrong argument too, but late, and code that is only printed would never notice.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import shlex
import textwrap
import typing
from collections import defaultdict
from pathlib import Path

LIBRARIES = ("trl", "peft", "transformers", "accelerate", "datasets", "bitsandbytes")
FENCE = re.compile(r"(?ms)^(?P<indent>[ \t]*)(?P<fence>`{3,})(?P<kind>\{code-cell\} \w+|python|bash|shell)[ \t]*\n(?P<body>.*?)^(?P=indent)(?P=fence)[ \t]*$")
# A method that hands the arguments it does not know on to another one, which is asked about them.
HANDS_ON = {
    "_BaseAutoModelClass.from_pretrained": ("transformers.PreTrainedModel.from_pretrained", "transformers.PreTrainedConfig.from_pretrained", "transformers.PreTrainedConfig"),
    "AutoTokenizer.from_pretrained": ("transformers.PreTrainedTokenizerBase.from_pretrained", "transformers.PreTrainedTokenizerBase"),
    "AutoConfig.from_pretrained": ("transformers.PreTrainedConfig.from_pretrained", "transformers.PreTrainedConfig"),
    "PeftModel.from_pretrained": ("peft.PeftModel.load_adapter",),
}
# What a call gives, where its name does not say so. lab's own loaders are among them.
GIVES = {
    "lab.models.load": ("transformers.LlamaForCausalLM", "transformers.PreTrainedTokenizerFast"),
    "lab.models.add_lora": "peft.PeftModelForCausalLM",
    "lab.models.merge": "transformers.LlamaForCausalLM",
    "transformers.AutoModelForCausalLM.from_pretrained": "transformers.PreTrainedModel",
    "transformers.AutoTokenizer.from_pretrained": "transformers.PreTrainedTokenizerFast",
    "peft.get_peft_model": "peft.PeftModel",
    "datasets.load_dataset": "datasets.Dataset",
}


@dataclasses.dataclass
class Found:
    """What a page's calls came to."""
    checked: list = dataclasses.field(default_factory=list)  # names of the calls that were bound to a signature
    problems: list = dataclasses.field(default_factory=list)  # one sentence each


def pages(root):
    """Every file whose code the book shows: chapters, exercises, pages, and the package and benchmarks that they print."""
    patterns = ("README.md", "chapters/*.md", "solutions/*.md", "book/**/*.md", "exercises/*.ipynb", "src/lab/**/*.py", "benchmarks/*.py")
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def check(path, root=Path(".")):
    """The calls of one page, and what is wrong with them."""
    return check_text(path.read_text("utf8"), path.suffix, str(path.relative_to(root)), root)


def check_text(text, suffix=".md", name="page", root=Path(".")):
    """The same of a text. suffix: .md, .py or .ipynb.

    >>> check_text("```python\\nfrom peft import LoraConfig\\nLoraConfig(r=8, alfa=16)\\n```").problems
    ["page, line 3: LoraConfig: got an unexpected keyword argument 'alfa'"]
    """
    found, statements = Found(), []
    for kind, line, body in blocks(text, suffix):
        if kind == "shell":
            check_commands(body, f"{name}, line {line}", found, root)
            continue
        try:
            tree = ast.parse(body)
        except SyntaxError as error:
            if any(library in body for library in LIBRARIES):
                found.problems.append(f"{name}, line {line}: this block does not parse ({error.msg})")
            continue
        statements += ast.increment_lineno(tree, line - 1).body
    Reader(name, found).read(ast.Module(statements, []))
    return found


def blocks(text, suffix):
    """("python" or "shell", line, code) of each block, with what IPython alone understands left blank."""
    if suffix == ".py":
        return [("python", 1, text)]
    if suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return [("python", 1, plain("".join(cell["source"]))) for cell in cells]
    kinds = [(match["kind"] in ("bash", "shell"), match) for match in FENCE.finditer(text)]
    return [("shell" if shell else "python", text[: match.start("body")].count("\n") + 1,
             match["body"] if shell else plain(textwrap.dedent(match["body"]))) for shell, match in kinds]


def plain(code):
    """Options of a cell and magic commands as empty lines, so that line numbers stay."""
    return re.sub(r"(?m)^(:[\w-]+:.*|\s*[%!].*)$", "", code)


class Reader:
    """Follows the names of one page."""

    def __init__(self, name, found):
        self.name, self.found = name, found
        self.known = {}  # name -> the module, class or function of a library, or of lab
        self.instances = {"tokenizer": importlib.import_module("transformers").PreTrainedTokenizerFast}
        self.dictionaries = {}  # name -> the keys of a dict that is written out
        self.functions = {}  # name -> a function of the page itself

    def read(self, tree):
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports(node)
            elif isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
        self.assignments(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                self.call(node)
                self.follow(node, {}, {})
            elif isinstance(node, ast.Attribute):
                self.target(node)
            elif isinstance(node, ast.ClassDef):
                self.overrides(node)

    def complain(self, node, text):
        problem = f"{self.name}, line {node.lineno}: {text}"
        if problem not in self.found.problems:
            self.found.problems.append(problem)

    def imports(self, node):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        for alias in node.names:
            path = module or alias.name
            if getattr(node, "level", 0) or path.split(".")[0] not in (*LIBRARIES, "lab"):
                continue
            try:
                found = importlib.import_module(path)
                if module:
                    found = getattr(found, alias.name, None) or importlib.import_module(f"{path}.{alias.name}")
                    self.known[alias.asname or alias.name] = found
                else:
                    self.known[alias.asname or path.split(".")[0]] = found if alias.asname else importlib.import_module(path.split(".")[0])
            except ImportError:
                self.complain(node, f"{path} has no {alias.name}" if module else f"there is no module {path}")

    def assignments(self, tree):
        """What each name holds, where every assignment to it on the page agrees."""
        held = defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self.assign(held, target, node.value)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                held[node.id].append("stored")
            elif isinstance(node, ast.arg):
                held[node.arg].append("an argument")
        for name, values in held.items():
            kinds = [value for value in values if not isinstance(value, str)]
            if kinds and len(kinds) == values.count("stored") and "an argument" not in values and all(kind == kinds[0] for kind in kinds):
                (self.dictionaries if isinstance(kinds[0], tuple) else self.instances)[name] = kinds[0]
            elif "stored" in values:
                self.instances.pop(name, None)  # a tokenizer of another library, perhaps

    def assign(self, held, target, value):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Call):
            given = self.given(value)
            for name, one in zip(target.elts, given if isinstance(given, tuple) else ()):
                if isinstance(name, ast.Name):
                    held[name.id].append(one)
        elif isinstance(target, ast.Name):
            if keys := written_keys(value):
                held[target.id].append(tuple(keys))
            elif isinstance(value, ast.Call) and inspect.isclass(given := self.given(value)):
                held[target.id].append(given)

    def given(self, call):
        """The class of what a call returns (a tuple of classes for several), or None."""
        function = self.target(call.func)
        if inspect.isclass(function):
            return function
        key = next((key for key in GIVES if function is not None and function == locate(key)), None)
        if key:
            return tuple(map(locate, GIVES[key])) if isinstance(GIVES[key], tuple) else locate(GIVES[key])
        owner = getattr(function, "__self__", None)
        return owner if inspect.isclass(owner) and function.__name__.startswith("from_") else None

    def target(self, node):
        """The object that a dotted name stands for, or None if it is not one of a library."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        owner = self.target(node.value)
        if owner is None or not (inspect.ismodule(owner) or inspect.isclass(owner)):
            return None
        try:
            return getattr(owner, node.attr)
        except AttributeError:
            try:
                return importlib.import_module(f"{owner.__name__}.{node.attr}")
            except ImportError:
                if not from_library(owner):
                    return None
                self.complain(node, f"{owner.__name__} has no {node.attr}")

    def call(self, node):
        function, method = self.target(node.func), False
        if function is None and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            function, method = self.method(node.func)
        if function is not None and callable(function) and from_library(function):
            name = function.__qualname__ if hasattr(function, "__qualname__") else ast.unparse(node.func)
            self.found.checked.append(name)
            for text in misfits(function, node, self.dictionaries, method):
                self.complain(node, f"{name}: {text}")

    def follow(self, node, objects, keys, depth=4):
        """Into a function of the page that is handed a library's class or function and calls it: settings(SFTConfig, ...).

        objects, keys: what the names of the function around this call stand for, and which keywords its **options hold.
        """
        inner = self.functions.get(getattr(node.func, "id", None))
        if inner is None or not depth:
            return
        names = [argument.arg for argument in (*inner.args.posonlyargs, *inner.args.args, *inner.args.kwonlyargs)]
        given = dict(zip(names, node.args)) | {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        passed = {name: objects.get(getattr(value, "id", None)) or self.target(value) for name, value in given.items() if name in names}
        passed = {name: value for name, value in passed.items() if callable(value) and from_library(value)}
        if not passed:
            return
        rest = [name for name in given if name not in names]
        rest += [key for keyword in node.keywords if not keyword.arg for key in keys.get(getattr(keyword.value, "id", None), ())]
        extra = {inner.args.kwarg.arg: rest} if inner.args.kwarg else {}
        for call in (item for item in ast.walk(inner) if isinstance(item, ast.Call)):
            function = passed.get(getattr(call.func, "id", None))
            if function is not None:
                self.found.checked.append(function.__qualname__)
                for text in misfits(function, call, self.dictionaries | extra):
                    self.complain(call, f"{function.__qualname__}: {text}")
            self.follow(call, passed, extra, depth - 1)

    def method(self, node):
        """A method of an instance whose class is known, and whether its first parameter is the instance."""
        owner = self.instances.get(node.value.id)
        if owner is None or not from_library(owner):
            return None, False
        place = next((place for place in (owner, *stands_for(owner)) if hasattr(place, node.attr)), None)
        if place is None:
            if not sets(owner, node.attr):
                self.complain(node, f"{owner.__name__} has no {node.attr}")
            return None, False
        return getattr(place, node.attr), not isinstance(inspect.getattr_static(place, node.attr), (classmethod, staticmethod, property))

    def overrides(self, node):
        """A callback whose event no longer exists would never be called."""
        for base in map(self.target, node.bases):
            for item in node.body:
                if inspect.isclass(base) and isinstance(item, ast.FunctionDef) and item.name.startswith("on_") and not hasattr(base, item.name):
                    self.complain(item, f"{base.__name__} has no {item.name}")


def misfits(function, node, dictionaries, method=False):
    """Why the arguments of a call do not fit a function's signature; [] if they do."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return []
    positional = [None] * (method + sum(not isinstance(argument, ast.Starred) for argument in node.args))
    keywords, open_ended = [], any(isinstance(argument, ast.Starred) for argument in node.args)
    for keyword in node.keywords:
        keys = [keyword.arg] if keyword.arg else written_keys(keyword.value) or dictionaries.get(getattr(keyword.value, "id", None))
        keywords += keys or []
        open_ended |= keys is None
    try:
        (signature.bind_partial if open_ended else signature.bind)(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return [str(error)]
    unknown = [name for name in keywords if name not in signature.parameters]
    return [f"nothing takes the argument {name!r}" for name in unknown if not told(function, name)]


def told(function, name):
    """Whether a function that takes any keyword speaks of this one, in its code or its docstring, or hands it on."""
    bases = [base for base in function.__mro__[1:] if from_library(base)] if inspect.isclass(function) else []
    for place in (function, *bases, *map(locate, HANDS_ON.get(getattr(function, "__qualname__", ""), ()))):
        if name in inspect.signature(place).parameters or name in unpacked(place):
            return True
        try:
            source = inspect.getsource(inspect.unwrap(place))
        except (OSError, TypeError):
            return True  # compiled: nothing can be said
        if re.search(rf"(?m)['\"`]{name}['\"`]|^\s*{name}\s*[(:]", source):
            return True
    return False


def unpacked(function):
    """The names that `**kwargs: Unpack[SomeTypedDict]` allows."""
    kinds = [p.annotation for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD]
    return {name for kind in kinds for one in typing.get_args(kind) for name in getattr(one, "__annotations__", {})}


def written_keys(node):
    """The keys of a dict that is written out, {"a": 1} or dict(a=1); None if it is not."""
    if isinstance(node, ast.Dict) and node.keys and all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in node.keys):
        return [key.value for key in node.keys]
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict" and not node.args and all(keyword.arg for keyword in node.keywords):
        return [keyword.arg for keyword in node.keywords]


def stands_for(owner):
    """The classes that a wrapper passes what it lacks on to: a PEFT model is asked as if it were the model inside."""
    return [locate("peft.LoraModel"), locate("transformers.LlamaForCausalLM")] if issubclass(owner, locate("peft.PeftModel")) else []


def sets(owner, attribute):
    """Whether a class gives its instances an attribute in its own code."""
    for one in owner.__mro__[:-1]:
        try:
            if re.search(rf"\bself\.{attribute}\b", inspect.getsource(one)):
                return True
        except (OSError, TypeError):
            return True
    return False


def from_library(thing):
    module = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
    return str(module).split(".")[0] in LIBRARIES


def locate(path):
    """The object of a dotted path."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ImportError(path)


# Commands


def check_commands(text, where, found, root):
    """The options of each `accelerate launch` and `trl` command, and that the configuration files it names are there."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["accelerate", "launch"]:
            allowed, words = launch_options(), words[: words.index("-m")] if "-m" in words else words
        elif words[:1] == ["trl"] and len(words) > 1:
            allowed = trl_options(words[1]) | launch_options() | {"--accelerate_config"}
        else:
            continue
        found.checked.append(" ".join(words[:2]))
        for word, value in zip(words, [*words[1:], ""]):
            if word.startswith("--") and word.split("=")[0] not in allowed:
                found.problems.append(f"{where}: {' '.join(words[:2])}: there is no option {word.split('=')[0]}")
            if word in ("--config_file", "--accelerate_config") and not (root / value).is_file():
                found.problems.append(f"{where}: there is no file {value}")


def launch_options():
    """The options of `accelerate launch`."""
    from accelerate.commands.launch import launch_command_parser

    return set(launch_command_parser()._option_string_actions)


def trl_options(stage):
    """The options of `trl sft` and its like: the fields of the dataclasses that its script reads."""
    return set(importlib.import_module(f"trl.scripts.{stage}").make_parser()._option_string_actions)


def main():
    """Check every page here."""
    results = [check(path, Path.cwd()) for path in pages(Path.cwd())]
    problems = [problem for result in results for problem in result.problems]
    print(*problems, f"{sum(len(result.checked) for result in results)} calls, {len(problems)} problems", sep="\n")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
