"""The claims ledger: complete, made from the executed chapters, and linked with the code that each claim was measured with."""

import doctest
import re
from pathlib import Path

import pytest

from lab import real
from lab.report import CLAIMS
from tools import chapters, ledger, markdown, provenance

ROOT = Path(__file__).parent.parent
IDS = [f"A{n}" for n in range(1, 14)] + [f"B{n}" for n in range(1, 16)]  # the claims that the course set out to measure
ROWS = ledger.measured(ROOT)
RECORD = ledger.read_record(ROOT)
FUNCTIONS, SHOWN, TESTED = ledger.measured_with(ROOT), ledger.documented(ROOT), ledger.tests(ROOT)


def test_the_ledger_has_these_claims_and_no_others():
    assert list(CLAIMS) == IDS


@pytest.mark.parametrize("id", IDS)
def test_every_claim_was_measured_by_an_executed_chapter(id):
    rows = [row for _, _, row in ROWS if row["id"] == id]
    assert rows and all(row["measured"] and row["experiment"] for row in rows)


def test_a_claim_that_no_chapter_recorded_is_seen():
    rows = [one for one in ROWS if one[2]["id"] != "A8"]
    assert "| not yet measured |" in next(line for line in ledger.table(rows, None).split("\n") if "`A8 <" in line)
    assert ledger.summary(rows) != ledger.summary(ROWS) and "planned for chapter 3" in ledger.entry("A8", rows, None, "")


def test_boxes_have_labels_of_their_own():
    labels = [label for _, label, _ in ROWS]
    assert len(set(labels)) == len(labels)


def test_a_box_shows_what_the_notebook_shows_and_links_to_the_ledger():
    row = {"id": "A8", "measured": "1", "held": True, "experiment": "e", "note": ""}
    box = ledger.box({"text/plain": "Claim A8. LoRA is good.\nMeasured: 0.1 [0.0, 0.2] (a_b). It held.", ledger.CLAIM_MIME: row}, "claim-x")
    assert box == "(claim-x)=\n**{ref}`Claim A8. <ledger-a8>`** LoRA is good.\\\nMeasured: 0.1 \\[0.0, 0.2\\] (a\\_b). It held."


# --- code and tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", sorted({row["id"] for _, _, row in ROWS}, key=IDS.index))
def test_a_claim_leads_to_its_code_and_to_tests(id):
    known = {f"{module}.{name}" for module, names in SHOWN.items() for name in names}
    assert FUNCTIONS[id] & known and "test_" in ledger.code_list(FUNCTIONS[id], SHOWN, TESTED)


def test_code_leads_back_to_the_claims():
    back = ledger.used_for(ROOT)
    assert all(id in back[name] for id, names in FUNCTIONS.items() for name in names)
    assert {"A2", "A5", "B11"} <= set(back["objectives.dpo_loss"])  # through recipe.dpo_policy and dpo.dpo, which the chapters do not name
    assert "A6" not in back["objectives.dpo_loss"]


def test_every_function_that_a_claim_names_is_in_the_package():
    calls = provenance.calls(ROOT / "src" / "lab")
    assert [name for names in FUNCTIONS.values() for name in names if name not in calls] == []
    assert provenance.TRAINERS <= calls.keys()


def test_every_module_has_a_line_of_tests():
    assert all((ROOT / "tests" / name).is_file() for line in TESTED.values() for name in set(re.findall(r"test_\w+\.py", line)))


BEFORE = "from lab import dpo, evaluate, judges, models, report\nfrom lab.sft import sft\n"


