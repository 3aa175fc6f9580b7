"""The way to Colab: the buttons' addresses, the one place that they come from, and the cell that installs the package there."""

import ast
import doctest
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from lab import size
from tools import chapters, colab, notebooks, pages
from tools.release import python_of

ROOT = Path(__file__).parent.parent
SOURCES = chapters.sources(ROOT)
each_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
OURS = "https://github.com/you/course"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv(colab.VARIABLE, raising=False)
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{OURS}"\n')
    return tmp_path


def test_examples_in_docstrings():
    result = doctest.testmod(colab)
    assert result.attempted and not result.failed


def test_the_address_stands_in_one_place():
    owner = colab.repository(ROOT).removeprefix("https://github.com/").split("/")[0]
    holders = [path for folder in ("tools", "src", "book", "chapters", "solutions") for path in (ROOT / folder).rglob("*")
               if path.suffix in (".py", ".md") and f"github.com/{owner}" in path.read_text("utf8")]
    assert holders == []


def test_the_environment_goes_before_pyproject(project, monkeypatch):
    assert colab.repository(project) == OURS
    monkeypatch.setenv(colab.VARIABLE, "https://github.com/me/fork")
    assert colab.repository(project) == "https://github.com/me/fork"
    monkeypatch.setenv(colab.VARIABLE, "  ")
    assert colab.repository(project) == OURS


@pytest.mark.parametrize("address, expected", [
    (OURS, "you/course/blob/main"), (f"{OURS}/", "you/course/blob/main"), (f"{OURS}.git", "you/course/blob/main"),
    (f"{OURS}/tree/work", "you/course/blob/work"), ("https://github.com/you/my.course", "you/my.course/blob/main")])
def test_a_link_leads_to_the_notebook_on_a_branch(address, expected):
    assert colab.link(address, "chapters/01-a.ipynb") == f"https://colab.research.google.com/github/{expected}/chapters/01-a.ipynb"


@pytest.mark.parametrize("address", ["https://gitlab.com/you/course", "https://github.com/you", "git@github.com:you/course.git", "course"])
def test_without_github_there_is_no_button(project, monkeypatch, address):
    monkeypatch.setenv(colab.VARIABLE, address)
    assert colab.link(address, "a.ipynb") == "" == pages._button(project, "Open in Colab", "a.ipynb")


def buttons(text):
    return re.findall(r"\{bdg-link-primary\}`[^<`]+ <https://colab\.research\.google\.com/github/([^>]+)>`", text)


@each_chapter
def test_each_chapter_page_has_a_button_for_itself_and_for_its_exercises(source, monkeypatch):
    monkeypatch.setenv(colab.VARIABLE, "https://github.com/me/fork/tree/autumn")
    page = pages.chapter(source.read_text("utf8"), source, chapters.all_values(ROOT))
    expected = [f"{folder}/{source.stem}.ipynb" for folder in ("chapters", "exercises")]
    assert buttons(page.cells[0].source) == [f"me/fork/blob/autumn/{path}" for path in expected]
    assert all((ROOT / path).is_file() for path in expected)


def test_the_instructors_table_has_a_button_for_each_exercise_notebook():
    assert len(buttons(pages.exercise_table(ROOT))) == len(list((ROOT / "exercises").glob("*.ipynb")))


def test_every_notebook_installs_the_package_once_and_before_it_is_used():
    for path in [*ROOT.glob("chapters/*.ipynb"), *ROOT.glob("exercises/*.ipynb")]:
        cells = nbformat.read(path, as_version=4).cells
        assert [i for i, cell in enumerate(cells) if cell.cell_type == "code" and colab.is_install(cell)] == [1], path.name
        assert f"git+{colab.repository(ROOT)}\"" in cells[1].source, f"{path.name}: run `make notebooks release`"


def test_the_install_cell_does_nothing_elsewhere():
    before = dict(os.environ)
    exec(compile(python_of(colab.install_cell(OURS)), "<cell>", "exec"), {})  # get_ipython is not defined here: it would fail if it installed
    assert dict(os.environ) == before


@pytest.fixture
def run_on_colab(monkeypatch):
    """Runs the cell in IPython as on Colab, with a torch and a GPU or none; returns what it told pip."""
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setenv("LAB_SIZE", "so that what the cell sets is taken back"), monkeypatch.delenv("LAB_SIZE")

    def run(torch_version, gpu, source=colab.install_cell(OURS).source):
        monkeypatch.setattr(importlib.metadata, "version", {"torch": torch_version}.get)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        told, shell = [], InteractiveShell(user_module=ModuleType("cell"), config=Config(HistoryManager={"enabled": False}))
        shell.register_magic_function(told.append, "line", "pip")
        shell.run_cell(source).raise_error()
        return shlex.split(told[0])

    return run


