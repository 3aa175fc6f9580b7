"""The notebooks: in step with their sources, plain to read, worth executing; and the tools that see to it."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import api, chapters, closure, notebooks, plain

ROOT = Path(__file__).parent.parent
SOURCES = chapters.sources(ROOT)
each_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


# --- the course's own notebooks --------------------------------------------------------------------------------------


def test_every_notebook_is_in_step_with_its_source_and_the_package():
    assert notebooks.check(ROOT) == [], "run `make notebooks` and commit the result"


@each_chapter
def test_a_notebook_stores_outputs_that_nbval_can_compare(source):
    """nbval passes on a notebook without stored outputs, and compares only tagged cells: both must be there."""
    problems = weaknesses(chapters.read_notebook(source.with_suffix(".ipynb")))
    assert problems == []


@each_chapter
def test_a_notebook_shows_nothing_raw_and_no_errors(source):
    notebook = chapters.read_notebook(source.with_suffix(".ipynb"))
    nbformat.validate(notebook)
    assert [bad for cell in notebook.cells if cell.cell_type == "markdown" for bad in plain.leftovers(cell.source)] == []
    outputs = [output for cell in chapters.code_cells(notebook) for output in cell.outputs]
    assert not any(chapters.WIDGET in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_a_librarys_bar_is_left_out_and_all_else_stays():
    cell, bar, text = nbformat.v4.new_code_cell("x"), *(nbformat.v4.new_output("display_data", {kind: "1"}) for kind in (chapters.WIDGET, "text/plain"))
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[bar, text, nbformat.v4.new_output("stream", text="2")])])
    chapters.attach_outputs(nbformat.v4.new_notebook(cells=[cell]), executed)
    assert [output.output_type for output in cell.outputs] == ["display_data", "stream"] and "text/plain" in cell.outputs[0].data


@each_chapter
def test_a_notebook_says_how_it_was_executed(source):
    run = chapters.read_notebook(source.with_suffix(".ipynb")).metadata["run"]
    assert run["seconds"] > 0 and run["size"] == "pocket" and re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"])
    assert set(run["versions"]) == {"python", *notebooks.PACKAGES}


def weaknesses(notebook):
    """Why executing this notebook again would prove too little."""
    code = chapters.code_cells(notebook)
    compared = [cell for cell in code if "nbval-check-output" in cell.metadata.get("tags", [])]
    return ([] if any(cell.outputs for cell in code) else ["no stored outputs"]) \
        + ([] if any(re.search(r"(?m)^\s*assert |assert_close\(|assert_allclose\(", cell.source) for cell in code) else ["no cell asserts anything"]) \
        + ([] if compared else ["no cell is compared"]) \
        + [f"a compared cell has no output: {cell.source[:40]}" for cell in compared if not cell.outputs]


def test_the_slowest_chapter_is_tested_first_and_none_is_left_out():
    order = [chapters.read_notebook(path).metadata["run"]["seconds"] for path in chapters.slowest_first(ROOT)]
    assert order == sorted(order, reverse=True) and len(order) == len(SOURCES)


@pytest.mark.parametrize("path", sorted([*ROOT.glob("chapters/*.md"), *ROOT.glob("book/**/*.md"), *ROOT.glob("solutions/**/*.md")]), ids=lambda path: path.stem)
def test_no_backslash_was_eaten(path):
    """A formula written through a Python string loses \\b, \\f, \\t, \\n: control characters, or lines that begin within a word."""
    text = path.read_text("utf8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert not re.search(r"^(abla|eq |u\b|ot\b)", text, re.M)


def test_weak_notebooks_are_refused():
    cell = nbformat.v4.new_code_cell("print(1)", metadata={"tags": ["nbval-check-output"]})
    assert weaknesses(nbformat.v4.new_notebook(cells=[cell])) == [
        "no stored outputs", "no cell asserts anything", "a compared cell has no output: print(1)"]


@pytest.mark.parametrize("module", [api, chapters, closure, plain], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


# --- a small project of its own, to see every gate go red ------------------------------------------------------------

CHAPTER = """\
# 1. Small

It measured {{ six }}. See {eq}`eq-one`.

$$
x = 1
$$ (eq-one)

```{code-cell} ipython3
:tags: [nbval-check-output]
from lab.used import six
from lab.report import claim, show
show(six=six())
claim("A1", measured=six(), held=True, experiment="small")
```

