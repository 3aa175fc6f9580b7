"""An assignment: the exercises of one file in solutions/, their tests and their points."""

import ast
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from nbgrader.utils import is_grade, is_solution

from tools import colab
from tools.chapters import read_source
from tools.release import python_of, released


@dataclass(frozen=True)
class Test:
    """A test cell. shown: its source without the hidden tests."""
    id: str
    points: float
    source: str
    shown: str


@dataclass
class Exercise:
    """An answer and what it is worth. kind: "code" (tests give the points) or "text" (a person does)."""
    id: str
    title: str
    kind: str
    stub: str
    points: float = 0.0
    tests: list[Test] = field(default_factory=list)


@dataclass
class Assignment:
    """name: 06-dpo. setup: the code cells before the first exercise. answers: the names that the answers define."""
    name: str
    title: str
    setup: list[str]
    exercises: list[Exercise]
    answers: set[str]
    hash: str

    @property
    def points(self):
        return sum(exercise.points for exercise in self.exercises)

    @property
    def ids(self):
        """The nbgrader ids of its cells, by which a notebook is known to belong to it."""
        return {exercise.id for exercise in self.exercises} | self.test_ids

    @property
    def test_ids(self):
        return {test.id for test in self.tests}

    @property
    def tests(self):
        return [test for exercise in self.exercises for test in exercise.tests]

    def gave(self, id, source):
        """Is a code cell part of the notebook as it was released, and not the learner's own?"""
        return id in self.test_ids or source in self.setup or colab.unchanged(source)

    def hidden_in(self, text):
        """Does a text that a learner's code made repeat a line of the hidden tests? Such a text must not reach the feedback."""
        hidden = _lines(test.source for test in self.tests) - _lines(test.shown for test in self.tests)
        return any(line in text for line in hidden if len(line) > 15)


def load(path):
    """Read solutions/NN-name.md. A source that nbgrader would refuse is a ValueError that names the file."""
    text = path.read_text("utf8")
    notebook = read_source(text)
    try:
        shown = released(notebook)
        exercises, setup = _exercises(notebook, shown)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    answers = set().union(*(_names(cell) for cell in notebook.cells if cell.cell_type == "code" and is_solution(cell)))
    return Assignment(path.stem, _heading(notebook.cells[0].source), setup, exercises, answers, hashlib.sha256(text.encode()).hexdigest()[:16])


def load_all(folder):
    """{name: Assignment} of all in solutions/."""
    found = {path.stem: load(path) for path in sorted(Path(folder).glob("*.md"))}
    if not found:
        raise ValueError(f"{folder} has no exercises: it should be the course's solutions folder")
    return found


def _exercises(notebook, shown):
    """The exercises in order, and the code before the first of them."""
    exercises, setup, title = [], [], ""
    for cell, public in zip(notebook.cells, shown.cells, strict=True):
        if cell.cell_type == "markdown" and not is_solution(cell):
            title = _heading(cell.source) or title
        marks = cell.metadata.get("nbgrader", {})
        if is_solution(cell):
            points = float(marks["points"]) if is_grade(cell) else 0.0
            exercises.append(Exercise(marks["grade_id"], title, "text" if cell.cell_type == "markdown" else "code", public.source, points))
        elif is_grade(cell):
            if not exercises:
                raise ValueError(f"the test cell {marks['grade_id']!r} stands before any answer")
            test = Test(marks["grade_id"], float(marks["points"]), cell.source, public.source)
            exercises[-1].tests.append(test)
            exercises[-1].points += test.points
        elif cell.cell_type == "code" and not exercises:
            setup.append(cell.source)
    return exercises, setup


def _lines(sources):
    return {line.strip() for source in sources for line in source.splitlines()}


def _heading(text):
    """The last heading of a cell, without its brackets.

    >>> _heading("## 3. Implement the loss (core, 10 minutes, 3 points)")
    '3. Implement the loss'
    """
    found = re.findall(r"(?m)^##? (.+)$", text)
    return re.sub(r" \([^()]*points?\)$", "", found[-1]).removeprefix("Exercises: ") if found else ""


def _names(cell):
    """The names that a cell binds at its top level."""
    tree = ast.parse(python_of(cell))
    bound = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return bound | {node.id for statement in tree.body if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
                    for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
