"""The curves of over-optimisation and their least-squares fit."""

import math

import numpy as np
import pytest

from lab.overopt import Fit, best_of_n_curve, fit, rl_curve

CURVES = [best_of_n_curve, rl_curve]
d = np.linspace(0.0, 3.0, 31)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("alpha, beta", [(1.0, 0.3), (0.2, 0.5), (0.5, -0.1), (-0.3, 0.2)])
def test_the_fit_finds_the_coefficients_of_its_own_curve(curve, alpha, beta):
    found = fit(curve, d, curve(d, alpha, beta))
    assert np.allclose([found.alpha, found.beta], [alpha, beta])
    assert math.isclose(found.r2, 1.0) and found.rmse < 1e-12
    assert np.allclose(found(d), curve(d, alpha, beta))


@pytest.mark.parametrize("curve", CURVES)
def test_no_other_coefficients_are_nearer(curve):
    gain = best_of_n_curve(d, 0.6, 0.2) + 0.1 * np.random.default_rng(0).standard_normal(len(d))
    found = fit(curve, d, gain)
    square = lambda a, b: ((gain - curve(d, a, b)) ** 2).sum()
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01), (0.01, 0.01)):
        assert square(found.alpha + da, found.beta + db) > square(found.alpha, found.beta)
    assert math.isclose(found.rmse, math.sqrt(square(found.alpha, found.beta) / len(d)))
    assert 0 < found.r2 < 1


@pytest.mark.parametrize("curve", CURVES)
def test_the_peak_is_where_the_curve_is_highest(curve):
    found = fit(curve, d, curve(d, 0.5, 0.3))
    fine = np.linspace(0, 3, 30_001)
    assert abs(fine[found(fine).argmax()] - found.peak) < 1e-3
    assert fit(curve, d, curve(d, 0.5, -0.1)).peak == math.inf


@pytest.mark.parametrize("curve", CURVES)
def test_nothing_is_gained_at_the_reference(curve):
    assert curve(0.0, 1.0, 0.5) == 0


def test_a_curve_that_explains_less_than_the_mean_says_so():
    assert fit(best_of_n_curve, [0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 1.0, 0.9]).r2 < 0


def test_a_constant_gain_has_no_variance_to_explain():
    assert math.isnan(fit(rl_curve, d[1:], np.ones(30)).r2)


@pytest.mark.parametrize("distances, gains", [
    ([0.0, 1.0], [0.0, 1.0]), ([1.0, 1.0], [0.5, 0.6]), ([1.0, 2.0], [0.5]), ([-0.1, 1.0, 2.0], [0.0, 0.1, 0.2]),
    ([0.5, 1.0, 2.0], [0.0, math.nan, 0.2]), ([0.5, math.nan, 2.0], [0.0, 0.1, 0.2])])
def test_data_that_cannot_be_fitted_are_named(distances, gains):
    with pytest.raises(ValueError, match="distance"):
        fit(rl_curve, distances, gains)


def test_the_peak_is_the_highest_point_whatever_the_signs():
    fine = np.linspace(0, 8, 8001)
    for curve in CURVES:
        for alpha in (-0.3, 0.4):
            peak = Fit(curve, alpha, 0.2, 1.0, 0.0).peak
            assert peak == pytest.approx(fine[curve(fine, alpha, 0.2).argmax()], abs=2e-3)
    assert Fit(best_of_n_curve, 0.4, -0.2, 1.0, 0.0).peak == np.inf
    assert Fit(best_of_n_curve, -0.4, -0.2, 1.0, 0.0).peak == 0.0  # it only falls where there are data to fit