Again {{ six }}, after the cell.
"""
MODULES = {"__init__.py": "", "used.py": "def six():\n    from .deep import three\n    return 2 * three()\n",
           "deep.py": "WEIGHTS = 'weights/three.txt'\n\ndef three():\n    return 3\n", "unused.py": "pass\n"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A project with one chapter, executed once."""
    root = tmp_path_factory.mktemp("project")
    lab = root / "src" / "lab"
    (lab / "weights").mkdir(parents=True), (root / "chapters").mkdir()
    for name, text in MODULES.items():
        (lab / name).write_text(text)
    shutil.copy(ROOT / "src" / "lab" / "report.py", lab)
    (lab / "weights" / "three.txt").write_text("3")
    (root / "chapters" / "01-small.md").write_text(CHAPTER)
    (root / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/you/course"\n')
    notebooks.build(root)
    return root


@pytest.fixture
def project(executed, tmp_path):
    return shutil.copytree(executed, tmp_path / "project")


def source_of(project):
    return project / "chapters" / "01-small.md"


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_an_untouched_chapter_is_not_stale(project):
    assert notebooks.stale(source_of(project)) == "" and notebooks.check(project) == []


@pytest.mark.parametrize("name", ["used.py", "deep.py", "weights/three.txt", "__init__.py", "report.py"])
def test_a_change_in_what_a_chapter_uses_makes_it_stale(project, name):
    """Directly, through an import inside a function, through a data file that a used module names."""
    path = project / "src" / "lab" / name
    path.write_text(path.read_text() + "\n")
    assert notebooks.stale(source_of(project)) == f"changed: lab/{name}"
    assert notebooks.check(project)


def test_a_change_in_what_a_chapter_does_not_use_leaves_it_alone(project):
    (project / "src" / "lab" / "unused.py").write_text("raise SystemExit\n")
    (project / "src" / "lab" / "new.py").write_text("")
    assert notebooks.check(project) == []


def test_a_stale_chapter_is_executed_and_its_prose_follows(project):
    edit(project / "src" / "lab" / "deep.py", "return 3", "return 4")
    notebooks.build(project)
    assert "It measured 8." in chapters.read_notebook(project / "chapters" / "01-small.ipynb").cells[0].source


def test_prose_is_brought_up_to_date_without_executing(project, monkeypatch):
    edit(source_of(project), "It measured", "We found")
    assert notebooks.check(project) == ["01-small.md: its prose changed"]
    monkeypatch.setattr(notebooks, "execute", lambda *_: pytest.fail("executed"))
    notebooks.build(project)
    assert "We found 6. See (1)." in chapters.read_notebook(project / "chapters" / "01-small.ipynb").cells[0].source
    assert notebooks.check(project) == []


def test_changed_code_is_stale(project):
    edit(source_of(project), "show(six=six())", "show(six=six() + 0)")
    assert notebooks.stale(source_of(project)) == "its code changed"


def test_a_notebook_edited_by_hand_is_stale(project):
    edit(project / "chapters" / "01-small.ipynb", "show(six=six())", "show(six=7)")
    assert notebooks.stale(source_of(project)) == "its code changed"


def test_a_notebook_without_outputs_is_refused(project):
    path = project / "chapters" / "01-small.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in chapters.code_cells(notebook):
        cell.outputs = []
    nbformat.write(notebook, path)
    assert notebooks.stale(source_of(project)) == "the notebook holds no outputs"


def test_a_notebook_without_a_source_is_reported(project):
    (project / "chapters" / "02-gone.ipynb").write_text("{}")
    assert notebooks.check(project) == ["02-gone.ipynb: no source"]


@pytest.mark.parametrize("code, words", [
    ("import sys; print('careful', file=sys.stderr)", "wrote to stderr"), ("1 / 0", "ZeroDivisionError")])
def test_stderr_and_errors_stop_the_build(project, code, words):
    before = (project / "chapters" / "01-small.ipynb").read_text()
    edit(source_of(project), "show(six=six())", code)
    with pytest.raises(SystemExit, match=words):
        notebooks.build(project)
    assert (project / "chapters" / "01-small.ipynb").read_text() == before


def test_generating_twice_gives_the_same_bytes(project):
    path = project / "chapters" / "01-small.ipynb"
    before, stored = path.read_bytes(), path.stat().st_mtime_ns
    notebooks.build(project)
    assert path.read_bytes() == before and path.stat().st_mtime_ns == stored


def test_a_value_that_nothing_showed_is_an_error():
    with pytest.raises(ValueError, match="nothing showed a value named 'seven'.*six"):
        chapters.fill("{{ seven }}", {"six": "6"})


def nbval(folder):
    """nbval as `make test` runs it, on a project's chapters."""
    environment = {**os.environ, "PYTHONPATH": str(folder.parent / "src")}
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder.parent).returncode


