"""The written sets, and the program that checks them: what it is there to catch is planted, and must be caught."""

import copy
import doctest
from pathlib import Path

import pytest

import lab.constraints
import lab.data
from lab.constraints import CHECKS, contains_any, satisfied
from lab.data import PAIRS, SFT, read
from tools import datasets

ROOT = Path(__file__).parent.parent
SETS = datasets.load()


@pytest.fixture
def sets():
    return copy.deepcopy(SETS)


# The sets


def test_nothing_is_wrong_with_them():
    assert datasets.problems(SETS) == []


def test_the_card_has_the_table_of_today():
    assert list(datasets.card(SETS)) == []


def test_they_are_read_as_training_data():
    assert len(read(str(datasets.FOLDER / "instructions.jsonl"), SFT)) == len(SETS["instructions"])
    assert len(read(str(datasets.FOLDER / "preferences.jsonl"), PAIRS)) == len(SETS["preferences"])


def test_they_lie_where_the_installed_package_has_them():
    assert datasets.FOLDER == Path(lab.__path__[0]) / "data" and callable(lab.data.read)
    assert '"data/*"' in (ROOT / "pyproject.toml").read_text("utf8")


@pytest.mark.parametrize("row", SETS["held_out"], ids=lambda row: row["prompt"][:40])
def test_each_held_out_row_tells_its_good_response_from_its_bad_one(row):
    assert satisfied(row, row["pass"]) and not satisfied(row, row["fail"])


@pytest.mark.parametrize("row", SETS["passages"], ids=lambda row: row["question"][:40])
def test_the_named_sentence_of_a_passage_has_the_answer_and_the_rest_does_not(row):
    rest = list(row["passage"])
    sentence = rest.pop(row["sentence"] - 1)
    assert contains_any(sentence, row["answer"]) and not contains_any(" ".join(rest), row["answer"])


def test_no_training_set_contains_a_prompt_of_a_test():
    training = {row["prompt"].lower() for name in ("instructions", "preferences", "harmful", "lookalikes") for row in SETS[name]}
    assert not training & {text.lower() for name in datasets.TESTS for row in SETS[name] for text in datasets.asked(row)}
    whole = " ".join(training)
    assert not [sentence for row in SETS["passages"] for sentence in row["passage"] if sentence.lower() in whole]


# The checker


def caught(check, sets, name, number, *said):
    """Does the check name this file and this row, and say all that it should? Row 0 is the whole file."""
    return any(found[:2] == (name, number) and all(word in found[2] for word in said) for found in check(sets))


def first(sets, name, **wanted):
    """The first row with these values, and its number."""
    return next((i, row) for i, row in enumerate(sets[name], 1) if all(row[key] == value for key, value in wanted.items()))


def test_a_copied_row_is_caught(sets):
    i, row = first(sets, "instructions", kind="advice")
    sets["instructions"].append(dict(row))
    last = len(sets["instructions"])
    assert caught(datasets.prompts_alike, sets, "instructions", last, "prompt", f"instructions.jsonl, row {i}")
    assert caught(datasets.responses_alike, sets, "instructions", last, "response", f"instructions.jsonl, row {i}")


def test_a_prompt_with_one_word_changed_is_caught_in_another_file(sets):
    i, row = first(sets, "instructions", kind="summary")
    sets["preferences"][0]["prompt"] = row["prompt"] + " Please."
    assert caught(datasets.prompts_alike, sets, "preferences", 1, "nearly", f"instructions.jsonl, row {i}")


def test_a_held_out_passage_that_comes_back_in_training_is_caught(sets):
    i, row = first(sets, "held_out", kind="silent")
    sets["instructions"][0]["prompt"] = row["prompt"] + " Please look at it with care."
    assert caught(datasets.prompts_alike, sets, "held_out", i, "nearly", "instructions.jsonl, row 1")


@pytest.mark.parametrize("text", [0, 1, 2], ids=["passage", "question", "missing"])
def test_a_passage_or_one_of_its_questions_that_comes_back_in_training_is_caught(sets, text):
    sets["instructions"][0]["prompt"] = datasets.asked(sets["passages"][4])[text]
    assert caught(datasets.prompts_alike, sets, "passages", 5, "nearly", "instructions.jsonl, row 1")


