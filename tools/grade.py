"""Grade a folder of submitted notebooks against solutions/, each one alone, in a caged kernel of its own.

    python -m tools.grade SUBMISSIONS OUT     (make grade SUBMISSIONS=... OUT=...)

Writes into OUT: scores.csv, feedback/<student>.html, marks.csv for the answers that a person marks, and results/, from which an
interrupted batch goes on and a second run takes what has not changed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple
from pathlib import Path

from tqdm import tqdm

from tools.grading import guard, kernel, report, run, submissions
from tools.grading.assignment import load_all

OURS = "grading.json"  # says that a folder was made here, and what we wrote into scores.csv


def batch(folder, out, solutions, limits, workers=2, force=False, fresh=False):
    """Grade all, write all, return the results."""
    started = time.perf_counter()
    assignments = load_all(solutions)
    found, lost = submissions.find(folder, assignments)
    if not found:
        raise ValueError(f"{folder} holds no notebook of any assignment: see the accepted names in the instructor guide")
    claim(folder, out, force)
    report.read_marks(out / "marks.csv", [])  # what is wrong with it should be known before the grading
    layers = kernel.layers()
    tasks = [(one, assignments[one.assignment], out / "results" / f"{_digest(one.student, one.assignment)}.json") for one in found]
    stamps = [stamp(one, assignment, limits, layers) for one, assignment, _ in tasks]
    kept = [None if fresh else _kept(path, stamp) for (_, _, path), stamp in zip(tasks, stamps)]
    todo = [(task, stamp) for task, stamp, old in zip(tasks, stamps, kept) if old is None]
    done = _all(todo, limits, layers, [solutions, folder, out], workers)
    results = [done.get(task[2], old) for task, old in zip(tasks, kept)]
    unused = write(out, results, assignments)
    lost |= {f"marks.csv, {', '.join(key)}": "there is no such exercise in this batch" for key in unused}
    print(report.summary(results, lost, time.perf_counter() - started, len(todo), kernel.described(layers)))
    return results


def _all(todo, limits, layers, hide, workers):
    """{path of the result: result}. Each is stored as soon as it is there."""
    done, pool = {}, ThreadPoolExecutor(workers)
    waiting = {pool.submit(one, submission, assignment, limits, layers, hide): (path, stamp) for (submission, assignment, path), stamp in todo}
    try:
        for future in tqdm(as_completed(waiting), total=len(waiting), desc="grading", unit="notebook", disable=not waiting):
            path, stamp = waiting[future]
            done[path] = future.result()
            if not done[path]["failed"]:
                _store(path, {**done[path], "stamp": stamp})
    except KeyboardInterrupt:
        kernel.end_all()
        raise SystemExit("interrupted: the same command goes on from here") from None
    finally:
        pool.shutdown(cancel_futures=True)
    return done


def one(submission, assignment, limits, layers, hide=()):
    """The result of one submission. failed: what went wrong on our side; such a result has no points and is not kept."""
    rows, look, failed = _graded(submission, assignment, limits, layers, hide)
    return {"student": submission.student, "assignment": submission.assignment, "rows": rows, "look": look, "failed": failed}


def _graded(submission, assignment, limits, layers, hide):
    """(rows, names in the code to look at, what went wrong on our side)."""
    if submission.path is None:
        return run.nothing(assignment, submission.remark), [], ""
    try:
        cells = submissions.read(submission.path)
    except ValueError as error:
        return run.nothing(assignment, str(error)), [], ""
    rows, failed = _twice(lambda: run.grade(assignment, cells, limits, layers, hide))
    if failed:
        return [{**row, "points": None} for row in run.nothing(assignment, f"could not be graded: {failed}")], [], failed
    remarks = [submission.remark, "" if {id for _, id, _ in cells} & assignment.ids else "none of its cells has an id of this assignment"]
    for row in rows:
        row["comment"] = "; ".join(filter(None, [row["comment"], *remarks]))
    code = "\n".join(source for kind, id, source in cells if kind == "code" and not assignment.gave(id, source))
    return rows, guard.suspicious(code), ""


def _twice(action):
    """(result, "") or (None, why not). A machine under load may be too slow to start a kernel; whatever it is, the batch goes on."""
    for _ in range(2):
        try:
            return action(), ""
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    return None, why


def write(out, results, assignments):
    """The tables and the pages. Returns the marks that belong to nothing here."""
    marks = report.read_marks(out / "marks.csv", results)
    report.merge(results, marks)
    report.write_scores(out / "scores.csv", results)
    _store(out / OURS, {"scores": _digest((out / "scores.csv").read_text("utf8"))})
    report.write_marks(out / "marks.csv", results, marks)
    (out / "feedback").mkdir(exist_ok=True)
    for student in dict.fromkeys(result["student"] for result in results):
        page = report.page(student, [result for result in results if result["student"] == student], assignments)
        (out / "feedback" / f"{_short(student)}.html").write_text(page, "utf8")
    return sorted(set(marks) - {(result["student"], result["assignment"], row["exercise"]) for result in results for row in result["rows"]})


def _short(student):
    """A name that any file system takes."""
    return student if len(student.encode()) < 200 else f"{student[:40]} {_digest(student)}"


def claim(folder, out, force):
    """Make sure that OUT may be written: new, empty, or ours and not edited since. Otherwise ask."""
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise ValueError("OUT and SUBMISSIONS must not lie in one another")
    if problem := foreign(out):
        ask(f"{out}: {problem}. ", force)
    (out / "results").mkdir(parents=True, exist_ok=True)
    if not (out / OURS).exists():
        _store(out / OURS, {"scores": ""})


def foreign(out):
    """Why a folder should not be written into without asking."""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return ""
    if not (out / OURS).is_file():
        return "there are files that this program did not write"
    known = json.loads((out / OURS).read_text("utf8"))["scores"]
    if (out / "scores.csv").is_file() and _digest((out / "scores.csv").read_text("utf8")) != known:
        return "scores.csv was edited, and would be written anew (points given by hand belong into marks.csv)"
    return ""


def ask(problem, force):
    if force:
        return
    if not sys.stdin.isatty():
        raise ValueError(f"{problem}Choose another folder, or add FORCE=1 to write into this one.")
    if input(f"{problem}Go on and write into it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SystemExit("nothing was written")


def stamp(submission, assignment, limits, layers):
    """What a result depends on: if none of it changed, the notebook is not graded again."""
    file = b""
    with contextlib.suppress(OSError, AttributeError):  # unreadable, or none
        file = submission.path.read_bytes()
    code = [path.read_bytes() for path in sorted([*Path(__file__).parent.rglob("*.py"), *Path(kernel.package(), "lab").rglob("*.py")])]
    return _digest(submission.remark, assignment.hash, repr(astuple(limits)), repr(layers), *(hashlib.sha256(part).hexdigest() for part in [file, *code]))


def _kept(path, stamp):
    """The result of an earlier run, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        result = json.loads(path.read_text("utf8"))
        return result if result["stamp"] == stamp else None