@pytest.mark.parametrize("given, gpu, expected", [("", False, "pocket"), ("", True, "gpu"), ("smollm2", True, "smollm2")])
def test_the_install_cell_chooses_the_size_by_the_gpu(run_on_colab, monkeypatch, given, gpu, expected):
    if given:
        monkeypatch.setenv("LAB_SIZE", given)
    run_on_colab("2.9.0", gpu)
    assert size.current().name == expected


def test_one_line_of_the_install_cell_keeps_the_runs_on_the_drive(run_on_colab, monkeypatch):
    mounted = []
    sys.modules["google.colab"].drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setenv("LAB_RUNS", "so that what the cell sets is taken back")
    source = colab.install_cell(OURS).source
    run_on_colab("2.9.0", True)
    assert mounted == []
    run_on_colab("2.9.0", True, colab.with_drive(source))
    assert mounted == ["/content/drive"] and os.environ["LAB_RUNS"].startswith("/content/drive/MyDrive/")


def installed(folder, name, number):
    """A folder in which Python and pip see a package of that version, and its wheel beside it."""
    info = f"{name}-{number}.dist-info"
    files = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n", "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", "RECORD": ""}
    (folder / info).mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            (folder / info / file).write_text(text)
            wheel.writestr(f"{info}/{file}", text)
    return folder


def resolve(arguments, project, here, offered):
    """(pip's exit status, the packages that it would install), by its own resolver: `project` for the repository, no index."""
    shutil.copy(ROOT / "pyproject.toml", project), shutil.copy(ROOT / "README.md", project), (project / "src").mkdir(exist_ok=True)
    words = [word.replace(f"git+{OURS}", project.as_uri()) for word in arguments]
    done = subprocess.run([sys.executable, "-m", "pip", *words, "--dry-run", "--report", project / "report.json", "--no-index", "--no-build-isolation",
                           "--disable-pip-version-check", "--find-links", offered], env={**os.environ, "PYTHONPATH": str(here)}, capture_output=True, text=True)
    report = json.loads((project / "report.json").read_text()) if done.returncode == 0 else {"install": []}
    return done.returncode, {each["metadata"]["name"] for each in report["install"]}


def test_pip_keeps_colabs_torch_or_refuses(run_on_colab, tmp_path):
    """With the lowest torch that the package allows, everything that the package needs is content. With one too old, pip stops: it does
    not take the newer one that is on offer."""
    lowest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf8"))[1] + ".0+cu124"
    offered, project = installed(tmp_path / "offered", "torch", "99.0"), tmp_path / "project"
    project.mkdir()
    for number, expected in ((lowest, (0, {"post-training-lab"})), ("2.0.0+cu118", (1, set()))):
        here = installed(tmp_path / number, "torch", number)
        assert resolve(run_on_colab(number, False), project, here, offered) == expected


@each_chapter
def test_a_chapter_imports_only_what_the_package_brings(source):
    """On Colab nothing else is installed for it. IPython is what runs the notebook."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["dependencies"]
    brought = {re.match(r"[\w-]+", name)[0].replace("-", "_") for name in project} | {"lab", "sklearn", "IPython"} | sys.stdlib_module_names
    nodes = [node for cell in chapters.code_cells(chapters.read_source(source.read_text("utf8"))) for node in ast.walk(ast.parse(python_of(cell)))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names] + [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert names and {name.split(".")[0] for name in names} <= brought


def test_the_install_cell_is_not_part_of_a_chapters_code():
    cell = nbformat.v4.new_code_cell("x = 1")
    without, with_it = (nbformat.v4.new_notebook(cells=cells) for cells in ([cell], [colab.install_cell(OURS), cell]))
    assert chapters.code_cells(with_it) == [cell] and chapters.code_hash(with_it) == chapters.code_hash(without)
    chapters.attach_outputs(without, with_it)


def test_a_new_address_needs_no_execution(project, monkeypatch):
    """Only the text of a notebook changes, so a fork does not execute the chapters again."""
    source = project / "chapters" / "01-small.md"
    source.parent.mkdir(), (project / "book").mkdir()
    source.write_text("# 1. Small\n\nText.\n\n```{code-cell} ipython3\nx = 1\n```\n")
    executed = chapters.read_source(source.read_text())
    executed.metadata["run"] = {}
    texts = []
    for address in (OURS, "https://github.com/me/fork"):
        monkeypatch.setenv(colab.VARIABLE, address)
        texts.append(notebooks.composed(project, {source: executed})[source])
    stored = [nbformat.reads(text, as_version=4) for text in texts]
    assert texts[0] != texts[1] and chapters.code_hash(stored[0]) == chapters.code_hash(stored[1]) == chapters.code_hash(executed)