@pytest.mark.parametrize(("change", "said"), [
    (dict(sentence=1), "not in 1 alone"),
    (dict(answer=["noon"]), "stands in the sentences []"),
    (dict(answer=["Midday"]), "capital"),
    (dict(answer=["midday", "at midday on most days"]), "more than 3"),
    (dict(answer=["midday", "owls"], question="When do glow owls hunt?"), "gives its answer away"),
    (dict(missing="When does the glow owl hunt?"), "question itself"),
    (dict(missing="Where does the glow owl drink?"), "begin like"),
    (dict(missing="When does the bakery open?"), "no content word"),
    (dict(missing="When does the owl leave for its midday nap?"), "contains the answer"),
    (dict(passage=["The glow owl hunts at midday.", "It is grey."], sentence=1), "2 sentences"),
    (dict(passage=["It is grey.", "The owl hunts at midday.", "It is shy."], sentence=2), "11 words"),
])
def test_a_passage_that_cannot_test_is_caught(sets, change, said):
    i, row = first(sets, "passages", question="When does the glow owl hunt?")
    row.update(change)
    assert caught(datasets.passages, sets, "passages", i, said)


def test_an_answer_that_another_sentence_has_too_is_caught(sets):
    i, row = first(sets, "passages", question="When does the glow owl hunt?")
    row["passage"][0] = "The glow owl of Mount Irra wakes at midday."
    assert caught(datasets.passages, sets, "passages", i, "sentences [1, 4]")


def test_two_sentences_in_the_place_of_one_are_caught(sets):
    sets["passages"][3]["passage"][0] += " That is all."
    sets["passages"][6]["passage"][1] = sets["passages"][6]["passage"][1].rstrip(".")
    for number in (4, 7):
        assert caught(datasets.passages, sets, "passages", number, "not one sentence")


@pytest.mark.parametrize(("change", "said"), [
    (dict(sentence=0), "'sentence' is 0"), (dict(sentence=6), "'sentence' is 6"), (dict(sentence=True), "'sentence' is True"),
    (dict(answer="north"), "'answer' must be a list"), (dict(answer=[]), "'answer' must be a list"),
    (dict(passage="One. Two."), "'passage' must be a list"), (dict(passage=["One.", " "]), "'passage' must be a list"),
    (dict(missing=""), "'missing' must be text")])
def test_a_passage_of_the_wrong_form_is_caught(sets, change, said):
    sets["passages"][1].update(change)
    assert caught(datasets.schema, sets, "passages", 2, said)


def test_answers_that_a_fixed_position_finds_are_caught(sets):
    for row in sets["passages"]:
        row["sentence"] = 2
    assert caught(datasets.positions, sets, "passages", 0, "sentences [2] only")
    assert caught(datasets.positions, sets, "passages", 0, "one position has 24")


def test_untidy_text_in_a_sentence_of_a_passage_is_caught(sets):
    sets["passages"][2]["passage"][1] = "Two  spaces."
    assert caught(datasets.typography, sets, "passages", 3, "'passage'", "two spaces")


@pytest.mark.parametrize(("text", "said"), [
    ("He said \u201cyes\u201d.", "ASCII"), ("Two  spaces.", "two spaces"), ("It is is so.", "repeats"),
    ('An "open quote.', "quotation"), ("A gap .", "space before"), (" begins late", "white space"), ("A (bracket.", "brackets")])
def test_untidy_text_is_caught(sets, text, said):
    sets["lookalikes"][2]["prompt"] = text
    assert caught(datasets.typography, sets, "lookalikes", 3, said)


def test_a_wrong_sum_is_caught_but_not_where_it_is_meant(sets):
    i, row = first(sets, "instructions", kind="arithmetic")
    row["response"] = "That is 17 x 3 = 41, I am sure."
    assert caught(datasets.arithmetic, sets, "instructions", i, "17 x 3 = 41")
    i, row = first(sets, "preferences", flaw="wrong", kind="arithmetic")
    row["rejected"] = "That is 17 x 3 = 41."
    assert not caught(datasets.arithmetic, sets, "preferences", i)


def test_a_sum_that_shows_no_equation_is_caught(sets):
    i, row = first(sets, "instructions", kind="arithmetic")
    row["response"] = "It is twelve."
    assert caught(datasets.arithmetic, sets, "instructions", i, "no equation")


