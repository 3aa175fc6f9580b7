"""Grading: a batch of broken and hostile notebooks costs each its own points and nobody else's; and the release of notebooks."""

import csv
import doctest
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import psutil
import pytest

import batch
from tools import grade, release
from tools.grading import assemble, assignment, guard, kernel, report, run, submissions

ROOT = Path(__file__).parent.parent
LIMITS = kernel.Limits(cell=15, notebook=120, memory=2**30)
LAYERS = kernel.layers()
CAGED = LAYERS == ["namespaces", "landlock"]
caged = pytest.mark.skipif(not CAGED, reason="this system has no namespaces or no Landlock")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A folder with the sample's solutions."""
    root = tmp_path_factory.mktemp("course")
    (root / "solutions" / "wrong").mkdir(parents=True)
    (root / "solutions" / f"{batch.NAME}.md").write_text(batch.SOURCE, "utf8")
    (root / "solutions" / "wrong" / f"{batch.NAME}.md").write_text(batch.WRONG, "utf8")
    return root


@pytest.fixture(scope="module")
def sample(course):
    return assignment.load(course / "solutions" / f"{batch.NAME}.md")


@pytest.fixture(scope="module")
def graded(course):
    """The whole batch, graded once: the folder, what came out, what the server heard, the files around it before and after, and
    what is left of the scratch folders."""
    temporary = tempfile.mkdtemp()
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        batch.write(course / "submissions", course / "solutions", server.getsockname()[1], CAGED)
        before = state(course, "out")
        patch.setattr(tempfile, "tempdir", temporary)
        patch.setattr(run, "grade", less_time_for_loops(run.grade))
        results = grade.batch(course / "submissions", course / "out", course / "solutions", LIMITS)
        try:
            server.accept()
            called = True
        except TimeoutError:
            called = False
    left = os.listdir(temporary)
    shutil.rmtree(temporary)
    return {"results": results, "called": called, "before": before, "after": state(course, "out"), "out": course / "out", "left": left}


def less_time_for_loops(grade):
    """Cells that never end are stopped sooner than a slow machine needs for the others."""
    def wrapped(assignment, cells, limits, *rest):
        loops = any("while True:" in source for _, _, source in cells)
        return grade(assignment, cells, replace(limits, cell=5) if loops else limits, *rest)
    return wrapped


def state(root, *but):
    """Everything that can be seen of the files below a folder: names, bytes, rights, times."""
    paths = [path for path in sorted(root.rglob("*")) if path.relative_to(root).parts[0] not in but]
    return [(str(path), path.lstat().st_mode, path.lstat().st_mtime_ns if path.is_file() else 0,
             hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "") for path in paths]


def rows(out):
    with open(out / "scores.csv", encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


# --- the batch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", batch.SUBMISSIONS)
def test_each_submission_gets_its_points_and_a_reason(graded, student):
    if student in batch.DANGEROUS and not CAGED:
        pytest.skip("this system has no cage for it")
    _, points, words = batch.SUBMISSIONS[student]
    mine = next(result["rows"] for result in graded["results"] if result["student"] == student)
    assert [row["points"] for row in mine[:2]] == list(points), [row["comment"] for row in mine]
    said = "; ".join(row["comment"] for row in mine)
    assert any(either in said for either in words.split("|")), said


@caged
def test_the_batch_is_large_enough_and_complete(graded):
    students = {result["student"] for result in graded["results"]}
    assert len(students) == len(batch.SUBMISSIONS) + 4 >= 40 and set(batch.SUBMISSIONS) < students


@pytest.mark.parametrize("student, points, words", [
    ("missing", (0, 0), "no notebook of this assignment was handed in"), ("renamed", (3, 2), ""),
    ("flat_1234", (3, 2), ""), ("linked", (0, 0), "no notebook of this assignment was handed in")])
def test_odd_files(graded, student, points, words):
    mine = next(result["rows"] for result in graded["results"] if result["student"] == student)
    assert [row["points"] for row in mine[:2]] == list(points) and words in mine[0]["comment"]


def test_every_lost_point_has_a_reason(graded):
    assert [row for row in rows(graded["out"]) if row["points"] != row["max_points"] and not row["comment"]] == []


@caged
def test_nothing_around_the_batch_changed_and_nobody_called(graded):
    assert graded["before"] == graded["after"] and not graded["called"]


@caged
def test_no_process_and_no_scratch_folder_is_left(graded):
    assert not [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "600"]]
    assert not kernel.LIVING and not graded["left"]