def _store(path, data):
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(data, ensure_ascii=False, indent=1), "utf8")
    os.replace(new, path)


def _digest(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.grade", description=__doc__.split("\n")[0])
    parser.add_argument("submissions", type=Path, help="a folder of notebooks")
    parser.add_argument("out", type=Path, help="a folder for the scores and the feedback")
    parser.add_argument("--solutions", type=Path, default=Path("solutions"))
    parser.add_argument("--workers", type=int, default=2, help="notebooks at the same time")
    parser.add_argument("--seconds", type=float, default=kernel.Limits.cell, help="for one cell; a notebook has six times as long")
    parser.add_argument("--memory", type=float, default=kernel.Limits.memory / 2**30, help="GB for one notebook")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other files")
    parser.add_argument("--fresh", action="store_true", help="grade again what has not changed")
    options = parser.parse_args(arguments)
    limits = kernel.Limits(options.seconds, 6 * options.seconds, int(options.memory * 2**30))
    try:
        if not options.submissions.is_dir():
            raise ValueError(f"{options.submissions} is no folder: SUBMISSIONS should be the one with the notebooks")
        results = batch(options.submissions, options.out, options.solutions, limits, options.workers, options.force, options.fresh)
        sys.exit(1 if any(result["failed"] for result in results) else 0)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