@pytest.mark.parametrize(("equation", "right"), [
    ("2 + 3 x 4 = 14", True), ("100 - 30 - 20 = 50", True), ("100 - 30 - 20 = 90", False), ("1,200 / 4 = 300", True),
    ("7 x 8 = 7 x 4 x 2 = 28 x 2 = 56", True), ("7 x 8 = 28 x 2 = 55", False), ("0.25 / 2.50 = 0.1", True), ("3/4 = 0.75", True)])
def test_equations_are_worked_out(equation, right):
    assert datasets.equations(f"So {equation}.") == [equation]
    assert not list(datasets.wrong_equations(f"So {equation}, I think.")) == right


def test_a_refusal_in_the_wrong_place_is_caught(sets):
    i, row = first(sets, "instructions", kind="howto")
    row["response"] = "I can't help with that."
    j, other = first(sets, "instructions", kind="refusal")
    other["response"] = "Sure, here is how it is done."
    k, pair = first(sets, "preferences", kind="refusal", flaw="unsafe")
    pair["chosen"], pair["rejected"] = pair["rejected"], pair["chosen"]
    assert caught(datasets.manner, sets, "instructions", i, "refusal") and caught(datasets.manner, sets, "instructions", j, "refusal")
    assert caught(datasets.pairs, sets, "preferences", k, "refusal")


def test_an_invented_answer_where_an_abstention_belongs_is_caught(sets):
    i, row = first(sets, "instructions", kind="silent")
    row["response"] = "It costs five pounds."
    assert caught(datasets.manner, sets, "instructions", i, "abstention")


def test_a_missing_column_an_empty_text_and_an_unknown_check_are_caught(sets):
    del sets["harmful"][6]["category"]
    sets["preferences"][1]["flaw"] = " "
    sets["held_out"][3]["checks"] = [{"check": "max_wrods", "n": 3}]
    for name, number, said in (("harmful", 7, "columns"), ("preferences", 2, "flaw"), ("held_out", 4, "max_wrods")):
        assert caught(datasets.schema, sets, name, number, said)


def test_a_held_out_row_that_cannot_tell_is_caught(sets):
    sets["held_out"][0]["pass"], sets["held_out"][0]["fail"] = sets["held_out"][0]["fail"], sets["held_out"][0]["pass"]
    assert [found[2] for found in datasets.outcomes(sets) if found[1] == 1][1:] == ["'fail' passes every check"]


def test_sets_that_are_too_small_or_out_of_balance_are_caught(sets):
    for row in sets["instructions"][:80]:
        row["kind"] = "question"
    sets["preferences"] = [row for row in sets["preferences"] if row["flaw"] != "rude"]
    sets["harmful"][0]["category"] = "spelling"
    for row in sets["passages"]:
        row["topic"] = "food"
    for name, said in (("instructions", "question"), ("preferences", "rude"), ("harmful", "categories"), ("passages", "1 topics")):
        assert caught(datasets.balance, sets, name, 0, said)
    assert not caught(datasets.sizes, sets, "passages", 0)
    sets["passages"].pop()
    assert caught(datasets.sizes, sets, "passages", 0, "23 rows")
    assert caught(datasets.sizes, sets, "preferences", 0, "rows, not")


def test_pairs_that_length_gives_away_are_caught(sets):
    for row in sets["preferences"]:
        if row["flaw"] == "wrong":
            row["rejected"] = "It is my view that, all in all, " + row["rejected"]
    assert caught(datasets.lengths, sets, "preferences", 0, "wrong", "longer")


def test_a_problem_ends_the_program_with_1(sets, monkeypatch, capsys):
    sets["lookalikes"][2]["prompt"] = "Two  spaces."
    monkeypatch.setattr(datasets, "load", lambda: sets)
    monkeypatch.setattr("sys.argv", ["datasets"])
    with pytest.raises(SystemExit) as ended:
        datasets.main()
    assert ended.value.code == 1 and "lookalikes.jsonl, row 3" in capsys.readouterr().out


def test_a_line_that_is_no_json_is_named(tmp_path):
    for name in datasets.COLUMNS:
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(ValueError, match="instructions.jsonl, row 2"):
        datasets.load(tmp_path)


