"""A chapter is a Markdown source and, beside it, a generated notebook that holds the outputs of the last execution.

This module reads the two and puts them together; it executes nothing and writes nothing.

    python -m tools.chapters    the notebooks, the one that took longest first: the order in which two workers are done soonest
"""

import hashlib
import re
from pathlib import Path

import nbformat
from jupytext.myst import myst_to_notebook

from lab.report import CLAIM_MIME, VALUES_MIME
from tools import colab

WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar that was drawn while a cell ran: a page has nothing to draw it with

# What a chapter runs with, in the build and in the tests alike: the pocket size, no network, no progress bars.
ENVIRONMENT = {"LAB_SIZE": "pocket", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
               "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
               "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
PLACE = re.compile(r"\{\{ ([\w.-]+) \}\}")


def sources(root):
    """The chapters' Markdown files, in order."""
    return sorted((root / "chapters").glob("*.md"))


def read_source(text):
    """A chapter's or a page's Markdown as an nbformat notebook without outputs; metadata.source_map has each cell's line."""
    return nbformat.from_dict(myst_to_notebook(text, add_source_map=True))


def read_notebook(path):
    """The generated notebook, or None where there is none yet."""
    return nbformat.read(path, as_version=4) if path.is_file() else None


def code_cells(notebook):
    """The code cells, without the one that the build adds for Colab."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and not colab.is_install(cell)]


def code_hash(notebook):
    """A hash of the code alone: prose may change without a new execution."""
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()[:12]


def attach_outputs(notebook, executed):
    """Give each code cell of a source notebook the outputs of its twin in the executed one, but for a library's progress bars."""
    ours, theirs = code_cells(notebook), code_cells(executed)
    if [cell.source for cell in ours] != [cell.source for cell in theirs]:
        raise ValueError("the notebook's code cells are not those of its source: run `make book`")
    for cell, twin in zip(ours, theirs):
        cell.outputs = [output for output in twin.outputs if WIDGET not in output.get("data", {})]
        cell.execution_count = twin.execution_count


def recorded(notebook, mime):
    """Everything that the notebook's outputs recorded under a MIME type, in order."""
    return [output.data[mime] for cell in code_cells(notebook) for output in cell.outputs if mime in output.get("data", {})]


def values(notebook):
    """{name: text} of all that the chapter showed through `lab.report.show`."""
    return {name: text for shown in recorded(notebook, VALUES_MIME) for name, text in shown.items()}


def claims(notebook):
    """The ledger rows that the chapter measured, as `lab.report.claim` recorded them."""
    return recorded(notebook, CLAIM_MIME)


def all_values(root):
    """{"06-dpo.win_rate": text, ...} of every executed chapter, for pages that quote them."""
    notebooks = {source.stem: read_notebook(source.with_suffix(".ipynb")) for source in sources(root)}
    return {f"{stem}.{name}": text for stem, notebook in notebooks.items() if notebook for name, text in values(notebook).items()}


def fill(text, known):
    """Put recorded values into `{{ name }}` places. A name that no cell showed is an error.

    >>> fill("It won {{ rate }}.", {"rate": "74%"})
    'It won 74%.'
    """
    def value(match):
        if match[1] not in known:
            here = ", ".join(name for name in known if "." not in name) or "none"
            raise ValueError(f"nothing showed a value named {match[1]!r}; there are: {here}")
        return known[match[1]]
    return PLACE.sub(value, text)


def exercises(text):
    """(title, level, minutes, points) of each exercise in a file of solutions/, from its headings.

    >>> exercises("# Exercises: DPO\\n\\n## 1. The loss (core, 10 minutes, 3 points)\\n")
    [('1. The loss', 'core', 10, 3)]
    """
    found = []
    for heading in re.findall(r"(?m)^## (.+)$", text):
        parts = re.fullmatch(r"(\d+\. .*) \((warm-up|core|stretch), (\d+) minutes, (\d+) points?\)", heading)
        if not parts:
            raise ValueError(f"the heading of an exercise should end with (level, N minutes, N points): {heading!r}")
        found.append((parts[1], parts[2], int(parts[3]), int(parts[4])))
    return found


def slowest_first(root):
    """The notebooks' paths, by the seconds of their last execution."""
    seconds = {source.with_suffix(".ipynb"): read_notebook(source.with_suffix(".ipynb")).metadata["run"]["seconds"] for source in sources(root)}
    return sorted(seconds, key=seconds.get, reverse=True)


if __name__ == "__main__":
    print(*(path.relative_to(Path.cwd()) for path in slowest_first(Path.cwd())))