def test_texts_wait_for_a_person(graded):
    waiting = [row for row in rows(graded["out"]) if row["comment"].startswith(run.BY_HAND)]
    assert {row["exercise"] for row in waiting} == {"the-why"} and {row["points"] for row in waiting} == {""}
    assert [row["points"] for row in rows(graded["out"]) if row["student"] == "empty"] == ["0", "0", "0"]
    assert len(waiting) == sum(1 for line in open(graded["out"] / "marks.csv", encoding="utf8")) - 1


def test_no_page_shows_a_hidden_test_or_runs_anything(graded):
    pages = {path.stem: path.read_text("utf8") for path in (graded["out"] / "feedback").glob("*.html")}
    assert len(pages) == len({result["student"] for result in graded["results"]})
    assert [student for student, page in pages.items() if "_hidden_values_of_this_test" in page.replace(batch.LIE.replace("'", "&#x27;"), "")] == []
    assert "<script" not in "".join(pages.values()) and "http" not in pages["perfect"]
    assert "5 of 9 points" in pages["perfect"] and "def mean(x):" in pages["perfect"] and "the mean of three numbers" in pages["wrong"]


def test_a_spreadsheet_takes_no_name_for_a_formula(graded):
    assert {row["student"] for row in rows(graded["out"])} >= {"'=1+1", "Zoë Ångström 王小明"}


def test_unusual_code_is_named_for_the_instructor(graded):
    looks = {result["student"]: result["look"] for result in graded["results"]}
    assert "_getframe" in looks["leaks"] and "get_ipython" in looks["patches the shell"] and looks["perfect"] == looks["empty"] == []


# --- again, interrupted, by hand -------------------------------------------------------------------------------------

SOME = ("perfect", "wrong", "text")


@pytest.fixture
def few(graded, course, tmp_path):
    """A function that grades three of the students into a folder of this test's own."""
    folder = batch.subset(course / "submissions", tmp_path / "submissions", *SOME)
    return lambda **options: grade.batch(folder, tmp_path / "out", course / "solutions", LIMITS, **options)


def test_grading_twice_gives_the_same_scores(few, graded, tmp_path):
    few(fresh=True)
    assert rows(tmp_path / "out") == [row for row in rows(graded["out"]) if row["student"] in SOME]


