"""Every exercise notebook: its solution is right, its stub is worth nothing, its wrong answers are caught, and it runs as on Colab.

The answers are executed here as plain Python, one after the other in this process: a kernel for each would take an hour. Each
notebook's solution also goes once through the real path, a caged kernel.
"""

import ast
import contextlib
import io
import re
import sys
import tomllib
import warnings
from pathlib import Path

import matplotlib
import nbformat
import pytest
from nbgrader.utils import is_solution

import batch
from tools import release
from tools.chapters import exercises, read_source
from tools.grading import assignment, kernel, run
from tools.release import python_of

matplotlib.use("Agg")  # figures are made and not shown
ROOT = Path(__file__).parent.parent
SOURCES = release.sources(ROOT)
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


class Answers:
    """One assignment's cells, to be executed in the order and with the names that a notebook gives them."""

    def __init__(self, source):
        self.work = assignment.load(source)
        self.notebook = read_source(source.read_text("utf8"))
        self.solutions = {batch.id_of(cell): cell.source for cell in self.notebook.cells if cell.cell_type == "code" and is_solution(cell)}
        self.given = {}
        for cell in self.work.setup:
            execute(cell, self.given)

    def points(self, exercise, answer):
        """(points, first complaint) of an answer to an exercise, with nothing before it but the set-up."""
        space, complaints, points = dict(self.given), [], 0.0
        for source, worth in [(answer, 0.0), *((test.source, test.points) for test in exercise.tests)]:
            try:
                execute(source, space)
                points += worth
            except Exception as error:
                complaints.append(f"{type(error).__name__}: {error}")
        return points, complaints[0] if complaints else ""