def test_nbval_passes_here_and_fails_on_another_output(project):
    assert nbval(project / "chapters") == 0
    path = project / "chapters" / "01-small.ipynb"
    path.write_text(re.sub(r"\b6\b", "5", path.read_text()))
    assert nbval(project / "chapters") == 1


def built(project):
    """The text of the project's chapter and ledger pages, built on top of what was built before."""
    done = subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", "."], cwd=project, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{project / 'src'}{os.pathsep}{ROOT}"})
    assert done.returncode == 0, done.stdout + done.stderr
    return [(project / "_build" / "html" / page).read_text() for page in ("chapters/01-small.html", "book/ledger.html")]


def test_pages_follow_a_notebook_although_their_own_text_is_unchanged(project):
    """Sphinx keeps pages whose source did not change; a chapter's and the ledger's must follow the stored outputs."""
    shutil.copy(ROOT / "_config.yml", project)
    (project / "_toc.yml").write_text("format: jb-book\nroot: book/ledger\nchapters: [{file: chapters/01-small}]\n")
    (project / "book").mkdir()
    (project / "book" / "ledger.md").write_text("# Ledger\n\n{{ ledger_summary }}\n\n{{ ledger_table }}\n\n## Each\n\n{{ ledger_entries }}\n")
    (project / "book" / "references.bib").write_text("")
    chapter, ledger = built(project)
    assert "It measured 6." in chapter and "Again 6," in chapter and 'ledger.html#ledger-a1' in chapter and '01-small.html#claim-01-small-a1-1' in ledger and "<strong>It held:</strong> 6." in ledger
    edit(project / "src" / "lab" / "deep.py", "return 3", "return 4")
    notebooks.build(project)
    chapter, ledger = built(project)
    assert "It measured 8." in chapter and "<strong>It held:</strong> 8." in ledger


# --- what a chapter stands on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["import lab.used", "import lab.used as u", "from lab import used", "from lab.used import six",
                                  "%time from lab import used\nfrom lab.used import six", "if True:\n    import lab.used"])
def test_all_forms_of_import_are_seen(executed, code):
    found = closure.digests(code, executed / "src")
    assert set(found) == {"lab/__init__.py", "lab/used.py", "lab/deep.py", "lab/weights/three.txt"}


@pytest.mark.parametrize("code", ["!python -m lab sft --out x", "subprocess.run([sys.executable, '-m', 'lab', 'sft'])"])
def test_the_command_line_counts_as_an_import(project, code):
    (project / "src" / "lab" / "__main__.py").write_text("from lab import used")
    assert {"lab/__main__.py", "lab/used.py"} <= set(closure.digests(code, project / "src"))


def test_files_of_a_used_sub_package_count_where_the_chapter_names_them(project):
    (project / "src" / "lab" / "data").mkdir()
    (project / "src" / "lab" / "data" / "__init__.py").write_text("from .. import used")
    (project / "src" / "lab" / "data" / "rows.jsonl").write_text("{}")
    assert {"lab/data/rows.jsonl", "lab/deep.py"} <= set(closure.digests("from lab.data import read; read('rows.jsonl')", project / "src"))
    assert "lab/data/rows.jsonl" not in closure.digests("from lab.data import read", project / "src")


def test_the_pocket_weights_are_part_of_what_the_chapters_use():
    found = closure.digests("from lab import models", ROOT / "src")
    assert any(name.endswith(".safetensors") for name in found)


# --- plain Markdown --------------------------------------------------------------------------------------------------

PAGE_TEXT = """\
# 1. Page

$$
a
$$ (eq-a)

```{prf:theorem} Best policy
:label: thm-best
It is $\\pi^*$.
```

```{exercise} Try it
:label: ex-try
Do.
```

(sec-end)=
## The end
"""


@pytest.fixture
def page(tmp_path):
    """A page in a project of two, with one reference."""
    (tmp_path / "chapters").mkdir()
    here, other = tmp_path / "chapters" / "01-page.md", tmp_path / "chapters" / "02-other.md"
    here.write_text(PAGE_TEXT), other.write_text("# 2. Other\n\n```{math}\n:label: eq-b\nb\n```\n")
    (tmp_path / "x.py").write_text("def f():\n    return 1\n\ndef g():\n    return 2\n")
    return plain.Page(here, *plain.index([here, other]), {"hu2021": ("Hu et al.", "2021", "https://arxiv.org/abs/1")})


