"""Tests and the notebooks they execute run as the book's chapters do: pocket size, no network, no progress bars."""

import os

from tools.chapters import ENVIRONMENT

os.environ.update(ENVIRONMENT)
