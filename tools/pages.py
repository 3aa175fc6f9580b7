"""The Sphinx extension of the book: a chapter's page is its Markdown source with the outputs of its stored notebook.

Nothing is executed here. Every page may quote recorded values as {{ name }} (another chapter's as {{ 06-dpo.name }}),
and the ledger (tools/ledger.py) and the status table are made from the stored notebooks.
"""

import re
from pathlib import Path

import nbformat
from sphinx.errors import ExtensionError

from lab.report import CLAIM_MIME, VALUES_MIME
from tools import colab, ledger, plain
from tools.chapters import all_values, attach_outputs, claims, exercises, fill, read_notebook, read_source, sources, values
from tools.markdown import table

FEW = 6  # values that a reader takes in at a glance
STATUS_COLUMNS = ("python", "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")


def setup(app):
    app.connect("source-read", put_outputs_in)
    app.config.html_static_path.append(str(Path(app.srcdir) / "book" / "_static"))
    app.add_css_file("book.css")
    app.add_config_value("lab_repository", colab.repository(Path(app.srcdir)), "env")  # another address: every page is built anew
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read(text):
    """Reader for myst-nb: what `put_outputs_in` has made of a .md file is a notebook in JSON."""
    return nbformat.reads(text, as_version=4)


def put_outputs_in(app, docname, source):
    """Before Sphinx parses a page, make a notebook of it: its Markdown, the recorded values and the outputs."""
    root, path = Path(app.srcdir), Path(app.env.doc2path(docname))
    for file in _ingredients(root):  # when one of these changes, Sphinx builds the page again
        app.env.note_dependency(str(file))
    try:
        is_chapter = path.parent == root / "chapters"
        notebook = chapter(source[0], path, all_values(root)) if is_chapter else page(source[0], root)
    except ValueError as error:
        raise ExtensionError(f"{path.name}: {error}") from None
    source[0] = nbformat.writes(notebook)


def _ingredients(root):
    """All that a page may be made of besides its own text."""
    notebooks = [source.with_suffix(".ipynb") for source in sources(root)]
    return [*notebooks, *root.glob("src/lab/**/*.py"), *root.glob("src/lab/records/*.json"), *root.glob("tools/*.py"), *root.glob("solutions/*.md")]


def chapter(text, path, quoted):
    """A chapter's notebook for the book: prose as MyST, outputs from the stored notebook beside it."""
    notebook, stored = read_source(text), read_notebook(path.with_suffix(".ipynb"))
    if stored is None:
        raise ValueError("it has no notebook yet: run `make book`")
    attach_outputs(notebook, stored)
    known, boxes = quoted | values(stored), iter(ledger.labels(path.stem, claims(stored)))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = fill(cell.source, known)
        else:
            _prepare_outputs(cell, boxes)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    _say_how_it_ran(notebook.cells[0], path, stored.metadata["run"])
    return notebook


def page(text, root):
    """Any other page, with the tables, the ledger, the references of modules and the chapters' values filled in."""
    tables = {"status_table": status_table(root), "exercise_table": exercise_table(root)}
    claims = ledger.page(root) if "{{ ledger_" in text else {}
    return read_source(fill(text, all_values(root) | tables | claims | _references(text, root)))


def _references(text, root):
    """{"api.sft": reference of lab.sft, ...} for the modules that the page names."""
    names = re.findall(r"\{\{ api\.(\w+) \}\}", text)
    if not names:
        return {}
    labels, _ = plain.index(sources(root))
    made = ledger.used_for(root), ledger.documented(root), ledger.tests(root)
    return {f"api.{name}": ledger.reference(name, root, labels, *made) for name in names}


def status_table(root):
    """How long each chapter ran, when, and with which versions."""
    rows = []
    for source in sources(root):
        run = read_notebook(source.with_suffix(".ipynb")).metadata["run"]
        rows.append((_link(source), f"{run['seconds']:.0f}", run["date"], *(run["versions"][name] for name in STATUS_COLUMNS)))
    return table(("chapter", "seconds", "executed on", *STATUS_COLUMNS), rows)


def exercise_table(root):
    """The exercise notebooks: how many exercises, how many minutes of each level, how many points."""
    rows = []
    for source in filter(lambda source: (root / "solutions" / source.name).is_file(), sources(root)):
        found = exercises((root / "solutions" / source.name).read_text("utf8"))
        minutes = [sum(each[2] for each in found if each[1] == level) for level in ("warm-up", "core", "stretch")]
        files = f"{{download}}`notebook <{_exercise(source)}>` {_button(root, 'Colab', _exercise(source)[1:])}"
        rows.append((_link(source), files, len(found), *minutes, sum(each[3] for each in found)))
    return table(("chapter", "exercises", "how many", "minutes, warm-up", "core", "stretch", "points"), rows)


def _exercise(source):
    return f"/exercises/{source.stem}.ipynb"


def _link(source):
    title = next(line[2:] for line in source.read_text("utf8").splitlines() if line.startswith("# "))
    return f"[{title}](../chapters/{source.name})"


def _prepare_outputs(cell, boxes):
    """Link a claim's box to the ledger, fold a long table of values, and move an image's alt text to the cell, where the book's builder
    looks. boxes: the labels of the boxes to come."""
    for output in cell.outputs:
        quoted = output.get("data", {}).pop(VALUES_MIME, {})
        if len(quoted) > FEW:
            output.data["text/html"] = f"<details><summary>{len(quoted)} values, which the text quotes</summary>{output.data['text/html']}</details>"
        if CLAIM_MIME in output.get("data", {}):
            output.data = {"text/markdown": ledger.box(output.data, next(boxes))}
            cell.metadata.setdefault("mystnb", {})["markdown_format"] = "myst"
    alts = [output.metadata["image/png"].get("alt") for output in cell.outputs if "image/png" in output.get("metadata", {})]
    if len(alts) > 1:
        raise ValueError("a cell shows two figures; give each its own cell, so that each has its own alt text")
    if alts:
        cell.metadata.setdefault("mystnb", {}).setdefault("image", {})["alt"] = alts[0]


def _say_how_it_ran(cell, path, run):
    """Under the title: where to get the notebook, and what its outputs come from."""
    root, (title, _, rest) = path.parents[1], cell.source.partition("\n")
    note = (f"*Executed on {run['date']} in {run['seconds']:.0f} seconds* ({{doc}}`status </book/status>`). "
            f"{{download}}`Download the notebook <{path.stem}.ipynb>`. {_button(root, 'Open in Colab', f'chapters/{path.stem}.ipynb')}")
    if (root / "exercises" / f"{path.stem}.ipynb").is_file():
        note += f"\n\nExercises: {{download}}`download them <{_exercise(path)}>`. {_button(root, 'Open the exercises in Colab', _exercise(path)[1:])}"
    cell.source = f"{title}\n\n{note}\n{rest}"


def _button(root, text, path):
    """A button that opens a notebook on Colab. Of text alone: Colab's own picture would be loaded from another server."""
    address = colab.link(colab.repository(root), path)
    return f"{{bdg-link-primary}}`{text} <{address}>`" if address else ""
