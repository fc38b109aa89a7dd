"""Advantages and PPO's loss, for any rows: against slow references, and what must hold whatever the numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coteach.student.ppo import divergence, explained_variance, gae, ppo_loss

Array = NDArray[np.float64]

numbers = st.floats(-2.0, 2.0, width=32)
shares = st.floats(0.0, 1.0)
CLIP = 0.2


@dataclass(frozen=True)
class History:
    """Rows as collected: all (T, N) but values, which are (T + 1, N). The row after an episode's last one is a reset."""

    rewards: NDArray[np.float32]
    values: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]

    def advantages(self, gamma: float, lam: float) -> NDArray[np.float32]:
        return gae(self.rewards, self.values, self.terminated, self.truncated, self.valid, gamma, lam)[0]


@st.composite
def histories(draw: st.DrawFn) -> History:
    steps, envs = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    shape = steps, envs
    valid = np.ones(shape, np.bool_)
    # 0: goes on, 1: terminated, 2: truncated, 3: both at once
    ends = draw(arrays(np.int8, shape, elements=st.integers(0, 3)))
    for t in range(1, steps):
        valid[t] = ~valid[t - 1] | (ends[t - 1] == 0)
    ends[~valid] = 0
    rewards = np.where(valid, draw(arrays(np.float32, shape, elements=numbers)), np.float32(0))
    values = draw(arrays(np.float32, (steps + 1, envs), elements=numbers))
    return History(rewards, values, ends % 2 == 1, ends >= 2, valid)


def reference(history: History, gamma: float, lam: float) -> Array:
    """Each advantage by its definition: sum over l of (gamma lam)^l delta_(t+l), up to the end of the episode or of the rows."""
    steps, envs = history.rewards.shape
    advantages = np.zeros((steps, envs))
    for t, env in np.argwhere(history.valid):
        for later in range(t, steps):
            onward = 0.0 if history.terminated[later, env] else gamma * float(history.values[later + 1, env])
            delta = float(history.rewards[later, env]) + onward - float(history.values[later, env])
            advantages[t, env] += (gamma * lam) ** (later - t) * delta
            if history.terminated[later, env] or history.truncated[later, env]:
                break
    return advantages


@given(histories(), shares, shares)
def test_advantages_are_those_of_the_definition(history: History, gamma: float, lam: float) -> None:
    np.testing.assert_allclose(history.advantages(gamma, lam), reference(history, gamma, lam), atol=1e-4)


@given(histories(), shares, shares)
def test_returns_are_advantages_over_the_values(history: History, gamma: float, lam: float) -> None:
    given_ = history.rewards, history.values, history.terminated, history.truncated, history.valid
    advantages, returns = gae(*given_, gamma, lam)
    assert advantages.dtype == returns.dtype == np.float32
    np.testing.assert_array_equal(returns, advantages + history.values[:-1])


@given(histories(), shares)
def test_resets_have_no_advantage_and_pass_none_on(history: History, gamma: float) -> None:
    assume(not history.valid.all())
    advantages = history.advantages(gamma, 0.9)
    assert not advantages[~history.valid].any()
    rewards = np.where(history.valid, history.rewards, np.float32(50))
    np.testing.assert_array_equal(replace(history, rewards=rewards).advantages(gamma, 0.9), advantages)


@given(histories(), shares)
def test_a_right_critic_leaves_no_advantage(history: History, gamma: float) -> None:
    """Where the values are those of what came, nothing was better or worse than expected, however far one looks."""
    values = history.values.copy()
    for t in range(len(history.rewards) - 1, -1, -1):
        onward = np.where(history.terminated[t], np.float32(0), np.float32(gamma) * values[t + 1])
        values[t] = np.where(history.valid[t], history.rewards[t] + onward, values[t])
    right = replace(history, values=values)
    for lam in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(right.advantages(gamma, lam), 0.0, atol=1e-4)


# --- the critic's measure ---