@pytest.mark.parametrize("myst, expected", [
    ("{eq}`eq-a`", "(1)"),
    ("{eq}`eq-b`", "(1) in [2. Other](02-other.ipynb)"),
    ("{ref}`sec-end`", "The end"),
    ("{ref}`below <sec-end>`", "below"),
    ("{prf:ref}`thm-best` and {ref}`ex-try`", "Theorem (Best policy) and Exercise (Try it)"),
    ("{doc}`02-other`", "[2. Other](02-other.ipynb)"),
    ("{doc}`that one </chapters/02-other>`", "[that one](02-other.ipynb)"),
    ("{cite:p}`hu2021`", "([Hu et al., 2021](https://arxiv.org/abs/1))"),
    ("{cite:t}`hu2021`", "[Hu et al. (2021)](https://arxiv.org/abs/1)"),
    ("{term}`policies <policy>`", "policies"),
    ("`{eq}` in code", "`{eq}` in code"),
    ("[next](02-other.md) [there](02-other.md#x)", "[next](02-other.ipynb) [there](02-other.ipynb#x)"),
    ("$$\na\n$$ (eq-a)", "$$\na \\tag{1}\n$$"),
    ("```{math}\n:label: eq-a\na \\\\\nb\n```", "$$\n\\begin{aligned}a \\\\\nb\\end{aligned} \\tag{1}\n$$"),
    ("(sec-end)=\n## The end", "## The end"),
    ("% a comment\ntext", "text"),
    ("```{note}\nMind $x$.\n```", "> **Note.** Mind $x$."),
    (":::{admonition} Look here\n:class: tip\nMind.\n:::", "> **Look here.** Mind."),
    ("```{tip}\nA\n\n$$\na\n= b\n$$\n```", "> **Tip.** A\n>\n> $$ a = b $$"),
    ("````{prf:proof}\nBy {eq}`eq-a`.\n```python\nx\n```\n````", "> **Proof.** By (1).\n> ```python\n> x\n> ```"),
    ("```{exercise} Try it\n:label: ex-try\nDo.\n```", "> **Exercise (Try it).** Do."),
    ("```{solution} ex-try\n:class: dropdown\nDone.\n```", "<details><summary>Solution of exercise (Try it)</summary>\n\nDone.\n\n</details>"),
    ("```{dropdown} More\nText.\n```", "<details><summary>More</summary>\n\nText.\n\n</details>"),
    ("```{figure} a.png\n:alt: A line.\nIt *rises*.\n```", "![A line.](a.png)\n\nIt *rises*."),
    ("```{literalinclude} ../x.py\n:pyobject: g\n```", "```python\ndef g():\n    return 2\n```"),
    ("```python\n{eq}`eq-a`\n```", "```python\n{eq}`eq-a`\n```"),
    ("* item\n\n  ```{note}\n  In a list.\n  ```", "* item\n\n  > **Note.** In a list."),
])
def test_myst_has_a_plain_form(page, myst, expected):
    converted = plain.convert(myst, page)
    assert converted == expected
    assert plain.leftovers(converted) == []


@pytest.mark.parametrize("myst, words", [
    ("{unknown}`x`", "role {unknown} has no plain form"), ("```{unknown}\n```", "directive {unknown} has no plain form"),
    ("{eq}`eq-none`", "nothing has the label 'eq-none'"), ("{cite:p}`none2020`", "no entry 'none2020'"), ("{doc}`none`", "no page none.md")])
def test_what_has_no_plain_form_is_an_error(page, myst, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        plain.convert(myst, page)


@pytest.mark.parametrize("raw", ["```{note}\nx\n```", "see {eq}`a`", "{{ six }}", "(label)=\n# Title", ":::{tip}\n:::"])
def test_raw_myst_is_noticed(raw):
    assert plain.leftovers(raw)


def test_the_readmes_picture_is_the_figure_of_the_tagged_cell():
    figure = nbformat.v4.new_output("display_data", {"image/png": "aGVsbG8="})
    tagged = nbformat.v4.new_code_cell("plot()", metadata={"tags": ["readme-picture"]}, outputs=[figure])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("plot()", outputs=[figure]), tagged])
    assert notebooks.pictures([notebook]) == [b"hello"]
