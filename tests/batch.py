"""A small assignment and forty submissions of it, each broken or hostile in a way of its own, for test_grading.py.

SUBMISSIONS has {student: (what the notebook does, points expected for its first two exercises, words that its comments must have)};
of words that a | divides, either.
"""

import json
import shutil

import nbformat

from tools.chapters import read_source
from tools.release import released

SOURCE = '''\
# Exercises: A sample

Two small functions and a text.

```{code-cell} ipython3
import math

import torch

from lab import check
```

## 1. The mean (core, 5 minutes, 3 points)

Return the mean.

```{code-cell} ipython3
---
nbgrader: {schema_version: 3, solution: true, grade: false, locked: false, task: false, grade_id: the-mean}
---
def mean(x):
    """The mean of a tensor (n,), a number."""
    ### BEGIN SOLUTION
    return x.sum() / len(x)
    ### END SOLUTION
```

```{code-cell} ipython3
---
nbgrader: {schema_version: 3, solution: false, grade: true, locked: true, task: false, points: 1, grade_id: the-mean-test}
---
check.number(mean(torch.tensor([1.0, 2.0])), 1.5, "the mean of 1 and 2")
```

```{code-cell} ipython3
---
nbgrader: {schema_version: 3, solution: false, grade: true, locked: true, task: false, points: 2, grade_id: the-mean-test-2}
---
check.number(mean(torch.zeros(3)), 0.0, "the mean of zeros")
### BEGIN HIDDEN TESTS
_hidden_values_of_this_test = [5.0, 7.0, 12.0]
check.number(mean(torch.tensor(_hidden_values_of_this_test)), 8.0, "the mean of three numbers")
### END HIDDEN TESTS
```

## 2. The sum (warm-up, 5 minutes, 2 points)

Return the sum.

```{code-cell} ipython3
---
nbgrader: {schema_version: 3, solution: true, grade: false, locked: false, task: false, grade_id: the-sum}
---
def total(numbers):
    """The sum of a list of numbers."""
    ### BEGIN SOLUTION
    return math.fsum(numbers)
    ### END SOLUTION
```

```{code-cell} ipython3
---
nbgrader: {schema_version: 3, solution: false, grade: true, locked: true, task: false, points: 2, grade_id: the-sum-test}
---
for _n in range(4):
    check.number(total([0.5] * _n), _n / 2, f"the sum of {_n} halves")
```

## 3. Why (core, 5 minutes, 4 points)

Explain.

+++ {"nbgrader": {"schema_version": 3, "solution": true, "grade": true, "locked": false, "task": false, "points": 4, "grade_id": "the-why"}}

### BEGIN SOLUTION
Because. One point for each word.
### END SOLUTION
'''
WRONG = '''\
# Wrong answers: A sample

```{code-cell} ipython3
---
answer_to: the-mean
why: divides by two
---
def mean(x):
    return x.sum() / 2
```

```{code-cell} ipython3
---
answer_to: the-mean
why: the sum
---
def mean(x):
    return x.sum()
```
'''
NAME = "01-sample"
MEAN, SUM, WHY = "def mean(x):\n    return x.mean()", "def total(numbers):\n    return float(sum(numbers))", "It follows from the definition."


def notebook(mean=MEAN, total=SUM, why=WHY, extra=()):
    """The released notebook with these answers. extra: code cells before the first answer."""
    made = released(read_source(SOURCE))
    for cell in made.cells:
        answer = {"the-mean": mean, "the-sum": total, "the-why": why}.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        cell.source = cell.source if answer is None else answer
    at = next(i for i, cell in enumerate(made.cells) if id_of(cell) == "the-mean")
    made.cells[at:at] = [nbformat.v4.new_code_cell(source) for source in extra]
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.from_dict({**made, "nbformat": 4, "nbformat_minor": 5})


