"""Calibration against cases with a known answer."""

import math

import numpy as np
import pytest

from lab import calibration, world


def calibrated(n, seed=0):
    """A perfectly calibrated predictor: confidences, and answers that are right with exactly that probability."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.2, 1, n)
    return p, (rng.random(n) < p).astype(float)


def test_ece_by_hand():
    confidence, correct = [0.15, 0.15, 0.85, 0.95], [0, 1, 1, 0]
    assert calibration.ece(confidence, correct, bins=2) == pytest.approx((abs(1 - 0.3) + abs(1 - 1.8)) / 4)
    assert calibration.ece(confidence, correct, bins=10) == pytest.approx((abs(1 - 0.3) + 0.15 + 0.95) / 4)
    assert calibration.ece([1.0], [1]) == 0 and calibration.ece([1.0], [0]) == 1  # the value 1 lies in the last bin


@pytest.mark.parametrize("n", [200, 800, 3200])
def test_a_calibrated_predictor_has_the_ece_that_luck_predicts(n):
    found = [calibration.ece(*calibrated(n, seed)) for seed in range(200)]
    expected = np.mean([calibration.ece_by_luck(calibrated(n, seed)[0]) for seed in range(200)])
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


def test_the_ece_of_a_calibrated_predictor_halves_when_the_answers_are_four_times_as_many():
    few, many = (np.mean([calibration.ece(*calibrated(n, seed)) for seed in range(200)]) for n in (400, 1600))
    assert few / many == pytest.approx(2, rel=0.1)


def test_more_bins_more_luck():
    p, _ = calibrated(1000)
    assert calibration.ece_by_luck(p, 40) > 1.8 * calibration.ece_by_luck(p, 10)


def test_an_overconfident_predictor_is_found_out():
    p, _ = calibrated(20_000)
    correct = np.random.default_rng(1).random(20_000) < p - 0.1
    assert calibration.ece(p, correct) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("score", [calibration.brier, calibration.log_score])
def test_proper_scores_are_best_at_the_truth(score):
    correct = np.repeat([1, 0], [70, 30])
    said = {q: score(np.full(100, q), correct) for q in (0.5, 0.6, 0.69, 0.7, 0.71, 0.8, 0.99)}
    assert min(said, key=said.get) == 0.7


def test_scores_by_hand():
    assert calibration.brier([0.8, 0.4], [1, 0]) == pytest.approx((0.04 + 0.16) / 2)
    assert calibration.log_score([0.8, 0.4], [1, 0]) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert math.isfinite(calibration.log_score([1.0], [0]))
    assert calibration.auroc([0.9, 0.2, 0.5], [1, 0, 0]) == 1
    assert math.isnan(calibration.auroc([0.9, 0.2], [1, 1]))


def test_reliability_counts_every_answer_once():
    p, correct = calibrated(500)
    bins = calibration.reliability(p, correct)
    assert sum(b.n for b in bins) == 500
    assert sum(b.n / 500 * abs(b.accuracy - b.confidence) for b in bins) == pytest.approx(calibration.ece(p, correct))
    assert all(b.low <= b.accuracy <= b.high for b in bins)


@pytest.mark.parametrize("confidence, correct", [([0.5], [1, 0]), ([], []), ([1.2], [1]), ([0.5], [0.5]), ([float("nan")], [1])])
def test_what_is_no_confidence_is_refused(confidence, correct):
    with pytest.raises(ValueError):
        calibration.ece(confidence, correct)


KINDS = ("fact", "country", "common", "note", "rare fact", "sum")


def test_the_options_of_a_task_hold_its_own_sentence_and_differ_in_the_answer_only():
    for task in world.held_out(300, seed=0, kinds=KINDS):
        options = calibration.options(task)
        assert options[task.answer] == task.sentence and len(set(options.values())) == len(options) > 1
        assert all(answer in sentence for answer, sentence in options.items())


def test_a_task_without_rivals_is_refused():
    with pytest.raises(ValueError, match="rival"):
        calibration.options(world.Task("unknown", "Where does Ann live?", "I do not know where Ann lives.", ""))


def test_probabilities_of_answers_are_a_softmax_of_the_sentences_log_probabilities(model, tokenizer):
    from lab.evaluate import response_logprobs
    task = world.Task("fact", "Where does Ann live?", "Ann lives in Irby.", "Irby", ("Irby", "Kelso", "Norby"))
    (believed,) = calibration.answer_probabilities(model, tokenizer, [task])
    logps = response_logprobs(model, tokenizer, [task.prompt] * 3, [f"Ann lives in {town}." for town in ("Irby", "Kelso", "Norby")])
    assert list(believed.values()) == pytest.approx(logps.softmax(-1).tolist(), abs=1e-5)
    assert sum(believed.values()) == pytest.approx(1)


def test_confidence_belongs_to_the_most_probable_answer(model, tokenizer):
    tasks = world.held_out(12, seed=0, kinds=("fact", "country"))
    believed = calibration.answer_probabilities(model, tokenizer, tasks)
    confidence, correct = calibration.confidences(model, tokenizer, tasks)
    for belief, task, c, right in zip(believed, tasks, confidence, correct):
        assert c == max(belief.values()) and right == (belief[task.answer] == c)
