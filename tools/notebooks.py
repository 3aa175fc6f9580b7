"""Make each chapter's notebook from its Markdown source, executing only what has changed.

    python -m tools.notebooks            execute the stale chapters, rewrite the text of all
    python -m tools.notebooks --fresh    execute all
    python -m tools.notebooks --check    change nothing; say what is out of date and exit 1 if anything is

A chapter is stale when its code or a file of the package that it stands on has changed since it was executed.
"""

import argparse
import base64
import hashlib
import json
import os
import sys
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools import closure, colab, plain
from tools.chapters import (ENVIRONMENT, all_values, attach_outputs, code_cells, code_hash, fill, read_notebook,
                            read_source, sources, values)

PICTURE = "book/images/result.png"  # the README's picture
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")


def stale(source):
    """Why the chapter must be executed again, in a few words; empty if it need not be."""
    stored = read_notebook(source.with_suffix(".ipynb"))
    if stored is None:
        return "no notebook yet"
    if not any(cell.outputs for cell in code_cells(stored)):
        return "the notebook holds no outputs"
    notebook, run = read_source(source.read_text("utf8")), stored.metadata.get("run", {})
    if code_hash(notebook) not in {run.get("code")} & {code_hash(stored)}:
        return "its code changed"
    now, then = _digests(notebook, source), run.get("package", {})
    changed = sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path))
    return f"changed: {', '.join(changed)}" if changed else ""


def execute(notebook, source):
    """Run a source notebook in place, and record how. Errors and anything on stderr stop the build."""
    started = time.perf_counter()
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", record_timing=False, coalesce_streams=True,
                            extra_arguments=["--log-level=ERROR"],
                            on_cell_executed=lambda cell, **_: _refuse_stderr(cell, source),
                            resources={"metadata": {"path": str(source.parent)}})
    try:
        client.execute(env=_environment(source))
    except CellExecutionError as error:
        raise SystemExit(f"{source.name}: a cell failed\n{error}") from None
    notebook.metadata["run"] = {
        "code": code_hash(notebook), "package": _digests(notebook, source), "size": ENVIRONMENT["LAB_SIZE"],
        "seconds": round(time.perf_counter() - started, 1), "date": date.today().isoformat(), "versions": _versions()}


def compose(source, executed, page, quoted, address):
    """The notebook to store: plain text with the recorded values filled in, and the executed cells with their outputs. A cell for
    Colab, which installs the package from the repository's address, stands before the first of them."""
    notebook = read_source(source.read_text("utf8"))
    attach_outputs(notebook, executed)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = plain.convert(fill(cell.source, quoted | values(executed)), page)
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    notebook.cells.insert(1, colab.install_cell(address))
    number(notebook)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                         "language_info": {"name": "python"}, "run": executed.metadata["run"]}
    return nbformat.from_dict({**notebook, "nbformat": 4, "nbformat_minor": 5})


def text_of(notebook):
    """The notebook as stored in a file: the same notebook always gives the same bytes."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def composed(root, executed):
    """{source: notebook text} for all chapters. executed: {source: executed notebook}."""
    paths = [*sources(root), *sorted((root / "book").rglob("*.md"))]
    labels, titles = plain.index(paths)
    entries, quoted, address = plain.bibliography(root / "book" / "references.bib"), all_values(root), colab.repository(root)
    return {source: text_of(compose(source, notebook, plain.Page(source, labels, titles, entries), quoted, address))
            for source, notebook in executed.items()}


def build(root, fresh=False):
    """Execute what is stale (or all), then bring every notebook's text up to date."""
    for source in sources(root):
        reason = "asked for" if fresh else stale(source)
        if reason:
            print(f"executing {source.name} ({reason})", flush=True)
            notebook = read_source(source.read_text("utf8"))
            execute(notebook, source)
            _write(source, text_of(notebook))
            print(f"  {notebook.metadata['run']['seconds']:.0f} s", flush=True)
    stored = {source: read_notebook(source.with_suffix(".ipynb")) for source in sources(root)}
    for source, text in composed(root, stored).items():
        _write(source, text)
    for picture in pictures(stored.values()):
        (root / PICTURE).write_bytes(picture)


def pictures(notebooks):
    """The figure of the cell tagged readme-picture, as bytes."""
    cells = (cell for notebook in notebooks for cell in code_cells(notebook))
    return [base64.b64decode(output.data["image/png"]) for cell in cells if "readme-picture" in cell.metadata.get("tags", [])
            for output in cell.outputs if "image/png" in output.get("data", {})]


def check(root):
    """What `build` would change, one line each."""
    problems = {source: stale(source) for source in sources(root)}
    current = {source: read_notebook(source.with_suffix(".ipynb")) for source, reason in problems.items() if not reason}
    for source, text in composed(root, current).items():
        if source.with_suffix(".ipynb").read_text("utf8") != text:
            problems[source] = "its prose changed"
    orphans = {path.name for path in (root / "chapters").glob("*.ipynb") if not path.with_suffix(".md").is_file()}
    return [f"{source.name}: {reason}" for source, reason in problems.items() if reason] + [f"{name}: no source" for name in orphans]


def _write(source, text):
    path = source.with_suffix(".ipynb")
    if not path.is_file() or path.read_text("utf8") != text:
        path.write_text(text, "utf8", newline="\n")


def number(notebook):
    """Cell ids that stay the same from one generation to the next, so that a diff shows only what changed."""
    seen = {}
    for cell in notebook.cells:
        id = hashlib.sha256(f"{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:8]
        seen[id] = seen.get(id, 0) + 1
        cell.id = id if seen[id] == 1 else f"{id}-{seen[id]}"


def _digests(notebook, source):
    """The state of the package files that a chapter stands on."""
    return closure.digests("\n".join(cell.source for cell in code_cells(notebook)), source.parent.parent / "src")


def _environment(source):
    path = os.pathsep.join(filter(None, [str(source.parent.parent / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}


def _refuse_stderr(cell, source):
    """Called after each cell, so that a chapter of ten minutes stops at the cell and not at its end."""
    if "remove-stderr" in cell.metadata.get("tags", []):  # the author has read it and says so
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    text = "".join(output.text for output in cell.outputs if output.get("name") == "stderr")
    if text:
        raise SystemExit(f"{source.name}: a cell wrote to stderr; a page must not show warnings or bars\n{cell.source}\n---\n{text}")


def _versions():
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.split("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="execute every chapter")
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    if not options.check:
        return build(root, options.fresh)
    problems = check(root)
    print("\n".join(problems) or "every notebook is up to date")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