@given(st.integers(2, 20), st.data())
def test_explained_variance_is_at_most_one_and_blind_to_a_constant(rows: int, data: st.DataObject) -> None:
    returns = data.draw(arrays(np.float32, rows, elements=numbers))
    values = data.draw(arrays(np.float32, rows, elements=numbers))
    assume(returns.std() > 0.01)
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(values, returns) <= 1.0
    np.testing.assert_allclose(explained_variance(values + 1, returns), explained_variance(values, returns), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(explained_variance(np.full_like(returns, values[0]), returns), 0.0, atol=1e-3)


# --- PPO's loss ---


@dataclass(frozen=True)
class Taken:
    """Log-probabilities of actions now and when they were taken, and their advantages: (B,) float64."""

    now: torch.Tensor
    then: torch.Tensor
    advantages: torch.Tensor


@st.composite
def taken(draw: st.DrawFn) -> Taken:
    rows = draw(st.integers(2, 12))
    now, then = (draw(arrays(np.float64, rows, elements=st.floats(-3.0, 0.0))) for _ in range(2))
    advantages = draw(arrays(np.float64, rows, elements=st.floats(-2.0, 2.0)))
    assume(advantages.std() > 0.01)
    return Taken(*map(torch.from_numpy, (now, then, advantages)))


def normalised(advantages: torch.Tensor) -> torch.Tensor:
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


@given(taken())
def test_where_the_policy_has_not_moved_the_gradient_is_reinforce(rows: Taken) -> None:
    now = rows.then.clone().requires_grad_()
    loss, measures = ppo_loss(now, rows.then, rows.advantages, CLIP)
    (gradient,) = torch.autograd.grad(loss, [now])
    torch.testing.assert_close(gradient, -normalised(rows.advantages) / len(now))
    assert abs(loss.item()) < 1e-9 and measures["approx_kl"] == 0 and measures["clipfrac"] == 0


@given(taken())
def test_the_clipped_loss_is_never_below_the_unclipped_one(rows: Taken) -> None:
    """Clipping takes away what is gained by moving far, never what is lost by it."""
    loss, measures = ppo_loss(rows.now, rows.then, rows.advantages, CLIP)
    unclipped = -(normalised(rows.advantages) * (rows.now - rows.then).exp()).mean()
    assert loss >= unclipped - 1e-9
    assert measures["approx_kl"] >= 0 and 0 <= measures["clipfrac"] <= 1


@given(taken())
def test_a_row_has_no_gradient_exactly_where_it_has_gone_too_far_the_way_it_should(rows: Taken) -> None:
    now = rows.now.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ppo_loss(now, rows.then, rows.advantages, CLIP)[0], [now])
    ratio, advantages = (rows.now - rows.then).exp(), normalised(rows.advantages)
    too_far = ((ratio > 1 + CLIP) & (advantages > 0)) | ((ratio < 1 - CLIP) & (advantages < 0))
    np.testing.assert_array_equal(gradient == 0, too_far | (advantages == 0))


@given(taken(), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_the_scale_of_the_advantages_does_not_matter(rows: Taken, scale: float, shift: float) -> None:
    one = ppo_loss(rows.now, rows.then, rows.advantages, CLIP)[0]
    other = ppo_loss(rows.now, rows.then, scale * rows.advantages + shift, CLIP)[0]
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@given(st.data(), st.integers(1, 4), st.integers(2, 6))
def test_the_divergence_is_0_for_the_target_itself_and_positive_for_others(data: st.DataObject, rows: int, actions: int) -> None:
    logits, other = (data.draw(arrays(np.float64, (rows, actions), elements=st.floats(-4.0, 4.0))) for _ in range(2))
    target, log_policy = torch.from_numpy(logits).softmax(-1), torch.from_numpy(other).log_softmax(-1)
    torch.testing.assert_close(divergence(target.log(), target), torch.zeros(rows, dtype=torch.float64), atol=1e-9, rtol=0)
    # Pinsker: half the square of the L1 distance, at least.
    assert (divergence(log_policy, target) >= 0.5 * (log_policy.exp() - target).abs().sum(-1) ** 2 - 1e-9).all()
