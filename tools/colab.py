"""Where the repository is, and the two things that follow from it: the "Open in Colab" buttons of the pages, and the cell with which a
notebook installs the package on Colab.

The address stands in pyproject.toml, [project.urls]. LAB_REPOSITORY in the environment of a build goes before it, so that a fork
needs no edit: https://github.com/you/your-fork, or with a branch https://github.com/you/your-fork/tree/your-branch.
"""

import os
import re
import tomllib

import nbformat

VARIABLE = "LAB_REPOSITORY"
BRANCH = "main"  # where an address names none
GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
INSTALL = """\
# On Colab this installs the course's package, once for each session. Elsewhere it does nothing.
import os
import sys
from importlib.metadata import version

if "google.colab" in sys.modules:
    # Colab's own torch stays: where the package cannot use it, pip stops and says so.
    %pip install --quiet "post-training-lab @ git+{place}" "torch=={{version('torch')}}"
    import torch
    # The size of the experiments (see the page on set-up). "pocket" is that of the book's pages.
    os.environ.setdefault("LAB_SIZE", "gpu" if torch.cuda.is_available() else "pocket")
    # To find what was trained after a lost session, keep it on your Drive: take the first # out of the next line.
    # from google.colab import drive; drive.mount("/content/drive"); os.environ["LAB_RUNS"] = "/content/drive/MyDrive/post-training-lab"
""".rstrip()


def repository(root):
    """The address of the repository, as it was given."""
    given = os.environ.get(VARIABLE, "").strip()
    return given or tomllib.loads((root / "pyproject.toml").read_text("utf8"))["project"]["urls"]["Repository"]


def split(address):
    """(address without a branch, branch).

    >>> split("https://github.com/you/course/tree/my/work"), split("https://github.com/you/course/")
    (('https://github.com/you/course', 'my/work'), ('https://github.com/you/course', ''))
    """
    address, _, branch = address.partition("/tree/")
    return address.rstrip("/"), branch.strip("/")


def link(address, path):
    """The page of Colab that opens a notebook; empty where the address is not GitHub's, from which alone Colab can open one.

    >>> link("https://github.com/you/course", "chapters/06-dpo.ipynb")
    'https://colab.research.google.com/github/you/course/blob/main/chapters/06-dpo.ipynb'
    """
    plain, branch = split(address)
    found = GITHUB.fullmatch(plain)
    return f"https://colab.research.google.com/github/{found[1]}/blob/{branch or BRANCH}/{path}" if found else ""


def install_cell(address):
    """The code cell that installs the package on Colab, chooses the size, and offers a place that outlives the session.

    pip keeps what is installed where that satisfies the package's ranges. torch is pinned to the installed version as well, because
    a dependency of a dependency may ask for a newer one, and torchvision, which Colab has too, needs the one it was built for.

    >>> print(install_cell("https://github.com/you/course/tree/my-work").source.splitlines()[7].strip())
    %pip install --quiet "post-training-lab @ git+https://github.com/you/course@my-work" "torch=={version('torch')}"
    """
    plain, branch = split(address)
    source = INSTALL.format(place=f"{plain}@{branch}" if branch else plain)
    return nbformat.v4.new_code_cell(source)


def is_install(cell):
    """Was the cell made by `install_cell`, of this version or an earlier one? It is no part of a chapter's source."""
    return cell.source.startswith(INSTALL.split("\n")[0])


def with_drive(source):
    """The install cell as a learner has it who keeps the runs on a Drive: the last line is no comment any more."""
    return source.replace("    # from google.colab", "    from google.colab")


def unchanged(source):
    """Is a text what `install_cell` makes, to the letter, but for the address and the Drive's line in use or not?

    >>> cell = install_cell("https://github.com/you/course").source
    >>> unchanged(cell), unchanged(with_drive(cell)), unchanged(cell + "; x = 1")
    (True, True, False)
    """
    made = re.escape(with_drive(INSTALL.format(place="PLACE"))).replace("PLACE", r"[\w:/.@+-]+")
    return bool(re.fullmatch(made, with_drive(source.strip())))