def execute(source, space):
    """A code cell, silently. Anything on stderr is an error too: a page and nbgrader show it to the learner."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        exec(compile(python_of(nbformat.v4.new_code_cell(source)), "<cell>", "exec"), space)
    assert not said.getvalue(), f"the cell wrote to stderr: {said.getvalue()[:200]}"


def wrong_answers(source):
    """(exercise id, why it is wrong, code) of each cell of solutions/wrong/NN-name.md."""
    path = source.parent / "wrong" / source.name
    cells = read_source(path.read_text("utf8")).cells if path.is_file() else []
    return [(cell.metadata["answer_to"], cell.metadata["why"], cell.source) for cell in cells if cell.cell_type == "code"]


LOADED = {}


def answers(source):
    """Loaded once for all tests of a notebook."""
    if source not in LOADED:
        LOADED[source] = Answers(source)
    return LOADED[source]


def code(source):
    return [exercise for exercise in answers(source).work.exercises if exercise.kind == "code"]


# --- what must hold --------------------------------------------------------------------------------------------------


def weak_solutions(source):
    """Exercises whose own solution does not get all points."""
    found = {exercise.id: answers(source).points(exercise, answers(source).solutions[exercise.id]) for exercise in code(source)}
    return {exercise.id: found[exercise.id] for exercise in code(source) if found[exercise.id] != (exercise.points, "")}


def cheap_stubs(source):
    """Exercises for which the released notebook gets points without an answer."""
    found = {exercise.id: answers(source).points(exercise, exercise.stub)[0] for exercise in code(source)}
    return {id: points for id, points in found.items() if points}


def missed_mistakes(source):
    """Wrong answers that lose nothing, or not all where there is one test only: (exercise, why it is wrong, points)."""
    exercises, missed = {exercise.id: exercise for exercise in code(source)}, []
    for id, why, answer in wrong_answers(source):
        if id not in exercises:
            missed.append((id, why, "there is no such exercise"))
            continue
        points, complaint = answers(source).points(exercises[id], answer)
        if points == exercises[id].points or points and len(exercises[id].tests) == 1:
            missed.append((id, why, f"{points:g} of {exercises[id].points:g} points"))
        if complaint.startswith(("SyntaxError", "NameError")):
            missed.append((id, why, f"it is not even Python: {complaint}"))
    return missed


def levels(source):
    """{title: (level, minutes, points)} from the headings."""
    return {title: rest for title, *rest in exercises(source.read_text("utf8"))}


@each_source
def test_a_solution_gets_full_marks(source):
    assert weak_solutions(source) == {}


@each_source
def test_the_released_stub_gets_nothing(source):
    assert cheap_stubs(source) == {}


@each_source
def test_wrong_answers_are_caught(source):
    assert missed_mistakes(source) == []


@each_source
def test_each_core_exercise_has_two_wrong_answers(source):
    given, level = [id for id, _, _ in wrong_answers(source)], levels(source)
    assert [exercise.id for exercise in code(source) if level[exercise.title][0] == "core" and given.count(exercise.id) < 2] == []


@each_source
def test_headings_are_right_about_level_time_and_points(source):
    level, work = levels(source), answers(source).work
    titles = dict.fromkeys(exercise.title for exercise in work.exercises)  # one heading may have a function and a text
    counted = {title: sum(exercise.points for exercise in work.exercises if exercise.title == title) for title in titles}
    assert counted == {title: points for title, (_, _, points) in level.items()}
    assert {"warm-up", "core", "stretch"} == {each for each, _, _ in level.values()}
    assert 5 <= len(level) <= 9 and 55 <= sum(minutes for _, minutes, _ in level.values()) <= 95


@each_source
def test_each_exercise_has_a_hint_and_each_code_exercise_hidden_tests(source):
    text = source.read_text("utf8")
    assert text.count("<details>") >= len(levels(source))
    assert [exercise.id for exercise in code(source) if all(test.source == test.shown for test in exercise.tests)] == []
    assert not re.search(r"\{(eq|ref|numref|doc|term|cite:\w+|prf:ref)\}`|^:::|^```\{(?!code-cell)", text, re.M), "Colab shows plain Markdown only"


@each_source
def test_it_runs_from_top_to_bottom_without_nbgrader(source, monkeypatch):
    """As on Colab: the released cells in their order, with the answers filled in, and the hidden tests gone."""
    made = nbformat.reads(release.compose(source, "https://example.org/course"), as_version=4)
    for module in [name for name in sys.modules if name.split(".")[0] in ("nbgrader", "tools")]:
        monkeypatch.setitem(sys.modules, module, None)
    space = {"__name__": "__main__"}
    for cell in made.cells:
        if cell.cell_type == "code":
            execute(answers(source).solutions.get(batch.id_of(cell), cell.source), space)


@each_source
def test_it_imports_only_what_the_package_brings(source):
    """On Colab nothing else is installed for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["dependencies"]
    brought = {re.match(r"[\w-]+", name)[0].replace("-", "_") for name in project} | {"lab", "sklearn"} | sys.stdlib_module_names
    cells = [cell for cell in read_source(source.read_text("utf8")).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(python_of(cell)))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names] + [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert names and {name.split(".")[0] for name in names} <= brought


@each_source
def test_the_real_grader_gives_the_solution_full_marks(source):
    work, notebook = answers(source).work, answers(source).notebook
    cells = [(cell.cell_type, batch.id_of(cell) or "", cell.source) for cell in notebook.cells]
    rows = run.grade(work, cells, kernel.Limits(cell=60), kernel.layers(), hide=[ROOT / "solutions"])
    assert [(row["exercise"], row["points"], row["comment"]) for row in rows] == [
        (exercise.id, *((None, run.BY_HAND) if exercise.kind == "text" else (exercise.points, ""))) for exercise in work.exercises]


def test_exercises_are_what_a_release_would_write():
    assert release.check(ROOT) == [], "run `make release` and commit the result"


def test_ids_are_used_once_in_the_whole_course():
    ids = [id for source in SOURCES for id in answers(source).work.ids]
    assert sorted(ids) == sorted(set(ids))


def test_every_chapter_has_its_exercises_and_its_wrong_answers():
    chapters = {path.stem for path in (ROOT / "chapters").glob("*.md")}
    assert {source.stem for source in SOURCES} == chapters
    assert {path.stem for path in (ROOT / "solutions" / "wrong").glob("*.md")} == chapters


# --- each check goes red ---------------------------------------------------------------------------------------------


@pytest.fixture
def sample(tmp_path):
    """A function that writes the sample with something replaced."""
    def write(old="", new="", wrong=batch.WRONG):
        (tmp_path / "wrong").mkdir(exist_ok=True)
        source = tmp_path / f"{batch.NAME}.md"
        assert old in batch.SOURCE
        source.write_text(batch.SOURCE.replace(old, new) if old else batch.SOURCE, "utf8")
        (tmp_path / "wrong" / source.name).write_text(wrong, "utf8")
        LOADED.pop(source, None)
        return source
    return write


def test_a_good_sample_passes(sample):
    source = sample()
    assert weak_solutions(source) == cheap_stubs(source) == {} and missed_mistakes(source) == []


def test_a_wrong_solution_is_noticed(sample):
    assert weak_solutions(sample("x.sum() / len(x)", "x.sum() / 2")) == {"the-mean": (1.0, "AssertionError: the mean of three numbers should be 8, yours is 12")}


def test_a_noisy_solution_is_noticed(sample):
    assert "stderr" in weak_solutions(sample("return math.fsum", "import sys; print(1, file=sys.stderr); return math.fsum"))["the-sum"][1]


def test_a_test_that_tests_nothing_is_noticed(sample):
    assert cheap_stubs(sample("for _n in range(4):", "for _n in range(0):")) == {"the-sum": 2.0}


def test_a_wrong_answer_that_passes_is_noticed(sample):
    source = sample(wrong=batch.WRONG.replace("x.sum() / 2", "x.mean()"))
    assert missed_mistakes(source) == [("the-mean", "divides by two", "3 of 3 points")]


def test_a_wrong_answer_that_is_no_answer_is_noticed(sample):
    source = sample(wrong=batch.WRONG.replace("x.sum() / 2", "y").replace("answer_to: the-mean\nwhy: the sum", "answer_to: gone\nwhy: the sum"))
    assert [complaint for _, _, complaint in missed_mistakes(source)] == ["it is not even Python: NameError: name 'y' is not defined", "there is no such exercise"]
