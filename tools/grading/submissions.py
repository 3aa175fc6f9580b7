"""Whose notebook is which file. Accepted, also mixed in one folder:

    student/06-dpo/notebook.ipynb     a folder for each student, and in it one for each assignment
    student/06-dpo.ipynb              a folder for each student
    student_06-dpo.ipynb              a flat export of a learning platform; so is student_1234_06-dpo-1.ipynb
    06-dpo/student.ipynb              a folder for each assignment
    group/student/06-dpo.ipynb        a folder for each group, and in it one for each student

An assignment is recognised by its name in the file's name, else in a folder's name, else by the ids of the notebook's cells.
"""

import json
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

LARGEST = 20 * 2**20  # bytes


@dataclass(frozen=True)
class Submission:
    """path: None where a student handed in nothing. remark: what is odd about the file."""
    student: str
    assignment: str
    path: Path | None
    remark: str = ""


def find(folder, assignments):
    """(submissions in order, {file: why it belongs to nobody}). Each student has one for each assignment that anyone handed in."""
    files, lost, paths = {}, {}, notebooks(folder)
    groups = _groups([path.relative_to(folder) for path in paths], assignments)
    for path in paths:
        place = path.relative_to(folder)
        student, name = _owner(Path(*place.parts[1:]) if place.parts[0] in groups else place, assignments)
        name = name or _by_cells(path, assignments)
        if student and name:
            files.setdefault((student, name), []).append(path)
        else:
            lost[path] = "no assignment of this course is in its name, its folder's name or its cells" if student else "no student's name in the file's name"
    students = sorted({student for student, _ in files} | set(_folders(folder, assignments, groups)))
    names = sorted({name for _, name in files})
    return [_chosen(student, name, files.get((student, name), []), lost, folder) for name in names for student in students], lost


def notebooks(folder):
    """The notebooks below a folder. A link is none: it could lead to somebody else's."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() == ".ipynb" and not path.is_symlink() and path.is_file()]
    return [path for path in paths if not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)]


def _owner(path, assignments):
    """(student, assignment) as far as the names say.

    >>> _owner(Path("Zoe Ng_06-dpo (1).ipynb"), ["06-dpo"]), _owner(Path("ann/06-dpo/Untitled.ipynb"), ["06-dpo"])
    (('Zoe Ng', '06-dpo'), ('ann', '06-dpo'))
    """
    stem, folders = text_of(path.stem), [text_of(part) for part in path.parts[:-1]]
    people = [part for part in folders if not _named(part, assignments)]
    name = next(filter(None, (_named(part, assignments) for part in [stem, *reversed(folders)])), "")
    rest = re.sub(rf"{re.escape(name)}(-\d+| ?\(\d+\))?", "", stem, flags=re.I) if _named(stem, assignments) else stem
    return people[0] if people else rest.strip(" _-."), name


def text_of(name):
    """A file's name as text that can be written anywhere: composed characters, and a question mark for what is not UTF-8."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf8", "replace"))


def _named(text, assignments):
    """The assignment whose name is in a text; the longest, if there are several."""
    return max((name for name in assignments if name.lower() in text.lower()), key=len, default="")


def _by_cells(path, assignments):
    """The assignment with the most cells in a notebook."""
    try:
        ids = {id for _, id, _ in read(path)}
    except ValueError:
        return ""
    common = {name: len(ids & assignment.ids) for name, assignment in assignments.items()}
    best = max(common, key=common.get)
    return best if common[best] else ""


def _groups(places, assignments):
    """Folders that hold those of several students: groupA/ann/06-dpo.ipynb and groupA/bob/06-dpo.ipynb."""
    inside = {}
    for place in places:
        folders = [part for part in place.parts[:-1] if not _named(part, assignments)]
        if len(folders) > 1 and _named(str(place), assignments):
            inside.setdefault(folders[0], set()).add(folders[1])
    return {group for group, people in inside.items() if len(people) > 1}


def _folders(folder, assignments, groups):
    """The students who have a folder, with a notebook in it or not."""
    return [text_of(path.name) for path in folder.iterdir()
            if path.is_dir() and path.name not in groups and not path.is_symlink() and not path.name.startswith((".", "__MACOSX")) and not _named(path.name, assignments)]


def _chosen(student, name, paths, lost, folder):
    """One of the files that a student handed in for an assignment: that with the right name, else the last."""
    if not paths:
        mine = [text_of(path.relative_to(folder)) for path in lost if text_of(path.relative_to(folder).parts[0]) == student]
        return Submission(student, name, None, f"no notebook of this assignment was handed in{', only ' + ', '.join(mine) if mine else ''}")
    last = max(paths, key=lambda path: [int(part) if part.isdigit() else 0 for part in re.split(r"(\d+)", path.name)])
    path = next((path for path in paths if path.stem.lower() == name.lower()), last)
    return Submission(student, name, path, f"{len(paths)} notebooks were handed in: {text_of(path.name)} counts" if len(paths) > 1 else "")


def read(path):
    """(kind, nbgrader id or "", source) of each cell. A file that is no notebook is a ValueError that says why.

    Only these three are taken from the file, each checked: whatever else a notebook carries does not matter.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"the file is larger than {LARGEST >> 20} MB: clear its outputs and hand it in again")
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from None
    try:
        notebook = json.loads(text)
        cells = notebook["cells"] if "cells" in notebook else [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
        return [_cell(cell) for cell in cells if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the file is no notebook, or damaged ({type(error).__name__})") from None


def _cell(cell):
    marks = cell.get("metadata", {}) if isinstance(cell.get("metadata"), dict) else {}
    marks = marks.get("nbgrader") if isinstance(marks.get("nbgrader"), dict) else {}
    source = cell.get("source", cell.get("input", ""))
    source = "".join(line for line in source if isinstance(line, str)) if isinstance(source, list) else source
    id = marks.get("grade_id")
    return str(cell.get("cell_type")), _whole(id) if isinstance(id, str) else "", _whole(source) if isinstance(source, str) else ""


def _whole(text):
    """JSON may hold half of a character pair, which no file and no kernel takes."""
    return text.encode("utf8", "replace").decode("utf8")
