"""What a batch leaves behind: scores.csv, marks.csv for what a person marks, and a page of feedback for each student.

The pages are plain HTML that loads nothing and escapes everything: what a learner wrote is shown, never run. nbgrader's own
pages would load scripts from other servers, insert a learner's HTML, and show tracebacks that quote the hidden tests.
"""

import csv
import math
import os
from html import escape
from statistics import median

from tools.grading.run import BY_HAND

SCORES = ("student", "assignment", "exercise", "points", "max_points", "comment")
MARKS = ("student", "assignment", "exercise", "points", "comment")
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ background: #f4f4f4; padding: .7rem; overflow-x: auto; white-space: pre-wrap }}
table {{ border-collapse: collapse }} td, th {{ border-bottom: 1px solid #ccc; padding: .2rem .8rem .2rem 0; text-align: left }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def read_marks(path, results):
    """{(student, assignment, exercise): (points, comment)} that a person gave. A row that cannot be right is an error that names it."""
    marks = {}
    if not path.is_file():
        return marks
    most = {(result["student"], result["assignment"], row["exercise"]): row["max_points"] for result in results for row in result["rows"]}
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(reader := csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path.name} is not a CSV file in UTF-8: save it as one ({error})") from None
        if set(reader.fieldnames or ()) != set(MARKS):
            raise ValueError(f"{path.name}: its first line should be {','.join(MARKS)}, with no other columns")
        for line, row in enumerate(rows, 2):
            key = tuple(_unescaped(row[name] or "") for name in MARKS[:3])
            points = (row["points"] or "").strip().replace(",", ".")
            marks[key] = (_points(points, most.get(key, math.inf), f"{path.name}, line {line}") if points else None, _unescaped(row["comment"] or ""))
    return marks


def _points(text, most, where):
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points <= most:
        raise ValueError(f"{where}: the points should be a number from 0 to {most:g}, not {text!r}")
    return points


def merge(results, marks):
    """Put a person's points in place. They win over those of the tests, so marks.csv also corrects a score."""
    for result in results:
        for row in result["rows"]:
            points, comment = marks.get((result["student"], result["assignment"], row["exercise"]), (None, ""))
            if points is not None:
                row["points"], row["comment"] = points, comment or row["comment"].removeprefix(BY_HAND).removeprefix("; ")


def write_scores(path, results):
    write_table(path, SCORES, [[result["student"], result["assignment"], row["exercise"], number(row["points"]),
                                number(row["max_points"]), row["comment"]] for result in results for row in result["rows"]])


def write_marks(path, results, marks):
    """Every row that a person filled, and an empty one for each answer that still waits."""
    waiting = {(result["student"], result["assignment"], row["exercise"]): (None, "") for result in results for row in result["rows"]
               if row["points"] is None and not result["failed"]}
    rows = {**waiting, **{key: mark for key, mark in marks.items() if mark[0] is not None or mark[1] or key in waiting}}
    write_table(path, MARKS, [[*key, number(points), comment] for key, (points, comment) in sorted(rows.items())])


def write_table(path, head, rows):
    """A CSV file, written at once: a batch that is interrupted leaves the old one or the new one."""
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *([_escaped(cell) for cell in row] for row in rows)])
    os.replace(new, path)


def _escaped(cell):
    """A spreadsheet would take a text that begins so for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _unescaped(cell):
    return cell[1:] if cell[:1] == "'" and cell[1:2] in ("=", "+", "-", "@", "\t", "\r") else cell


def number(points):
    """
    >>> number(2.0), number(0.5), number(None)
    ('2', '0.5', '')
    """
    return "" if points is None else f"{points:g}"


def page(student, results, assignments):
    """The feedback of one student, all assignments together. It shows the answers and what was said of them, no test."""
    parts = [_section(result, assignments[result["assignment"]]) for result in results]
    return PAGE.format(title=escape(f"Feedback for {student}"), body="\n".join(parts))


def _section(result, assignment):
    titles = {exercise.id: exercise.title for exercise in assignment.exercises}
    lines = [f"<tr><td>{escape(titles[row['exercise']])}</td><td>{_score(row)}</td><td>{escape(row['comment'])}</td></tr>" for row in result["rows"]]
    answers = [f"<h3>{escape(titles[row['exercise']])}</h3>\n<p>{_score(row)}. {escape(row['comment'])}</p>\n<pre>{escape(row['answer'])}</pre>"
               for row in result["rows"] if row["answer"]]
    return "\n".join([f"<h2>{escape(assignment.title)}: {number(total(result))} of {number(assignment.points)} points</h2>",
                      "<table><tr><th>exercise</th><th>points</th><th>comment</th></tr>", *lines, "</table>", *answers])


def _score(row):
    return f"{number(row['points']) or '?'} of {number(row['max_points'])} points"


def total(result):
    return sum(row["points"] or 0 for row in result["rows"])


def summary(results, lost, seconds, fresh, cages):
    """What to know about a batch, in a few lines."""
    students = {result["student"] for result in results}
    lines = [f"Graded {len(results)} notebooks of {len(students)} students, {fresh} of them now, in {seconds:.0f} seconds"
             + (f" ({seconds / fresh:.1f} each)." if fresh else ".")]
    for name in sorted({result["assignment"] for result in results}):
        totals = [total(result) for result in results if result["assignment"] == name]
        most = sum(row["max_points"] for row in next(result for result in results if result["assignment"] == name)["rows"])
        lines.append(f"  {name}: median {number(median(totals))} of {number(most)} points, lowest {number(min(totals))}, highest {number(max(totals))}")
    lines += [f"  look at {result['student']}, {result['assignment']}: the code names {', '.join(result['look'])}" for result in results if result["look"]]
    lines += [f"  could not be graded, run again: {result['student']}, {result['assignment']}: {result['failed']}" for result in results if result["failed"]]
    lines += [f"  not graded: {path}: {why}" for path, why in lost.items()]
    waiting = sum(row["points"] is None for result in results for row in result["rows"] if not result["failed"])
    lines += [f"  {waiting} answers are to be marked by hand: write points into marks.csv and run the same command again"] if waiting else []
    return "\n".join([*lines, f"Each notebook ran alone with {cages}."])
