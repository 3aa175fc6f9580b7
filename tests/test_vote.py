"""The blind ballot: what it saves, that it resumes, and that the voter cannot tell the models apart by their place."""

import json

import pytest

from lab import vote

PROMPTS = [f"Question {i}?" for i in range(40)]
A, B = [f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "votes.jsonl"


def prefer(ballot, letter, n):
    """Vote n times for the answer that begins with a letter, wherever it stands."""
    for _ in range(n):
        _, first, _ = ballot.current()
        ballot.choose("first" if first.startswith(letter) else "second")


def test_votes_count_for_the_model_and_not_for_the_place(path):
    ballot = vote.Ballot(path, PROMPTS, A, B)
    prefer(ballot, "a", 30)
    prefer(ballot, "b", 10)
    assert ballot.current() is None
    assert vote.tally(path).mean == 0.75


def test_both_orders_occur_and_are_the_same_when_opened_again(path):
    ballot = vote.Ballot(path, PROMPTS, A, B)
    first = [ballot.order(id) for id, *_ in ballot.left]
    assert 8 < first.count("ab") < 32
    again = vote.Ballot(path, PROMPTS, A, B)
    assert [again.order(id) for id, *_ in again.left] == first
    always_first = vote.Ballot(path, PROMPTS, A, B)
    while always_first.current():
        always_first.choose("first")
    assert 0.2 < vote.tally(path).mean < 0.8


def test_every_vote_is_saved_at_once_and_the_ballot_resumes(path):
    ballot = vote.Ballot(path, PROMPTS, A, B)
    for n in range(1, 4):
        prefer(ballot, "a", 1)
        assert len(path.read_text().splitlines()) == n
    resumed = vote.Ballot(path, PROMPTS, A, B)
    assert len(resumed.left) == 37 and resumed.current() == ballot.current()
    record = json.loads(path.read_text().splitlines()[0])
    assert set(record) == {"id", "winner", "order", "seconds"} and record["winner"] == "a"


def test_a_vote_that_was_cut_off_is_asked_again_and_spoils_no_other(path):
    prefer(vote.Ballot(path, PROMPTS, A, B), "a", 2)
    path.write_bytes(path.read_bytes()[:-9])
    resumed = vote.Ballot(path, PROMPTS, A, B)
    assert len(resumed.left) == 39
    prefer(resumed, "b", 1)
    assert [v["winner"] for v in vote.votes(path)] == ["a", "b"]


def test_votes_on_other_answers_are_not_taken_for_votes_on_these(path):
    prefer(vote.Ballot(path, PROMPTS, A, B), "a", 5)
    assert len(vote.Ballot(path, PROMPTS, A, [text + "!" for text in B]).left) == 40


def test_the_same_text_twice_is_a_tie_without_asking(path):
    ballot = vote.Ballot(path, ["x?", "y?"], ["same", "a"], ["same ", "b"])
    assert len(ballot.left) == 1
    assert vote.tally(path).mean == 0.5


def test_the_first_vote_on_a_pair_counts(path):
    lines = [{"id": "1", "winner": "a", "order": "ab", "seconds": 1}, {"id": "1", "winner": "b", "order": "ab", "seconds": 1}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert vote.tally(path).mean == 1


def test_what_is_no_vote_is_refused(path):
    with pytest.raises(ValueError, match="third"):
        vote.Ballot(path, PROMPTS, A, B).choose("third")
    with pytest.raises(ValueError, match="no vote"):
        vote.tally(path)


def test_the_widget_votes_and_escapes(path):
    box = vote.widget(path, ["<b>x</b>?"], ["<script>a"], ["b"])
    head, answers, buttons = box.children
    assert "<b>" not in head.value and all("<script>" not in child.value for child in answers.children)
    buttons.children[0].click()
    assert len(vote.votes(path)) == 1
    assert all(button.disabled for button in buttons.children) and "thank you" in head.value
    buttons.children[0].click()  # a second click is no second vote
    assert len(vote.votes(path)) == 1


def test_the_terminal_asks_until_q(path):
    replies = iter(["1", "what?", "=", "q"])
    vote.in_terminal(path, PROMPTS, A, B, ask=lambda question: next(replies))
    assert len(vote.votes(path)) == 2 and vote.votes(path)[1]["winner"] == "tie"


def test_without_ipywidgets_the_terminal_is_used(path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(vote, "in_terminal", lambda *args: "asked in the terminal")
    assert vote.widget(path, PROMPTS, A, B) == "asked in the terminal"
