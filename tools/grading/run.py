"""One notebook, from its cells to the points of each exercise. Whatever the notebook does, the result is a row for each exercise."""

import secrets

from tools.grading import guard
from tools.grading.assemble import answered, plan
from tools.grading.kernel import Kernel, plain, too_large

BY_HAND = "to be marked by hand"
GUARD = 30  # seconds for a cell of the guard, whatever the limit of a learner's cell


def grade(assignment, cells, limits, layers, hide=()):
    """The rows of a notebook: one dictionary for each exercise. points is None where a person has to give them."""
    planned = plan(assignment, cells)
    outcomes, failed = execute(assignment, planned.steps, limits, layers, hide)
    return [_row_of(assignment, exercise, planned, outcomes, failed, limits) for exercise in assignment.exercises]


def nothing(assignment, why):
    """The rows of a notebook that cannot be graded at all."""
    return [row(exercise, 0.0, [why]) for exercise in assignment.exercises]


def row(exercise, points, comments, answer=""):
    """comments: sentences; the same one is said once."""
    said = "; ".join(dict.fromkeys(filter(None, comments)))
    return {"exercise": exercise.id, "points": points, "max_points": exercise.points, "comment": said, "answer": answer}


def execute(assignment, steps, limits, layers, hide=()):
    """({test id: (outcome, why it cannot be believed)}, {exercise id: outcome of its answer, if that failed})."""
    outcomes, failed, word = {}, {}, secrets.token_hex(8)
    with Kernel(limits, layers, hide) as kernel:
        before = _prepare(kernel, assignment, word)
        kernel.start_clock()
        for step in steps:
            if step.test is None:
                outcome = kernel.run(step.source)
                if step.exercise and outcome.status != "ok":
                    failed[step.exercise.id] = outcome
            else:
                outcome = kernel.run(guard.in_own_space(step.source, assignment.answers))
                seen = kernel.run(guard.probe(word), GUARD) if outcome.status == "ok" else outcome
                doubt = guard.tampering(before, guard.read(seen, word)) if outcome.status == "ok" else ""
                doubt = "the time ran out before its result could be checked" if doubt and seen.status == "timeout" else doubt
                outcomes[step.test.id] = (seen, "") if seen.status == "dead" else (outcome, doubt)
    return outcomes, failed


def _prepare(kernel, assignment, word):
    """Run what comes before the learner's first cell, and take the marks of what the tests rely on."""
    for source in [guard.START, *assignment.setup]:
        outcome = kernel.run(source, seconds=kernel.limits.notebook)
        if outcome.status != "ok":
            raise RuntimeError(f"the set-up cell of {assignment.name} fails: {outcome.error} {plain(outcome.message)}")
    before = guard.read(kernel.run(guard.probe(word), kernel.limits.notebook), word)
    if before is None:
        raise RuntimeError(f"the guard fails after the set-up cell of {assignment.name}")
    return before


def _row_of(assignment, exercise, planned, outcomes, failed, limits):
    answer, remarks = planned.answers.get(exercise.id, ""), planned.remarks[exercise.id]
    if exercise.kind == "text":
        waits = answered(exercise, answer)
        return row(exercise, None if waits else 0.0, [BY_HAND if waits else "not answered", *remarks], answer)
    judged = [judge(exercise, test, answer, *outcomes[test.id], failed.get(exercise.id), limits) for test in exercise.tests]
    comments = ["its message repeats lines of the hidden tests and is not shown" if assignment.hidden_in(outcomes[test.id][0].message) else comment
                for test, (_, comment) in zip(exercise.tests, judged)]
    return row(exercise, sum(points for points, _ in judged), [*comments, *remarks], answer)


def judge(exercise, test, answer, outcome, tampering, failed, limits):
    """(points, comment) of one test."""
    if outcome.status == "dead":
        return 0.0, f"not run: {outcome.message}"
    if tampering:
        return 0.0, tampering
    if outcome.status == "ok":
        return test.points, ""
    if answer and not answered(exercise, answer):
        return 0.0, "not answered"
    if failed and failed.status == "error":
        return 0.0, f"the cell of the answer fails: {said(failed, limits)}"
    if failed:
        return 0.0, f"the cell of the answer was {failed.message}"
    return 0.0, said(outcome, limits) if outcome.status == "error" else f"its test was {outcome.message}"


def said(outcome, limits):
    """What an error says, for the learner."""
    message = plain(outcome.message)
    if outcome.error == "MemoryError" or "can't allocate memory" in message:
        return too_large(limits)
    return message if outcome.error == "AssertionError" and message else f"{plain(outcome.error, 60)}: {message}".rstrip(": ")
