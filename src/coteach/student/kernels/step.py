"""One optimiser step of a student that sees flags, compiled: the numbers of `ppo.AutogradStep` in half of the time.

The networks are small and the rows of a step few, so that most of PyTorch's time goes into getting from one operation to the
next. Here only the sums of the first layer are PyTorch's; both towers, the losses, the gradient, clipping and Adam (Kingma & Ba
2015, arXiv 1412.6980) are compiled. They work on the memory of PyTorch's parameters and of its optimiser's moments, which stay
the only copies. What no feature has ever set of the first layer has neither gradient nor moments, and is left out.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from coteach.config import StudentConfig
from coteach.student.batch import Rows
from coteach.student.network import ActorCritic, ColumnSum, SetFeatures, sum_rows

Array = NDArray[np.float32]

TINY = np.float32(1e-30)
"""Moments that have faded to less count as nothing: processors multiply such numbers a hundred times slower."""

compiled = numba.njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "arcp", "nsz"})
"""Division by zero gives infinity as it does in NumPy; what is not a number must stay it, so that it is seen: not `nnan`."""


class Weights(NamedTuple):
    """One array for each of the network's parameters, in their order: the parameters, their gradients or a moment."""

    shared: Array
    shared_bias: Array
    actor: Array
    actor_bias: Array
    critic: Array
    critic_bias: Array
    policy: Array
    policy_bias: Array
    value: Array
    value_bias: Array


class Room(NamedTuple):
    """Where a step keeps what its rows make, and what flows back: (R, H), (R, A) or (R, 1) each."""

    actor: Array
    critic: Array
    by_hidden: Array
    by_cells: Array
    back: Array
    logits: Array
    values: Array


class Given(NamedTuple):
    """What belongs to the rows of an update, as `ppo.Rows` has it: actions to advantages of
    own rows, returns of led and own ones, target and weight of own and replayed ones."""

    actions: NDArray[np.int64]
    logprobs: Array
    advantages: Array
    returns: Array
    target: Array
    weight: Array


class Settings(NamedTuple):
    """What of `StudentConfig` and Adam a step needs."""

    clip: float
    entropy: float
    value_weight: float
    max_grad_norm: float
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float


@functools.cache
def _products() -> ThreadpoolController:
    """What multiplies matrices in compiled functions: SciPy's BLAS, which numba calls."""
    import scipy.linalg.cython_blas  # noqa: F401  only what has been loaded is found

    return ThreadpoolController()


def one_blas_thread() -> Any:
    """A context for the steps: products of so few rows in one thread. More of them wait for each other, and spin."""
    return _products().limit(limits=1, user_api="blas")


class CompiledStep:
    """Takes the optimiser steps of one update; `rows` are those of `ppo.Rows`, their features `SetFeatures`, on a processor."""

    def __init__(self, network: ActorCritic, optimizer: torch.optim.Adam, config: StudentConfig, rows: Rows) -> None:
        assert isinstance(rows.features, SetFeatures)
        assert isinstance(network.shared, ColumnSum)
        parameters, group = list(network.parameters()), optimizer.param_groups[0]
        states = [_state(optimizer, parameter) for parameter in parameters]
        self.network, self.table, self.steps = network, network.shared.weight, [state["step"] for state in states]
        moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        self.weights, self.first, self.second = (
            Weights(*(tensor.detach().numpy() for tensor in kind)) for kind in (parameters, moments[0], moments[1])
        )
        self.features = rows.features
        self.active = np.flatnonzero(self.second.shared.any(axis=1) | rows.features.met())
        place = np.zeros(rows.features.size, dtype=np.int32)
        place[self.active] = np.arange(len(self.active))
        self.compact = SetFeatures(place[rows.features.ones], rows.features.starts, len(self.active))
        """The same rows, features numbered among the active ones."""
        fields = (rows.actions, rows.logprobs, rows.advantages, rows.returns, rows.target, rows.weight)
        self.given = Given(*(tensor.numpy() for tensor in fields))
        self.led, self.own = rows.led, len(rows.actions)
        self.gradients = Weights(*map(np.zeros_like, self.weights))._replace(shared=np.zeros((0, 0), dtype=np.float32))
        """Of the last step; `shared` has the active rows alone."""
        weighed = (config.clip, config.entropy, config.value_weight, config.max_grad_norm)
        self.settings = Settings(*weighed, group["lr"], group["betas"][0], group["betas"][1], group["eps"])
        self.room: Room | None = None

    @torch.no_grad()
    def __call__(self, led: Tensor, own: Tensor, replayed: Tensor) -> NDArray[np.float64]:
        """One step on these rows (indices among the led, own and replayed ones); the `MEASURES`.

        Where one of them is not finite the weights stay as they were.
        """
        at = np.concatenate([led.numpy(), self.led + own.numpy(), self.led + self.own + replayed.numpy()])
        if self.room is None or len(self.room.back) < len(at):
            self.room = _room(len(at) + 8, *self.weights.policy.shape)
        chosen = self.features.rows(at)
        cells = sum_rows(self.table, chosen)
        habits = self.network.habitual(self.features.rows(at[len(led) : len(led) + len(own)]))
        measures: NDArray[np.float64]
        measures, back = _towers(
            self.weights, self.gradients, self.room, self.given, habits.numpy(), cells.numpy(), at, self.led, len(led), len(own),
            self.settings,
        )  # fmt: skip
        shared = sum_rows(torch.from_numpy(back), self.compact.rows(at).transposed()).numpy()
        self.gradients = self.gradients._replace(shared=shared)
        measures[-1] = _norm(self.gradients)
        if np.isfinite(measures).all():
            for step in self.steps:
                step += 1
            _descend(
                self.weights,
                self.gradients,
                self.first,
                self.second,
                self.active,
                measures[-1],
                float(self.steps[0]),
                self.settings,
            )
        return measures


