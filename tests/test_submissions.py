"""Whose notebook is which file: names as learning platforms and file systems make them."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from tools import grade
from tools.grading import report, submissions

ASSIGNMENTS = {"06-dpo": SimpleNamespace(ids={"dpo-loss"})}
NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "metadata": {"nbgrader": {"grade_id": "dpo-loss"}}, "source": "x = 1"}]})


def handed_in(folder, *names):
    """{student: file} of what is found, and what belongs to nobody."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(NOTEBOOK)
    found, lost = submissions.find(folder, ASSIGNMENTS)
    return {one.student: one.path and str(one.path.relative_to(folder)) for one in found}, lost


@pytest.mark.parametrize("names", [
    ("06-dpo/group-1.ipynb", "06-dpo/group-2.ipynb"), ("2024-1001_06-dpo.ipynb", "2024-1002_06-dpo.ipynb"), ("lee-1_06-dpo.ipynb", "lee-2_06-dpo.ipynb"),
    ("06-dpo_lee-1.ipynb", "06-dpo_lee-2.ipynb"), ("sectionA/ann/06-dpo.ipynb", "sectionA/bob/06-dpo.ipynb"), ("sectionA/ann/06-dpo/notebook.ipynb", "sectionA/bob/06-dpo/notebook.ipynb"),
], ids=lambda names: names[0])
def test_two_students_stay_two(tmp_path, names):
    found, lost = handed_in(tmp_path, *names)
    assert sorted(filter(None, found.values())) == sorted(names) and not lost


@pytest.mark.parametrize("name, student", [("Zoë Ng_06-dpo.ipynb", "Zoë Ng"), ("ann_06-dpo (2).ipynb", "ann"), ("ann_1234_06-dpo-1.ipynb", "ann_1234"), ("ann/06-dpo.ipynb", "ann"),
                                           ("ann/renamed.ipynb", "ann"), ("06-DPO/ann.ipynb", "ann")])
def test_the_student_of_a_name(tmp_path, name, student):
    assert list(handed_in(tmp_path, name)[0]) == [student]


def test_of_several_the_latest_counts(tmp_path):
    assert handed_in(tmp_path, "ann_06-dpo-9.ipynb", "ann_06-dpo-10.ipynb")[0] == {"ann": "ann_06-dpo-10.ipynb"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_shown_with_a_question_mark(tmp_path):
    found, _ = handed_in(tmp_path, b"Zo\xeb_06-dpo.ipynb")
    (student,) = found
    assert student == "Zo\ufffd" and grade._digest(student)


def test_half_a_character_becomes_a_question_mark(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text('{"cells": [{"cell_type": "code", "metadata": {}, "source": "x = \\"\\ud83d\\""}]}')
    assert submissions.read(path) == [("code", "", 'x = "?"')]


def test_a_long_name_has_a_page_that_can_be_written(tmp_path):
    name = "a" * 252
    (tmp_path / f"{grade._short(name)}.html").write_text("")
    assert grade._short("ann") == "ann" and grade._short(name) != grade._short(name + "b")


@pytest.mark.parametrize("content, wanted", [(b"student;assignment;exercise;points;comment\n", "its first line should be student,assignment"),
                                             ("student,assignment,exercise,points,comment\nZo\u00eb,a,b,1,\n".encode("cp1252"), "is not a CSV file in UTF-8"),
                                             (b"student,assignment,exercise,points,comment,initials\n", "with no other columns")])
def test_a_table_of_marks_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, content, wanted):
    path = tmp_path / "marks.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=wanted):
        report.read_marks(path, [])
    assert path.read_bytes() == content
