"""lab.report in a notebook and in plain Python, and the claims against the course's plan."""

import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from lab import plots, report

IDS = [f"A{n}" for n in range(1, 14)] + [f"B{n}" for n in range(1, 16)]


@pytest.fixture
def notebook(monkeypatch):
    """Run as if inside a notebook; what is displayed is captured as MIME bundles."""
    shell = InteractiveShell.instance()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    yield
    InteractiveShell.clear_instance()


def displayed(function, **values):
    with capture_output() as captured:
        function(**values)
    return captured.outputs[0].data


def test_every_claim_of_the_plan_is_there():
    assert list(report.CLAIMS) == IDS
    assert all(claim.sentence.endswith(".") and claim.chapter[:2].isdigit() for claim in report.CLAIMS.values())


@pytest.mark.parametrize("value, text", [
    (0.69314718, "0.693"), (0.5, "0.500"), (12.345, "12.3"), (123.4, "123"), (12345.6, "12,346"), (1e-5, "1.00e-05"),
    (2048, "2,048"), (True, "yes"), ("74% [70, 78]", "74% [70, 78]"), (-0.25, "-0.250"), (0.0, "0.00")])
def test_values_read_well_in_a_sentence(value, text):
    assert report._text(value) == text


def test_tensors_and_intervals_are_values_too():
    import torch
    from lab.evaluate import Interval
    assert report._text(torch.tensor(0.25)) == "0.250"
    assert report._text(Interval(0.7412, 0.70, 0.78)) == "0.74 [0.70, 0.78]"


def test_show_records_its_values(notebook):
    bundle = displayed(report.show, win_rate=0.7412, pairs=1023)
    assert bundle[report.VALUES_MIME] == {"win_rate": "0.741", "pairs": "1,023"}
    assert "0.741" in bundle["text/html"] and "0.741" in bundle["text/plain"]


def test_shown_text_is_escaped(notebook):
    assert "&lt;b&gt;" in displayed(report.show, answer="<b>")["text/html"]


def test_claim_records_a_row(notebook):
    bundle = displayed(lambda **row: report.claim("A1", **row), measured=0.9, held=True, experiment="base against SFT")
    assert bundle[report.CLAIM_MIME] == {"id": "A1", "measured": "0.900", "held": True, "experiment": "base against SFT", "note": ""}
    assert report.CLAIMS["A1"].sentence in bundle["text/html"]


def test_an_unknown_claim_is_refused():
    with pytest.raises(KeyError, match="Z9"):
        report.claim("Z9", measured="1", held=True, experiment="none")


def test_plain_python_prints():
    code = "from lab.report import *; show(loss=0.5); claim('A2', measured='0.6', held=False, experiment='x', note='Too few steps.')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:4] == ["name", "value", "loss", "0.500"]
    assert "It did not hold.\nToo few steps." in done.stdout and not done.stderr


def test_a_figure_needs_alt_text(notebook):
    figure, ax = plots.axes("steps", "loss")
    with pytest.raises(ValueError, match="alt text"):
        plots.show(figure, alt="")
    plots.intervals(ax, ["base", "SFT"], [(0.1, 0.0, 0.2), (0.9, 0.8, 1.0)])
    with capture_output() as captured:
        plots.show(figure, alt="SFT is far above the base.")
    assert captured.outputs[0].metadata["image/png"]["alt"] == "SFT is far above the base."