def test_a_second_run_takes_what_is_there_and_grades_what_changed(few, graded, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    for name in ("results", grade.OURS):  # as if the batch had been interrupted after these
        source = graded["out"] / name
        if source.is_dir():
            (tmp_path / "out" / name).mkdir()
            [(tmp_path / "out" / name / path.name).write_bytes(path.read_bytes()) for path in source.iterdir()]
        else:
            grade._store(tmp_path / "out" / name, {"scores": ""})
    monkeypatch.setattr(run, "grade", lambda *_: pytest.fail("this was graded before"))
    few()
    assert "0 of them now" in capsys.readouterr().out
    batch.put(tmp_path / "submissions" / "perfect" / batch.NAME / f"{batch.NAME}.ipynb", "not a notebook any more")
    few()
    assert "1 of them now" in capsys.readouterr().out
    assert [row["points"] for row in rows(tmp_path / "out") if row["student"] == "perfect"] == ["0", "0", "0"]


def points_by_hand(out, student, exercise, points, comment=""):
    text = (out / "marks.csv").read_text("utf8").splitlines()
    text = [line for line in text if not line.startswith(f"{student},{batch.NAME},{exercise},")]
    (out / "marks.csv").write_text("\n".join([*text, f"{student},{batch.NAME},{exercise},{points},{comment}"]) + "\n", "utf8")


def test_points_by_hand_are_merged_and_stay(few, tmp_path, monkeypatch):
    few()
    points_by_hand(tmp_path / "out", "perfect", "the-why", 2.5, "the last step is missing")
    points_by_hand(tmp_path / "out", "wrong", "the-mean", 2, "nearly")
    monkeypatch.setattr(run, "grade", lambda *_: pytest.fail("marks need no new grading"))
    for _ in range(2):
        few()
    marked = {(row["student"], row["exercise"]): (row["points"], row["comment"]) for row in rows(tmp_path / "out")}
    assert marked["perfect", "the-why"] == ("2.5", "the last step is missing") and marked["wrong", "the-mean"] == ("2", "nearly")
    assert "2.5 of 4 points" in (tmp_path / "out" / "feedback" / "perfect.html").read_text("utf8")
    points_by_hand(tmp_path / "out", "perfect", "the-why", 40)
    with pytest.raises(ValueError, match="marks.csv, line .*a number from 0 to 4, not '40'"):
        few()


def test_a_folder_that_is_not_ours_is_not_written_into(few, tmp_path, monkeypatch):
    batch.put(tmp_path / "out" / "gradebook.db", "precious")
    with pytest.raises(ValueError, match="did not write. Choose another folder, or add FORCE=1"):
        few()
    monkeypatch.setattr(run, "grade", lambda one, *_: run.nothing(one, "not now"))
    few(force=True)
    assert (tmp_path / "out" / "gradebook.db").read_text() == "precious"
    scores = tmp_path / "out" / "scores.csv"
    scores.write_text(scores.read_text("utf8").replace("not now", "I changed this"), "utf8")
    with pytest.raises(ValueError, match="scores.csv was edited"):
        few()


def test_a_grader_that_fails_is_nobodys_zero(few, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no kernel today")
    monkeypatch.setattr(run, "grade", broken)
    few()
    assert "could not be graded, run again: perfect" in capsys.readouterr().out
    assert [row["points"] for row in rows(tmp_path / "out") if row["student"] == "perfect"] == ["", "", ""]
    assert [path for path in (tmp_path / "out" / "results").iterdir() if "no kernel" in path.read_text("utf8")] == []


def test_the_command_says_what_is_wrong(course, tmp_path):
    for folder, words in ((tmp_path / "nowhere", "SUBMISSIONS should be the one with the notebooks"), (tmp_path, "holds no notebook of any assignment")):
        with pytest.raises(SystemExit, match=words):
            grade.main([str(folder), str(tmp_path / "out"), "--solutions", str(course / "solutions")])


# --- the cage --------------------------------------------------------------------------------------------------------

ESCAPES = """\
import os, socket, sys
def tried(name, action):
    try:
        print(name, action() is None or True)
    except OSError:
        print(name, False)
tried("read", lambda: open({secret!r}).read())
tried("write", lambda: open({secret!r}, "a"))
tried("chmod", lambda: os.chmod({secret!r}, 0o777))
tried("list", lambda: os.listdir({folder!r}))
tried("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
tried("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port})))
tried("unix", lambda: socket.socket(socket.AF_UNIX).connect({unix!r}))
tried("abstract", lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + {unix!r}))
tried("names", lambda: open("/proc/{pid}/cmdline").read())
tried("signal", lambda: os.kill({pid}, 0))
tried("hidden", lambda: open({hidden!r}).read())
tried("scratch", lambda: open("file", "w").write("x"))
"""


ALL = {"read", "hidden", "write", "chmod", "list", "tcp", "udp", "unix", "abstract", "names", "signal"}


@pytest.mark.parametrize("layers, kept", [(["namespaces", "landlock"], ALL), (["namespaces"], ALL), (["landlock"], {"hidden", "read", "write", "list", "tcp"}), ([], set())])
def test_each_layer_keeps_out_what_it_says(layers, kept, tmp_path):
    if not set(layers) <= set(LAYERS):
        pytest.skip(f"this system has no {' and '.join(layers)}")
    secret, scratch, hidden, unix = tmp_path / "secret", tmp_path / "scratch", tmp_path / "hidden" / "answers", str(tmp_path / "socket")
    secret.write_text("x"), scratch.mkdir(), batch.put(hidden, "x")
    with socket.create_server(("127.0.0.1", 0)) as server, listening(unix), listening("\0" + unix):
        code = ESCAPES.format(secret=str(secret), folder=str(hidden.parent), hidden=str(hidden), port=server.getsockname()[1], pid=os.getpid(), unix=unix)
        found = in_cage(scratch, code, layers, [str(hidden.parent)])
    said = dict(line.split() for line in found.stdout.splitlines())
    assert said.pop("scratch") == "True" and (scratch / "file").read_text() == "x", found.stderr
    assert kept <= {name for name, worked in said.items() if worked == "False"}
    if not layers:
        assert set(said) == ALL and "False" not in said.values()  # the check itself sees an open cage


def listening(address):
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    return server


def in_cage(scratch, code, layers, hide=()):
    cage = {"scratch": str(scratch), "read": kernel.readable(), "hide": hide, "layers": layers, "memory": 2**30, "seconds": 60}
    return subprocess.run([sys.executable, kernel.CAGE, sys.executable, "-c", code], cwd=scratch, input=json.dumps(cage), capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are adopted on Linux only")
@pytest.mark.parametrize("layers", [["namespaces", "landlock"], ["landlock"], []])
def test_a_daemon_ends_with_its_cage(layers, tmp_path):
    if not set(layers) <= set(LAYERS):
        pytest.skip(f"this system has no {' and '.join(layers)}")
    name = f"import time; time.sleep(600)  # {tmp_path}"
    code = f"import os, sys\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        os.execv(sys.executable, [sys.executable, '-c', {name!r}])\n    os._exit(0)\nos.wait()"
    found = in_cage(tmp_path, code, layers)
    assert found.returncode == 0, found.stderr
    assert not [process for process in psutil.process_iter(["cmdline"]) if name in (process.info["cmdline"] or [])]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM")
def test_a_batch_that_is_terminated_leaves_no_scratch_folder(course, tmp_path):
    submissions, temporary = tmp_path / "submissions", tempfile.mkdtemp()
    batch.put(submissions / "loop" / batch.NAME / "x.ipynb", nbformat.writes(batch.notebook(mean=batch.LOOP)))
    command = [sys.executable, "-m", "tools.grade", submissions, tmp_path / "out", "--solutions", course / "solutions", "--seconds", "120"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": temporary}, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not os.listdir(temporary) and time.monotonic() < until:
        time.sleep(0.1)
    assert os.listdir(temporary)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=60)[1] and os.listdir(temporary) == []
    os.rmdir(temporary)


def test_the_summary_says_what_is_not_kept_out():
    assert all("NOT" not in kernel.described(layers) for layers in (["namespaces", "landlock"], ["namespaces"]))
    assert all("NOT" in kernel.described(layers) for layers in ([], ["landlock"]))


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [assignment, guard, report, submissions], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("path, owner", [
    ("ann/01-sample/notebook.ipynb", ("ann", "01-sample")), ("ann/01-sample.ipynb", ("ann", "01-sample")),
    ("ann_01-sample.ipynb", ("ann", "01-sample")), ("doejane_123_456_01-Sample-1.ipynb", ("doejane_123_456", "01-sample")),
    ("01-sample/ann.ipynb", ("ann", "01-sample")), ("Ann Lee_77_assignsubmission_file_/Copy of 01-sample.ipynb", ("Ann Lee_77_assignsubmission_file_", "01-sample")),
    ("ann/Untitled.ipynb", ("ann", "")), ("01-sample.ipynb", ("", "01-sample"))])
def test_whose_notebook_is_which_file(path, owner):
    assert submissions._owner(Path(path), ["01-sample"]) == owner


@pytest.mark.parametrize("text, words", [(None, "cannot be read"), ("x" * 100, "larger than 0 MB"), ("{}", "no notebook"), ('{"cells": 3}', "no notebook")])
def test_a_file_that_is_no_notebook_is_one_sentence(tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(submissions, "LARGEST", 50)
    if text is not None:
        (tmp_path / "x.ipynb").write_text(text)
    with pytest.raises(ValueError, match=words):
        submissions.read(tmp_path / "x.ipynb")


def test_tests_are_always_ours_and_stand_after_their_answer(sample):
    cells = [("code", "the-mean", "mean = 1"), ("code", "the-mean-test", "pass"), ("code", "", "x = 1"), ("code", "the-mean", "mean = 2")]
    steps = assemble.plan(sample, cells).steps
    assert [step.source if step.test is None else step.test.id for step in steps] == [
        "mean = 1", "x = 1", "mean = 2", "the-mean-test", "the-mean-test-2", "the-sum-test"]


def test_points_and_titles_come_from_the_source(sample):
    assert [(exercise.id, exercise.title, exercise.kind, exercise.points) for exercise in sample.exercises] == [
        ("the-mean", "1. The mean", "code", 3), ("the-sum", "2. The sum", "code", 2), ("the-why", "3. Why", "text", 4)]
    assert sample.points == 9 and sample.answers == {"mean", "total"} and len(sample.setup) == 1


# --- the release -----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(course, tmp_path, monkeypatch):
    """A course of its own, released."""
    monkeypatch.delenv("LAB_REPOSITORY", raising=False)
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / f"{batch.NAME}.md").write_text(batch.SOURCE, "utf8")
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/course"\n')
    release.build(tmp_path)
    return tmp_path


def test_a_release_has_no_answers_and_no_hidden_tests(project):
    made = nbformat.read(project / "exercises" / f"{batch.NAME}.ipynb", as_version=4)
    nbformat.validate(made)
    text = "".join(cell.source for cell in made.cells)
    assert not any(word in text for word in ("fsum", "Because", "hidden", "BEGIN", "END"))
    assert text.count("raise NotImplementedError()") == 2 and assemble.UNANSWERED in text and "the mean of zeros" in text
    assert "git+https://example.org/course" in next(cell.source for cell in made.cells if cell.cell_type == "code")
    assert not any(cell.outputs for cell in made.cells if cell.cell_type == "code")
    assert [cell.metadata["editable"] for cell in made.cells if "-test" in str(batch.id_of(cell))] == [False] * 3


def test_a_release_is_the_same_each_time_and_a_change_is_noticed(project):
    path = project / "exercises" / f"{batch.NAME}.ipynb"
    first = path.read_bytes()
    release.build(project)
    assert path.read_bytes() == first and release.check(project) == []
    path.write_bytes(first.replace(b"Return the mean", b"Return a mean"))
    batch.put(project / "exercises" / "99-gone.ipynb", "{}")
    batch.put(project / "solutions" / "02-new.md", batch.SOURCE.replace("the-", "another-"))
    assert release.check(project) == ["01-sample.ipynb: differs from its source", "02-new.ipynb: not released yet", "99-gone.ipynb: no source"]
    release.build(project)
    assert release.check(project) == [] and path.read_bytes() == first


@pytest.mark.parametrize("old, new, words", [
    ("    ### END SOLUTION\n```\n\n```{code-cell} ipython3\n---\nnbgrader: {schema_version: 3, solution: false, grade: true, locked: true, task: false, points: 1", "```\n\n```{code-cell} ipython3\n---\nnbgrader: {schema_version: 3, solution: false, grade: true, locked: true, task: false, points: 1", "BEGIN SOLUTION and END SOLUTION should stand in turn"),
    ("grade_id: the-sum}", "grade_id: the-mean}", "Duplicate grade id"), ("### END HIDDEN TESTS\n", "", "BEGIN HIDDEN TESTS and END"),
    ("    ### BEGIN SOLUTION\n", "", "END SOLUTION"), ("    ### BEGIN SOLUTION\n    return x", "  ### BEGIN SOLUTION\n    return x", "no Python")])
def test_a_mistake_in_a_source_is_named(project, old, new, words):
    source = project / "solutions" / f"{batch.NAME}.md"
    assert old in batch.SOURCE
    source.write_text(batch.SOURCE.replace(old, new, 1), "utf8")
    with pytest.raises(ValueError, match=words):
        release.compose(source, "x")
