"""A learner's notebook and our tests, put together as a list of cells to execute.

The learner's cells run in their order. Test cells are always ours, placed after the answer that they test, whatever the notebook has
at that place: edited, deleted, twice, or with other ids. Nothing of a notebook's metadata is believed but the ids of the answers.
"""

from dataclasses import dataclass

UNANSWERED = "YOUR ANSWER HERE"


@dataclass(frozen=True)
class Step:
    """A cell to execute. exercise: whose answer it is, or whose test. test: the test, None for a learner's cell."""
    source: str
    exercise: object = None
    test: object = None


@dataclass
class Plan:
    """What to execute after the set-up cells, what was written for each exercise ({id: text}), and what the notebook had that it should not ({id: remarks})."""
    steps: list
    answers: dict
    remarks: dict


def plan(assignment, cells):
    """cells: (kind, nbgrader id or "", source) of each cell of the learner's notebook, in order."""
    places = {id: place for place, (_, id, _) in enumerate(cells)}  # of two cells with one id, the later one counts, as in nbgrader
    answers = {exercise.id: cells[places[exercise.id]][2] for exercise in assignment.exercises if exercise.id in places}
    steps = []
    here = {places[exercise.id]: exercise for exercise in assignment.exercises if exercise.id in places}
    for place, (kind, id, source) in enumerate(cells):
        if kind == "code" and not assignment.gave(id, source):
            steps.append(Step(source, here.get(place)))
        if place in here:
            steps += _tests(here[place])
    steps += [step for exercise in assignment.exercises if exercise.id not in places for step in _tests(exercise)]
    return Plan(steps, answers, {exercise.id: list(_remarks(exercise, cells, places)) for exercise in assignment.exercises})


def _tests(exercise):
    return [Step(test.source, exercise, test) for test in exercise.tests]


def _remarks(exercise, cells, places):
    """What the learner should know about this exercise's cells, whatever its points."""
    if exercise.id not in places:
        yield "the cell for the answer is missing" + (": its tests ran after all other cells" if exercise.kind == "code" else "")
    elif cells[places[exercise.id]][0] != ("code" if exercise.kind == "code" else "markdown"):
        yield f"the cell for the answer is no {'code' if exercise.kind == 'code' else 'text'} cell any more"
    if sum(id == exercise.id for _, id, _ in cells) > 1:
        yield "two cells have the id of the answer: the later one counts"
    for test in exercise.tests:
        if test.id not in places:
            yield "its test cell is missing: ours was used"
        elif cells[places[test.id]][2].strip() not in (test.shown.strip(), test.source.strip()):
            yield "its test cell was edited: ours was used"


def answered(exercise, text):
    """Did somebody write something into the cell?"""
    return bool(text) and text.strip() not in ("", exercise.stub.strip(), UNANSWERED)