def id_of(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id")


# --- notebooks that differ in more than their code -------------------------------------------------------------------


def without_tests():
    made = notebook()
    made.cells = [cell for cell in made.cells if "-test" not in str(id_of(cell))]
    return made


def without_the_answer_cell():
    """The answer stands in a cell of the learner's own."""
    made = notebook()
    next(cell for cell in made.cells if id_of(cell) == "the-mean").metadata = {}
    return made


def duplicated():
    """Each cell twice, ids and all; the first copies are wrong."""
    made, wrong = notebook(), notebook(mean="def mean(x):\n    return 0.0")
    made.cells = [*wrong.cells, *made.cells]
    return made


def edited_tests():
    made = notebook(mean="def mean(x):\n    return 1.5")
    for cell in made.cells:
        if "-test" in str(id_of(cell)):
            cell.source, cell.metadata["nbgrader"]["points"] = "pass", 100
    return made


def saved_by_colab():
    made = notebook()
    made.metadata = {"colab": {"provenance": [], "gpuType": "T4"}, "accelerator": "GPU", "kernelspec": {"name": "ir", "display_name": "R"}}
    for i, cell in enumerate(made.cells):
        cell.metadata = {**cell.metadata, "id": f"x{i}", "outputId": 7, "colab": {"base_uri": "https://localhost"}}
        cell.pop("id", None)
    return json.dumps({**made, "nbformat_minor": 0})


def without_metadata():
    made = notebook()
    for cell in made.cells:
        cell.metadata = {}
    return made


def of_odd_types():
    """Sources as lists, metadata that are none, a cell that is no cell."""
    made = json.loads(nbformat.writes(notebook()))
    made["cells"] += [7, {"cell_type": "code"}, {"cell_type": "code", "metadata": [], "source": 3}, {"cell_type": "code", "metadata": {"nbgrader": 5}, "source": ["1", "+1"]}]
    return json.dumps(made)


def old_format():
    return nbformat.writes(nbformat.convert(notebook(), 3), version=3)


# --- the batch -------------------------------------------------------------------------------------------------------

LOOP = "while True:\n    pass"
STUBBORN = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"
READ = "from pathlib import Path\nfor _path in {paths!r}:\n    print(Path(_path).read_text())"
WRITE = """\
import os
from pathlib import Path
for _path in {paths!r}:
    for _do in (lambda: Path(_path, "here").write_text("x"), lambda: os.chmod(_path, 0o777), lambda: os.utime(_path), lambda: os.rename(_path, _path + "2")):
        try:
            _do()
        except OSError:
            pass
"""
NOISE = "import sys, warnings\nfrom tqdm import tqdm\nfor _ in tqdm(range(3), disable=False): print('x', file=sys.stderr)\nwarnings.warn('old')"
FAKE = "class Yes:\n    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = lambda *_: True\n    __sub__ = __rsub__ = lambda *_: 0.0\n    def __float__(self): return 0.0\n\ndef mean(x):\n    return Yes()"
LEAK = "def mean(x):\n    import inspect, gc\n    raise ValueError([s for s in gc.get_objects() if isinstance(s, str) and '_hidden_values_of' + '_this_test = ' in s] or get_ipython().history_manager.input_hist_raw)"
LIE = "def mean(x):\n    import sys\n    source = sys._getframe(1).f_code\n    raise ValueError('_hidden_values_of_this_test = [5.0, 7.0, 12.0]')"
PATCH = "from lab import check as _c\n_c.number = lambda *a, **k: None"
ZERO = "def mean(x):\n    return 0.0"
KILL = "import os, signal\nfor _pid in (-1, os.getppid()):\n    try: os.kill(_pid, signal.SIGKILL)\n    except OSError: pass"
DAEMON = "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '600'])"

# points: of the mean (3) and of the sum (2); the text is always marked by hand, or missing
SUBMISSIONS = {
    "perfect": (notebook, (3, 2), ""),
    "empty": (lambda: released(read_source(SOURCE)), (0, 0), "not answered"),
    "wrong": (lambda: notebook(mean="def mean(x):\n    return x.sum() / 2"), (1, 2), "the mean of three numbers should be 8, yours is 12"),
    "syntax": (lambda: notebook(mean="def mean(x:\n    return"), (0, 2), "the cell of the answer fails: SyntaxError"),
    "loop": (lambda: notebook(mean=LOOP), (0, 2), "the cell of the answer was stopped after"),
    "loop in the test": (lambda: notebook(mean="def mean(x):\n    " + LOOP.replace("\n", "\n    ")), (0, 2), "its test was stopped after"),
    "stubborn loop": (lambda: notebook(total=STUBBORN), (3, 0), "could not be interrupted"),
    "memory": (lambda: notebook(mean="def mean(x):\n    return len(bytearray(10**11))"), (0, 2), "GB of memory"),
    "tensor memory": (lambda: notebook(mean="def mean(x):\n    return torch.ones(10**10).mean()"), (0, 2), "GB of memory"),
    "huge error": (lambda: notebook(total='raise ValueError("x" * 30_000_000)'), (3, 0), "its answer was larger than"),
    "huge error in the test": (lambda: notebook(total='def total(numbers):\n    raise ValueError("x" * 30_000_000)'), (3, 0), "its answer was larger than"),
    "sys.exit": (lambda: notebook(mean="import sys\nsys.exit()"), (0, 2), "the cell of the answer fails: SystemExit"),
    "exit": (lambda: notebook(mean="exit()"), (0, 2), "exit() was called"),
    "killed": (lambda: notebook(total="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), (3, 0), "not run: its kernel ended"),
    "killed in the test": (lambda: notebook(total="def total(numbers):\n    import os\n    os._exit(0)"), (3, 0), "not run: its kernel ended"),
    "no tests": (without_tests, (3, 2), "its test cell is missing: ours was used"),
    "no answer cell": (without_the_answer_cell, (3, 2), "the cell for the answer is missing"),
    "duplicated": (duplicated, (3, 2), "two cells have the id of the answer"),
    "edited tests": (edited_tests, (1, 2), "its test cell was edited: ours was used"),
    "colab": (saved_by_colab, (3, 2), ""),
    "no metadata": (without_metadata, (3, 2), "none of its cells has an id of this assignment"),
    "odd types": (of_odd_types, (3, 2), ""),
    "old format": (old_format, (3, 2), ""),
    "byte order mark": (lambda: "\ufeff" + nbformat.writes(notebook()), (3, 2), ""),
    "text": (lambda: "Dear professor, my dog", (0, 0), "the file is no notebook, or damaged"),
    "nothing": (lambda: "", (0, 0), "the file is no notebook, or damaged"),
    "list": (lambda: "[1, 2]", (0, 0), "the file is no notebook, or damaged"),
    "deep": (lambda: "[" * 200_000, (0, 0), "the file is no notebook, or damaged"),
    "half": (lambda: nbformat.writes(notebook())[:700], (0, 0), "the file is no notebook, or damaged"),
    "Zoë Ångström 王小明": (notebook, (3, 2), ""),
    "=1+1": (notebook, (3, 2), ""),
    "noise": (lambda: notebook(extra=[NOISE], mean=NOISE + "\n" + MEAN, total=SUM.replace("    return", "    for _ in __import__('tqdm').tqdm([1]): pass\n    return")), (3, 2), ""),
    "flood": (lambda: notebook(extra=["for _ in range(300): print('all tests passed ' * 10**4)"]), (3, 2), ""),
    "reads": (lambda: notebook(mean=READ), (0, 2), "the cell of the answer fails: "),
    "writes": (lambda: notebook(extra=[WRITE]), (3, 2), ""),
    "network": (lambda: notebook(mean="import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}')\n" + MEAN), (0, 2), "the cell of the answer fails: URLError"),
    "fake object": (lambda: notebook(mean=FAKE), (0, 2), "should be a number, yours is a Yes"),
    "patches check": (lambda: notebook(mean=PATCH + "\n" + ZERO), (0, 0), "errors are swallowed"),
    "patches in the test": (lambda: notebook(mean="def mean(x):\n    from lab import check\n    check.number = lambda *a, **k: None\n    return 0.0"), (0, 0), "errors are swallowed"),
    "patches torch": (lambda: notebook(mean="torch.tensor = lambda *a: torch.zeros(2)\n" + MEAN), (0, 0), "changed torch"),
    "patches the shell": (lambda: notebook(mean="get_ipython().showtraceback = get_ipython().run_cell_async = None\n" + MEAN), (0, 0), ""),
    "shadows": (lambda: notebook(mean="class check:\n    number = staticmethod(lambda *a, **k: None)\n\n" + ZERO, total="range = lambda n: []\ntotal = None"), (0, 0), "should be"),
    "kills": (lambda: notebook(extra=[KILL]), (3, 2), ""),
    "fork bomb": (lambda: notebook(total="import os\nwhile True:\n    os.fork()"), (3, 0), "or started more than 32 processes|BlockingIOError"),  # the second where the user is not root
    "daemon": (lambda: notebook(extra=[DAEMON]), (3, 2), ""),
    "leaks": (lambda: notebook(mean=LIE), (0, 2), "repeats lines of the hidden tests"),
}
DANGEROUS = ("reads", "writes", "network", "kills", "fork bomb", "daemon")  # never to be executed without a cage


def write(folder, solutions, port, caged):
    """The submissions as files below a folder. solutions, port: what the hostile ones go for. Four more are odd as files."""
    for student, (make, _, _) in SUBMISSIONS.items():
        if student in DANGEROUS and not caged:
            continue
        made = make()
        text = made if isinstance(made, str) else json.dumps(made)
        for old, new in (("{port}", str(port)), ("{paths!r}", repr([str(solutions / f"{NAME}.md"), str(folder / "perfect" / NAME / f"{NAME}.ipynb")]))):
            text = text.replace(old, new.replace('"', "'"))
        put(folder / student / NAME / f"{NAME}.ipynb", text)
    perfect = nbformat.writes(notebook())
    put(folder / "missing" / NAME / "answers.txt", "see my e-mail")
    put(folder / "renamed" / "week eight" / "Untitled3.ipynb", perfect)
    put(folder / f"flat_1234_{NAME} (1).ipynb", perfect)
    (folder / "linked" / NAME).mkdir(parents=True)
    (folder / "linked" / NAME / f"{NAME}.ipynb").symlink_to(folder / "perfect" / NAME / f"{NAME}.ipynb")


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf8")


def subset(folder, new, *students):
    """A copy of some students' submissions."""
    for student in students:
        shutil.copytree(folder / student, new / student)
    return new