def _state(optimizer: torch.optim.Adam, parameter: Tensor) -> dict[str, Tensor]:
    """Adam's state of a parameter; before the first step there is none yet."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        zeros = [torch.zeros_like(parameter) for _ in range(2)]
        state |= {"step": torch.zeros(()), "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
    return state


def _room(rows: int, actions: int, hidden: int) -> Room:
    widths = [hidden] * 5 + [actions, 1]
    return Room(*(np.empty((rows, width), dtype=np.float32) for width in widths))


@compiled  # type: ignore[untyped-decorator]
def _towers(
    w: Weights, g: Weights, room: Room, given: Given, habits: Array, cells: Array, at: NDArray[np.int64],
    all_led: int, led: int, own: int, s: Settings,
) -> tuple[NDArray[np.float64], Array]:  # fmt: skip
    """The gradient behind the first layer, into `g`; the measures but for the norm; (R, H) what flows back to the first layer.

    Rows `at` are led ones first, then own, then replayed ones. cells: (R, H) the first layer's sums; habits: (own, A).
    """
    measures = np.zeros(9)
    acting, valued = len(at) - led, led + own
    back = room.back[: len(at)]
    actor, critic, logits, values = room.actor[:acting], room.critic[:valued], room.logits[:acting], room.values[:valued]
    _rectify(cells, w.shared_bias)
    _layer(cells[led:], w.actor, actor)
    _rectify(actor, w.actor_bias)
    _layer(cells[:valued], w.critic, critic)
    _rectify(critic, w.critic_bias)
    _layer(actor, w.policy, logits)
    _layer(critic, w.value, values)

    _by_values(given, at, values, w.value_bias[0], s, measures)
    _by_logits(given, habits, at, all_led, led, own, logits, w.policy_bias, s, measures)

    back[:] = 0.0
    _back(logits, actor, cells[led:], w.policy, w.actor, g.policy, g.policy_bias, g.actor, g.actor_bias,
          room.by_hidden[:acting], room.by_cells[:acting], back[led:])  # fmt: skip
    _back(values, critic, cells[:valued], w.value, w.critic, g.value, g.value_bias, g.critic, g.critic_bias,
          room.by_hidden[:valued], room.by_cells[:valued], back[:valued])  # fmt: skip
    _unrectify(back, cells, g.shared_bias)
    return measures, back


@compiled  # type: ignore[untyped-decorator]
def _rectify(rows: Array, bias: Array) -> None:
    """relu(rows (R, H) + bias), in place."""
    for i in range(len(rows)):
        for h in range(len(bias)):
            rows[i, h] = max(rows[i, h] + bias[h], np.float32(0.0))


@compiled  # type: ignore[untyped-decorator]
def _unrectify(slope: Array, rectified: Array, bias: Array) -> None:
    """Backwards through `_rectify`: `slope` by its answer becomes that by its input, in place; the gradient of its bias."""
    bias[:] = 0.0
    for i in range(len(slope)):
        for h in range(len(bias)):
            slope[i, h] = slope[i, h] if rectified[i, h] > 0 else np.float32(0.0)
            bias[h] += slope[i, h]


@compiled  # type: ignore[untyped-decorator]
def _layer(x: Array, weight: Array, out: Array) -> None:
    """x (R, I) weight (O, I)^T into `out` (R, O)."""
    if len(x):
        np.dot(x, weight.T, out)


@compiled  # type: ignore[untyped-decorator]
def _back(
    slope: Array, hidden: Array, cells: Array, head: Array, layer: Array,
    g_head: Array, g_head_bias: Array, g_layer: Array, g_layer_bias: Array, by_hidden: Array, by_cells: Array, back: Array,
) -> None:  # fmt: skip
    """From `slope` (R, O) by a tower's answer to the gradients of its head and layer; what flows on is added to `back`."""
    g_head_bias[:] = 0.0
    if not len(slope):
        g_head[:] = 0.0
        g_layer[:] = 0.0
        g_layer_bias[:] = 0.0
        return
    for i in range(len(slope)):
        for o in range(slope.shape[1]):
            g_head_bias[o] += slope[i, o]
    np.dot(slope.T, hidden, g_head)
    np.dot(slope, head, by_hidden)
    _unrectify(by_hidden, hidden, g_layer_bias)
    np.dot(by_hidden.T, cells, g_layer)
    np.dot(by_hidden, layer, by_cells)
    for i in range(len(back)):
        for h in range(back.shape[1]):
            back[i, h] += by_cells[i, h]