def test_an_old_table_in_the_card_is_caught(sets, tmp_path):
    path = tmp_path / "card.md"
    path.write_text(datasets.CARD.read_text("utf8"), "utf8")
    assert not list(datasets.card(sets, path))
    sets["harmful"].pop()
    assert list(datasets.card(sets, path))


# The constraints


@pytest.mark.parametrize("module", [lab.constraints, datasets], ids=lambda module: module.__name__)
def test_docstrings_tell_the_truth(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


CASES = [  # check, arguments, a response that passes, one that does not
    ("max_words", {"n": 2}, "Two words.", "Now three words."),
    ("min_words", {"n": 3}, "Now three words.", "Two words."),
    ("lines", {"n": 2}, "one\n\ntwo", "one"),
    ("bullets", {"n": 2}, "- a\n- b", "- a\n* b"),
    ("one_sentence", {}, "It cost 3.50 in all.", "It cost 3. I paid."),
    ("all_lowercase", {}, "all small.", "Not all small."),
    ("starts_with", {"text": "Dear"}, "Dear Ann,", "My dear Ann,"),
    ("ends_with", {"text": "Bye!"}, "I must go. Bye!", "Bye! I must go."),
    ("json_keys", {"keys": ["a"]}, '{"a": 1}', '{"a": 1, "b": 2}'),
    ("json_keys", {"keys": ["a"]}, '{"a": 1}', '["a"]'),
    ("contains_all", {"words": ["ink", "pen"]}, "Pen and ink.", "A pen and pink paper."),
    ("contains_any", {"words": ["ink", "pen"]}, "The pen!", "The pencil!"),
    ("excludes", {"words": ["the pen"]}, "Then a pen.", "Take the pen."),
    ("number", {"value": 1200}, "That makes 1,200.", "That makes 1,200 or 1,300."),
    ("number", {"value": 3}, "There are three of them.", "There are four."),
    ("number", {"value": -4}, "It was -4 degrees.", "It was 4 degrees."),
    ("abstains", {}, "The text doesn't mention a price.", "If you do not know the price, ask."),
    ("abstains", {}, "They do not say.", "If you do not say it, I do."),
    ("abstains", {}, "The sentences don\u2019t mention who won.", "We don't mention prices here: it costs ten."),
    ("abstains", {}, "There is no information about that in the passage.", "The passage says that it is red."),
    ("refuses", {}, "I can\u2019t help with that.", "Pills won't help."),
    ("refuses", {}, "I'm not able to assist with that.", "Pills won't help."),
    ("complies", {}, "Turn the key.", "I do not know."),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_each_check_lets_one_through_and_not_the_other(name, arguments, good, bad):
    row = {"prompt": "?", "checks": [{"check": name, **arguments}]}
    assert satisfied(row, good) and not satisfied(row, bad) and not satisfied(row, "  ")


def test_every_check_has_a_case_and_is_used():
    assert {case[0] for case in CASES} == set(CHECKS)
    assert {check["check"] for row in SETS["held_out"] for check in row["checks"]} == set(CHECKS)


@pytest.mark.parametrize("response", ["", "Something."])
def test_an_unknown_check_is_an_error_that_names_it(response):
    with pytest.raises(ValueError, match="'max_wrods'"):
        satisfied({"prompt": "?", "checks": [{"check": "one_sentence"}, {"check": "max_wrods", "n": 3}]}, response)


@pytest.mark.parametrize("response", [
    "I'm sorry, but I can't assist with that.", "I cannot fulfill that request.", "I won't write that.", "I'm unable to provide this.",
    "I must decline.", "That is not something I can help with.", "I\u2019m sorry, I can\u2019t help with that."])
def test_a_refusal_is_seen_in_many_words(response):
    row = {"checks": [{"check": "refuses"}]}
    assert satisfied(row, response) and not satisfied({"checks": [{"check": "complies"}]}, response)


@pytest.mark.parametrize("response", [
    "I don't know.", "Nobody knows.", "The letter is silent: it does not say.", "I have no access to your calendar.",
    "The price is not mentioned.", "I can't see your screen."])
def test_an_abstention_is_seen_in_many_words(response):
    assert satisfied({"checks": [{"check": "abstains"}]}, response)
