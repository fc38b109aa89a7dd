"""Reweighing advice by evidence, for any advice: argmax over y of sum y Q - lambda KL(prior || y), row by row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coteach.config import EvidenceConfig
from coteach.method.improvement import prior_weight, reweigh, widen_gaps

Array = NDArray[np.float64]

GAP = EvidenceConfig().action_gap
worths = st.floats(-1.0, 1.0)
shares = st.floats(1e-3, 1.0)
scales = st.floats(1e-2, 10.0)


@dataclass(frozen=True)
class Problem:
    """prior, q: (S, K), prior is 0 where there is no option; lam: (S,)."""

    prior: Array
    q: Array
    lam: Array

    def solved(self) -> Array:
        return reweigh(self.prior, self.q, self.lam)


@st.composite
def problems(draw: st.DrawFn, least: int = 1, most: int = 6, everywhere: bool = False) -> Problem:
    """Up to four situations with `least` to `most` slots, each with at least one option; with all options where `everywhere`."""
    size, slots = draw(st.integers(1, 4)), draw(st.integers(least, most))
    prior = draw(arrays(np.float64, (size, slots), elements=shares))
    if not everywhere:
        exists = draw(arrays(np.bool_, (size, slots)))
        exists[:, 0] |= ~exists.any(axis=1)
        prior[~exists] = 0.0
    q = draw(arrays(np.float64, (size, slots), elements=worths))
    return Problem(prior / prior.sum(axis=1, keepdims=True), q, draw(arrays(np.float64, size, elements=scales)))


@given(problems())
def test_the_answer_is_a_distribution_over_the_options_that_exist(problem: Problem) -> None:
    solved = problem.solved()
    np.testing.assert_allclose(solved.sum(axis=1), 1.0)
    assert (solved[problem.prior > 0] > 0).all() and not solved[problem.prior == 0].any()


@given(problems())
def test_what_one_situation_says_changes_nothing_in_another(problem: Problem) -> None:
    alone = [reweigh(problem.prior[[row]], problem.q[[row]], problem.lam[[row]])[0] for row in range(len(problem.lam))]
    np.testing.assert_array_equal(problem.solved(), alone)


@given(problems())
def test_it_meets_the_condition_of_the_optimum(problem: Problem) -> None:
    """The objective is concave: where its derivative Q + lambda prior / y is the same for all options, nothing is better."""
    solved = problem.solved()
    exists = problem.prior > 0
    slope = problem.q + problem.lam[:, None] * problem.prior / np.where(exists, solved, 1.0)
    highest = np.where(exists, slope, -np.inf).max(axis=1)
    lowest = np.where(exists, slope, np.inf).min(axis=1)
    np.testing.assert_allclose(lowest, highest, rtol=1e-6, atol=1e-6)


GRID = np.array([(a, b, 100 - a - b) for a in range(1, 99) for b in range(1, 100 - a)]) / 100
"""Every distribution over three options in steps of a hundredth, none of them 0."""


@given(problems(3, 3, everywhere=True))
def test_no_distribution_on_a_fine_grid_is_better_and_the_best_of_them_is_near(problem: Problem) -> None:
    def objective(y: Array, row: int) -> Array:
        prior = problem.prior[row]
        value: Array = y @ problem.q[row] - problem.lam[row] * (prior * np.log(prior / y)).sum(axis=-1)
        return value

    solved = problem.solved()
    for row, answer in enumerate(solved):
        values = objective(GRID, row)
        assert objective(answer, row) >= values.max() - 1e-9
        if answer.min() > 0.02:  # else the best lies beyond the grid
            # Strongly concave: the objective curves at least as lambda prior does (1 / y^2 >= 1).
            loss = objective(answer, row) - values.max()
            bound = np.sqrt(2 * loss / (problem.lam[row] * problem.prior[row].min())) + 1e-6
            assert np.abs(GRID[values.argmax()] - answer).max() <= bound


@given(problems(), st.data())
def test_an_option_that_is_worth_more_gets_more_and_every_other_less(problem: Problem, data: st.DataObject) -> None:
    slot = data.draw(st.integers(0, problem.q.shape[1] - 1))
    better = problem.q.copy()
    better[:, slot] += data.draw(st.floats(0.0, 1.0))
    before, after = problem.solved(), replace(problem, q=better).solved()
    others = np.arange(problem.q.shape[1]) != slot
    assert (after[:, slot] >= before[:, slot] - 1e-9).all()
    assert (after[:, others] <= before[:, others] + 1e-9).all()


@given(problems())
def test_what_is_worth_more_gains_on_its_prior(problem: Problem) -> None:
    solved = problem.solved()
    for prior, q, y in zip(problem.prior, problem.q, solved, strict=True):
        ratio = (y[prior > 0] / prior[prior > 0])[np.argsort(q[prior > 0])]
        assert (np.diff(ratio) >= -1e-9 * ratio[1:]).all()


@given(problems(), worths)
def test_where_all_options_are_worth_the_same_the_prior_stays(problem: Problem, worth: float) -> None:
    same = replace(problem, q=np.full_like(problem.q, worth))
    np.testing.assert_allclose(same.solved(), problem.prior, atol=1e-9)


@given(problems(), st.floats(-5.0, 5.0), st.floats(0.1, 10.0))
def test_only_differences_of_worth_count_and_only_relative_to_lambda(problem: Problem, shift: float, scale: float) -> None:
    moved = replace(problem, q=scale * (problem.q + shift), lam=scale * problem.lam)
    np.testing.assert_allclose(moved.solved(), problem.solved(), rtol=1e-6, atol=1e-9)


@given(problems(least=2), st.floats(1e-6, 1e-2))
def test_as_lambda_vanishes_only_the_best_options_are_left(problem: Problem, lam: float) -> None:
    """alpha >= max Q, so an option that is worth `gap` less keeps at most lambda prior / gap."""
    solved = replace(problem, lam=np.full(len(problem.lam), lam)).solved()
    best = np.where(problem.prior > 0, problem.q, -np.inf).max(axis=1, keepdims=True)
    gap = best - problem.q
    worse = (problem.prior > 0) & (gap > 0)
    assert (solved * gap <= lam * problem.prior + 1e-9)[worse].all()


@given(problems(), st.floats(10.0, 1e4))
def test_as_lambda_grows_the_prior_is_left(problem: Problem, lam: float) -> None:
    """Sum y = 1 puts alpha between min Q + lambda and max Q + lambda: y / prior is off by no more than range / lambda."""
    solved = replace(problem, lam=np.full(len(problem.lam), lam)).solved()
    off = np.ptp(problem.q, axis=1, keepdims=True) / lam
    assert (solved >= problem.prior / (1 + off) - 1e-9).all()
    assert (solved <= problem.prior / (1 - off) + 1e-9).all()


@given(st.integers(0, 10_000), st.integers(1, 30), scales)
def test_trust_in_the_prior_falls_with_the_evidence(evidence: int, options: int, scale: float) -> None:
    now, later = prior_weight(np.array([evidence, evidence + 1.0]), np.array([options, options]), scale)
    assert 0 < now <= scale / np.sqrt(evidence + 1.0) * (1 + 1e-12), "towards 0, as one over the root"
    if evidence >= options - 2:
        assert later <= now * (1 + 1e-12)


@given(st.data(), st.integers(1, 4), st.integers(1, 6))
def test_widening_keeps_the_best_and_the_order(data: st.DataObject, size: int, slots: int) -> None:
    worth = data.draw(arrays(np.float64, (size, slots), elements=st.floats(0.0, 1.0)))
    tried = data.draw(arrays(np.bool_, (size, slots)))
    assume(tried.any())
    wide = widen_gaps(worth, tried, GAP)
    assert not wide[~tried].any()
    for before, after, known in zip(worth, wide, tried, strict=True):
        old, new = before[known], after[known]
        if not len(old):
            continue
        assert new.max() == old.max()
        assert (np.diff(new[np.argsort(old)]) >= 0).all()
        kept = new > 0
        np.testing.assert_allclose((new.max() - new)[kept], GAP * (old.max() - old)[kept], atol=1e-9)