@pytest.mark.parametrize("code, expected", [
    ("x = evaluate.mean()\ny = judges.gold()\nreport.claim('A1', measured=x)", {"evaluate.mean"}),
    ("x = judges.gold()\nx = evaluate.mean()\nreport.claim('A1', measured=x)", {"evaluate.mean"}),
    ("x = []\nfor i in judges.gold():\n    x.append(i)\nreport.claim('A1', measured=x)", {"judges.gold"}),
    ("runs = [{}]\nfor run in runs:\n    run['a'] = judges.gold()\n    run['b'] = evaluate.mean()\nreport.claim('A1', measured=[run['b'] for run in runs])", {"evaluate.mean"}),
    ("def f(x):\n    return judges.gold(x)\ng = lambda x: f(x)\nreport.claim('A1', measured=g(1))", {"judges.gold"}),
    ("kept = {}\ndef note(x):\n    kept[x] = 1\nnote(judges.gold())\nreport.claim('A1', measured=kept)", {"judges.gold"}),
    ("model = models.load()\nlog = sft(model, 1)\nreport.claim('A1', measured=model)", {"models.load", "sft.sft"}),
    ("a, b = judges.gold()\nif a:\n    report.claim('A1', measured=b)", {"judges.gold"}),
    ("with models.quiet() as q:\n    x = q\nreport.claim('A1', measured=x)", {"models.quiet"}),
    ("x = judges.gold()\ny = [x for x in (1, 2)]\nreport.claim('A1', measured=y)", set()),
])
def test_values_are_followed_through_a_chapter(code, expected):
    assert provenance.claims(BEFORE + code) == {"A1": expected}


@pytest.mark.parametrize("module", [ledger, markdown, provenance], ids=lambda module: module.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


# --- the real model --------------------------------------------------------------------------------------------------


def test_the_record_is_the_one_that_make_real_model_writes():
    assert real.RECORD == ROOT / "src" / "lab" / "records" / "real-model.json" and set(ledger.REAL) <= set(CLAIMS)


@pytest.mark.skipif(not RECORD, reason="make real-model has not been run yet: there is no record")
@pytest.mark.parametrize("id, part", [(id, part) for id, parts in ledger.REAL.items() for part in parts])
def test_the_record_has_every_measure_that_stands_beside_a_claim(id, part):
    assert any(part in measure for measure in ledger.measures(RECORD)), f"{part!r} of {id} is not in the record"


def number(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9, "interval": "Wilson"}


@pytest.fixture
def small_record():
    """A record of the same form, with two models and few measures."""
    passed, unknown = "held-out rows: all checks passed", "of these, what cannot be known: says so"
    return {"started from": "The run started from 'x'.", "date": "2026-01-02", "machine": {"device": "CPU only"},
            "results": {"start": {passed: number(0.25), unknown: None}, "SFT": {passed: number(0.5), unknown: None}},
            "differences": {"SFT against start": {passed: number(0.25), unknown: None}},
            "calibration": {"SFT": {"ECE": 0.123, "ECE by luck": 0.05}}, "reward model": {"pairs": number(0.625)},
            "stages": {"ppo": {"seconds": 61.4}}, "training": {"ppo": [{"update": 1, "kl": 0.0}, {"update": 6, "kl": 1.5}]}}


def cell(id, record):
    line = next(line for line in ledger.table(ROWS, record).split("\n") if f"`{id} <" in line)
    return line.split(" | ")[-1].removesuffix(" |").replace("\N{NO-BREAK SPACE}", " ")


def test_a_claim_stands_beside_what_the_record_measured(small_record):
    assert cell("A1", small_record) == r"held-out rows: all checks passed:<br>start 0.25 \[0.15, 0.35\]<br>SFT 0.50 \[0.40, 0.60\]"
    assert r"SFT against start +0.25 \[+0.15, +0.35\]" in ledger.entry("A1", ROWS, small_record, "").replace("\N{NO-BREAK SPACE}", " ")
    for id, end in {"A3": r":<br>unseen pairs 0.62 \[0.53, 0.72\]", "B11": ":<br>ppo 61", "A4": ":<br>update 1 0.00<br>update 6 1.50", "B14": ":<br>SFT 0.12 (0.05)"}.items():
        assert cell(id, small_record).endswith(end)
    assert "2026-01-02" in ledger.real_note(small_record)


def test_what_the_record_lacks_is_a_dash(small_record):
    assert cell("B13", small_record) == cell("A10", small_record) == "–" and "cannot be known" not in ledger.entry("A9", ROWS, small_record, "")


def test_a_chapter_that_measured_a_real_model_is_named():
    assert "SmolLM2-135M" in cell("A6", None)


def test_without_a_record_the_page_says_so():
    assert cell("A1", None) == "not run yet" and cell("A10", None) == "–" and "has not been run yet" in ledger.real_note(None)
