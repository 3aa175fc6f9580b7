"""Make the learners' exercise notebooks from solutions/: nbgrader takes the answers and the hidden tests out.

    python -m tools.release            write exercises/NN-name.ipynb for every solutions/NN-name.md
    python -m tools.release --check    change nothing; say what is out of date and exit 1 if anything is

The same source always gives the same bytes: cell ids come from the text, and there are no dates and no outputs.
"""

import argparse
import ast
import logging
import re
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbgrader.preprocessors import (CheckCellMetadata, ClearHiddenTests, ClearMarkScheme, ClearOutput, ClearSolutions,
                                    ComputeChecksums, LockCells)

from tools import colab
from tools.chapters import code_cells, read_source
from tools.notebooks import number, text_of

# The steps of nbgrader's own `generate_assignment`, in its order, without its database.
STEPS = (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ClearHiddenTests, ClearMarkScheme, ComputeChecksums, CheckCellMetadata)
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}


def sources(root):
    """The exercises' Markdown files with answers, in order."""
    return sorted((root / "solutions").glob("*.md"))


def released(notebook):
    """A copy of a source notebook as learners get it: stubs for answers, no hidden tests, locked test cells.

    A mistake in the source (an unknown id, a region that never ends) is a ValueError that says what nbgrader found.
    """
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        _paired(cell.source)
    try:
        for step in STEPS:
            notebook, _ = step(log=_quiet()).preprocess(notebook, {})
    except Exception as error:  # nbgrader raises RuntimeError, ValidationError and others
        raise ValueError(str(error.__context__ or error).strip().split("\n")[0]) from error
    return notebook


def _paired(text):
    """nbgrader does not mind an END without a BEGIN: it would give the learner an empty cell."""
    for what in ("SOLUTION", "HIDDEN TESTS"):
        found = re.findall(rf"(BEGIN|END) {what}", text)
        if found != ["BEGIN", "END"] * (len(found) // 2):
            raise ValueError(f"BEGIN {what} and END {what} should stand in turn in the cell that begins {text[:40]!r}")


def compose(source, address):
    """The text of the exercise notebook that a source file becomes."""
    try:
        notebook = released(read_source(source.read_text("utf8")))
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from None
    notebook.cells.insert(1, colab.install_cell(address))
    number(notebook)
    for cell in code_cells(notebook):
        python_of(cell)
    return text_of(nbformat.from_dict({"cells": notebook.cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}))


def python_of(cell):
    """A code cell as plain Python, IPython's magics turned into calls. A stub that no longer parses is a ValueError."""
    try:
        code = TransformerManager().transform_cell(cell.source)
        ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"a cell is no Python after the release ({error.msg}):\n{cell.source}") from None
    return code


def composed(root):
    """{path of the exercise notebook: its text}."""
    address = colab.repository(root)
    return {root / "exercises" / f"{source.stem}.ipynb": compose(source, address) for source in sources(root)}


def check(root):
    """What `build` would change, one line each."""
    expected = composed(root)
    there = set((root / "exercises").glob("*.ipynb"))
    changed = [path.name for path, text in expected.items() if path in there and path.read_text("utf8") != text]
    return [f"{name}: differs from its source" for name in changed] \
        + [f"{path.name}: not released yet" for path in sorted(set(expected) - there)] \
        + [f"{path.name}: no source" for path in sorted(there - set(expected))]


def build(root):
    expected = composed(root)
    (root / "exercises").mkdir(exist_ok=True)
    for path in set((root / "exercises").glob("*.ipynb")) - set(expected):
        path.unlink()
    for path, text in expected.items():
        path.write_text(text, "utf8", newline="\n")


def _quiet():
    """nbgrader logs what it also raises."""
    log = logging.getLogger("nbgrader.quiet")
    log.disabled = True
    return log


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    options, root = parser.parse_args(arguments), Path.cwd()
    if not options.check:
        build(root)
    problems = check(root)
    print("\n".join(problems) or f"{len(sources(root))} exercise notebooks are up to date")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