@compiled  # type: ignore[untyped-decorator]
def _by_values(given: Given, at: NDArray[np.int64], values: Array, bias: Any, s: Settings, measures: NDArray[np.float64]) -> None:
    """Put the derivative of the value loss in the place of `values` (V, 1), which are without bias."""
    for i in range(len(values)):
        error = values[i, 0] + bias - given.returns[at[i]]
        measures[1] += error * error / len(values)
        values[i, 0] = error * 2 * s.value_weight / len(values)


@compiled  # type: ignore[untyped-decorator]
def _by_logits(
    given: Given, habits: Array, at: NDArray[np.int64], all_led: int, led: int, own: int, logits: Array, bias: Array,
    s: Settings, measures: NDArray[np.float64],
) -> None:  # fmt: skip
    """Put the derivative of the actor's losses in the place of `logits` (own rows, then replayed ones), without bias and habits.

    Advice is imitated by the logits without habits: who went in circles would learn from it to go on against the habit.
    """
    actions = logits.shape[1]
    learned, log_learned, acted, log_acted = np.empty(actions), np.empty(actions), np.empty(actions), np.empty(actions)
    mean, deviation = _spread(given.advantages, at[led : led + own] - all_led)
    guided = 0
    for i in range(len(logits)):
        row = at[led + i] - all_led
        for a in range(actions):
            logits[i, a] += bias[a]
        _softmax(logits[i], learned, log_learned)
        heed, far = given.weight[row] / (own if i < own else len(logits) - own), 0.0
        for a in range(actions):
            q = np.float64(given.target[row, a])
            far += q * (np.log(q) - log_learned[a]) if q > 0 else 0.0
        measures[3 if i < own else 4] += heed * far
        if i < own:
            if given.weight[row] > 0:
                guided += 1
                measures[7] += far
            for a in range(actions):
                logits[i, a] += habits[i, a]
            _softmax(logits[i], acted, log_acted)
            entropy = 0.0
            for a in range(actions):
                entropy -= acted[a] * log_acted[a]
            measures[2] += entropy / own
            slope = _surrogate(given, row, log_acted, (given.advantages[row] - mean) / deviation, own, s.clip, measures)
            for a in range(actions):
                logits[i, a] = acted[a] * (s.entropy / own * (log_acted[a] + entropy) - slope)
            logits[i, given.actions[row]] += slope
        else:
            logits[i] = 0.0
        for a in range(actions):
            logits[i, a] += heed * (learned[a] - given.target[row, a])
    measures[7] /= max(guided, 1)


