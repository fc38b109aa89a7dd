"""Reweighing: the evidence corrects the prior, the more the more outcomes there are."""

import numpy as np

from coteach.method.improvement import prior_weight, reweigh, widen_gaps


def random_problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prior = rng.dirichlet(np.full(5, 0.5), size=20) + 1e-6
    prior[:, 4] = 0.0
    return prior / prior.sum(axis=1, keepdims=True), rng.random((20, 5)), rng.uniform(0.05, 2.0, 20)


def test_reweighing_solves_its_own_objective() -> None:
    prior, q, lam = random_problem(np.random.default_rng(0))
    improved = reweigh(prior, q, lam)
    assert np.allclose(improved.sum(axis=1), 1.0)
    assert not improved[:, 4].any()

    def objective(y: np.ndarray) -> np.ndarray:
        kl = (prior[:, :4] * np.log(prior[:, :4] / y[:, :4])).sum(axis=1)
        return (y * q).sum(axis=1) - lam * kl

    rng = np.random.default_rng(1)
    for _ in range(50):
        other = improved + np.concatenate([rng.normal(0, 0.01, (20, 4)), np.zeros((20, 1))], axis=1)
        other[:, :4] = np.maximum(other[:, :4], 1e-9)
        other /= other.sum(axis=1, keepdims=True)
        assert (objective(other) <= objective(improved) + 1e-9).all()


def test_equal_values_leave_the_prior_unchanged() -> None:
    prior, _, lam = random_problem(np.random.default_rng(2))
    assert np.allclose(reweigh(prior, np.full((20, 5), 0.3), lam), prior, atol=1e-6)


def test_advice_that_never_completes_loses_trust() -> None:
    prior = np.array([[0.9, 0.05, 0.05]])
    q = np.array([[0.1, 1.0, 1.0]])
    trusted = [reweigh(prior, q, prior_weight(np.array([float(n)]), np.array([3.0]), 0.5))[0, 0] for n in (0, 4, 40, 400)]
    assert trusted == sorted(trusted, reverse=True)
    assert trusted[-1] < 0.1


def test_a_situation_without_options_has_no_advice() -> None:
    assert not reweigh(np.zeros((1, 3)), np.zeros((1, 3)), np.ones(1)).any()


def test_wider_gaps_keep_the_best_option_and_the_order() -> None:
    returns = np.array([[0.5, 0.45, 0.1, 0.9], [0.3, 0.2, 0.0, 0.0]])
    tried = np.array([[True, True, True, False], [False, False, False, False]])
    np.testing.assert_allclose(widen_gaps(returns, tried, 6.0), [[0.5, 0.5 - 6.0 * 0.05, 0.0, 0.0], [0.0] * 4])