@compiled  # type: ignore[untyped-decorator]
def _surrogate(
    given: Given, row: int, log_policy: NDArray[np.float64], advantage: float, own: int, clip: float,
    measures: NDArray[np.float64],
) -> float:  # fmt: skip
    """The derivative of PPO's clipped loss by the log-probability of the row's action; the loss and its measures are added."""
    log_ratio = log_policy[given.actions[row]] - given.logprobs[row]
    ratio = np.exp(log_ratio)
    free, held = advantage * ratio, advantage * min(max(ratio, 1.0 - clip), 1.0 + clip)
    measures[0] -= (held if held < free else free) / own  # in this order: what is not a number is kept
    measures[5] += (ratio - 1.0 - log_ratio) / own
    measures[6] += (abs(ratio - 1.0) > clip) / own
    return -free / own if free <= held else 0.0


@compiled  # type: ignore[untyped-decorator]
def _spread(values: Array, at: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation by which advantages are normalised, as in Stable-Baselines3; a single row stays as it is."""
    if len(at) < 2:
        return 0.0, 1.0
    mean = squares = 0.0
    for i in at:
        mean += values[i] / len(at)
    for i in at:
        squares += (values[i] - mean) ** 2
    return mean, np.sqrt(squares / (len(at) - 1)) + 1e-8


@compiled  # type: ignore[untyped-decorator]
def _softmax(logits: Array, out: NDArray[np.float64], log_out: NDArray[np.float64]) -> None:
    peak, total = np.float64(logits.max()), 0.0
    for a in range(len(logits)):
        out[a] = np.exp(logits[a] - peak)
        total += out[a]
    for a in range(len(logits)):
        out[a] /= total
        log_out[a] = logits[a] - peak - np.log(total)


@compiled  # type: ignore[untyped-decorator]
def _norm(g: Weights) -> Any:
    """Of all gradients together."""
    return np.sqrt(
        _square(g.shared) + _square(g.shared_bias) + _square(g.actor) + _square(g.actor_bias) + _square(g.critic)
        + _square(g.critic_bias) + _square(g.policy) + _square(g.policy_bias) + _square(g.value) + _square(g.value_bias)
    )  # fmt: skip


@compiled  # type: ignore[untyped-decorator]
def _square(values: Array) -> Any:
    flat, total = values.reshape(-1), np.float32(0.0)
    for i in range(len(flat)):
        total += flat[i] * flat[i]
    return total


@compiled  # type: ignore[untyped-decorator]
def _descend(
    w: Weights, g: Weights, m: Weights, v: Weights, active: NDArray[np.int64], norm: float, step: float, s: Settings
) -> None:
    """Adam's step number `step`, the gradient of this norm clipped."""
    scale = np.float32(min(s.max_grad_norm / (norm + 1e-6), 1.0))
    for i in range(len(active)):
        f = active[i]
        _adam(w.shared[f], g.shared[i], m.shared[f], v.shared[f], scale, step, s)
    _adam(w.shared_bias, g.shared_bias, m.shared_bias, v.shared_bias, scale, step, s)
    _adam(w.actor, g.actor, m.actor, v.actor, scale, step, s)
    _adam(w.actor_bias, g.actor_bias, m.actor_bias, v.actor_bias, scale, step, s)
    _adam(w.critic, g.critic, m.critic, v.critic, scale, step, s)
    _adam(w.critic_bias, g.critic_bias, m.critic_bias, v.critic_bias, scale, step, s)
    _adam(w.policy, g.policy, m.policy, v.policy, scale, step, s)
    _adam(w.policy_bias, g.policy_bias, m.policy_bias, v.policy_bias, scale, step, s)
    _adam(w.value, g.value, m.value, v.value, scale, step, s)
    _adam(w.value_bias, g.value_bias, m.value_bias, v.value_bias, scale, step, s)


@compiled  # type: ignore[untyped-decorator]
def _adam(weight: Array, gradient: Array, first: Array, second: Array, scale: Any, step: float, s: Settings) -> None:
    w, g, m, v = weight.reshape(-1), gradient.reshape(-1), first.reshape(-1), second.reshape(-1)
    keep1, keep2, one = np.float32(s.beta1), np.float32(s.beta2), np.float32(1.0)
    rate = np.float32(s.learning_rate / (1.0 - s.beta1**step))
    correction, epsilon = np.float32(1.0 / np.sqrt(1.0 - s.beta2**step)), np.float32(s.epsilon)
    for i in range(len(w)):
        slope = g[i] * scale
        mean = keep1 * m[i] + (one - keep1) * slope
        m[i] = mean if abs(mean) > TINY else np.float32(0.0)
        v[i] = keep2 * v[i] + (one - keep2) * slope * slope
        w[i] -= rate * m[i] / (np.sqrt(v[i]) * correction + epsilon)
