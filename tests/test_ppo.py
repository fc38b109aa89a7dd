"""GAE and PPO's loss against Stable-Baselines3, guidance, and the learner's promises."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from coteach.config import StudentConfig
from coteach.errors import CoteachError, NotFinite
from coteach.grounding.base import Layout
from coteach.student.batch import Batch, Imitation, Rows
from coteach.student.learner import Learner
from coteach.student.network import SetFeatures
from coteach.student.optimizer_step import OptimizerStep
from coteach.student.ppo import divergence, explained_variance, gae, ppo_loss

sb3 = pytest.importorskip("stable_baselines3")
FEATURES, ACTIONS = 40, 5


def learner(seed=0, habits=None, **changes):
    # What a test counts or learns must not change with the defaults.
    settings = {"hidden": 16, "epochs": 2, "minibatch": 64, "entropy": 0.01, "device": "cpu", **changes}
    return Learner(StudentConfig(**settings), Layout(flags=FEATURES), ACTIONS, seed, habits)


def some_features(rows, seed=0):
    return (np.random.default_rng(seed).random((rows, FEATURES)) < 0.3).astype(np.uint8)


def some_batch(student, rows=128, weight=0.0, seed=0, extra=0):
    rng = np.random.default_rng(seed)
    features = some_features(rows, seed)
    actions, logprobs, values = student.act(features)
    real = rng.normal(size=(3, rows + extra)).astype(np.float32)
    return Batch(
        features,
        actions,
        logprobs,
        values,
        real[0, :rows],
        real[1, :rows],
        rng.dirichlet(np.ones(ACTIONS), rows).astype(np.float32),
        np.full(rows, weight, dtype=np.float32),
        some_features(extra, seed + 1) if extra else None,
        real[2, :extra] if extra else None,
    )


def weights(student):
    return {name: value for name, value in student.state_dict().items() if name.startswith("network.")}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- advantages ---


def history(steps=60, seed=0):
    """One environment's rows as collected: after an episode's last row comes the reset, which is not a transition."""
    rng = np.random.default_rng(seed)
    terminated, truncated, valid = (np.zeros((steps, 1), dtype=np.bool_) for _ in range(3))
    over = False
    for t in range(steps):
        valid[t] = not over
        terminated[t], truncated[t] = not over and rng.random() < 0.1, not over and rng.random() < 0.1
        truncated[t] &= ~terminated[t]
        over = bool(terminated[t] or truncated[t])
    rewards = np.where(valid, rng.normal(size=(steps, 1)), 0).astype(np.float32)
    values = rng.normal(size=(steps + 1, 1)).astype(np.float32)
    return rewards, values, terminated, truncated, valid


def test_gae_is_that_of_stable_baselines3():
    """Which has no reset rows, and adds gamma * V(terminal observation) to the reward where an episode was truncated."""
    from stable_baselines3.common.buffers import RolloutBuffer

    gamma, lam = 0.97, 0.9
    rewards, values, terminated, truncated, valid = history()
    assert terminated.sum() > 1 and truncated.sum() > 1
    advantages, returns = gae(rewards, values, terminated, truncated, valid, gamma, lam)

    kept = np.flatnonzero(valid)
    done = (terminated | truncated)[kept]
    begins = np.concatenate([[True], done[:-1, 0]])
    box = gymnasium.spaces.Box(0, 1, (1,))
    buffer = RolloutBuffer(len(kept), box, gymnasium.spaces.Discrete(2), "cpu", lam, gamma, n_envs=1)
    for i, t in enumerate(kept):
        bonus = gamma * values[t + 1] * truncated[t]
        value = torch.from_numpy(values[t])
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), rewards[t] + bonus, begins[i : i + 1], value, torch.zeros(1))
    last = torch.from_numpy(values[kept[-1] + 1])
    buffer.compute_returns_and_advantage(last, done[-1])
    np.testing.assert_allclose(advantages[kept], buffer.advantages, atol=1e-5)
    np.testing.assert_allclose(returns[kept], buffer.returns, atol=1e-5)
    assert not advantages[~valid].any()


def one_step(terminated, truncated):
    """The advantage of one step of reward 1, value 2 before and 5 after it, that ends an episode or does not."""
    advantages, _ = gae(
        np.ones((1, 1), np.float32),
        np.array([[2.0], [5.0]], np.float32),
        np.array([[terminated]]),
        np.array([[truncated]]),
        np.array([[True]]),
        0.5,
        0.9,
    )
    return float(advantages[0, 0])


def test_a_truncated_episode_would_have_gone_on_and_a_terminated_one_not():
    assert one_step(False, True) == one_step(False, False) == 1 + 0.5 * 5 - 2
    assert one_step(True, False) == 1 - 2


def test_nothing_of_a_later_episode_leaks_into_an_earlier_one():
    rewards, values, terminated, truncated, valid = history()
    last = int(np.flatnonzero((terminated | truncated)[:, 0])[2])
    advantages, _ = gae(rewards, values, terminated, truncated, valid, 0.99, 0.95)
    rewards[last + 1 :] += 100
    values[last + 2 :] += 100
    changed, _ = gae(rewards, values, terminated, truncated, valid, 0.99, 0.95)
    assert np.array_equal(advantages[: last + 2], changed[: last + 2])
    assert not np.allclose(advantages[last + 2 :], changed[last + 2 :])


# --- the loss ---


def test_one_update_is_that_of_stable_baselines3():
    """The same weights, rows and settings: the same losses, and the same weights after Adam's step."""
    rows = 64
    ours = learner(epochs=1, minibatch=rows, max_grad_norm=0.05, learning_rate=3e-4)
    batch = some_batch(ours, rows)
    batch.logprobs += np.random.default_rng(5).normal(size=rows).astype(np.float32) * 0.3  # so that ratios are clipped
    reference = sb3_ppo(ours, batch)
    logged = ours.update(batch)
    reference.train()
    theirs = reference.logger.name_to_value
    assert logged["clipfrac"] > 0.1
    for name, sb3_name in {
        "policy_loss": "policy_gradient_loss",
        "value_loss": "value_loss",
        "approx_kl": "approx_kl",
        "clipfrac": "clip_fraction",
        "explained_variance": "explained_variance",
    }.items():
        assert logged[name] == pytest.approx(float(theirs[f"train/{sb3_name}"]), abs=1e-5), name
    assert logged["entropy"] == pytest.approx(-float(theirs["train/entropy_loss"]), abs=1e-5)
    for name, value in reference.policy.network.state_dict().items():
        torch.testing.assert_close(ours.network.state_dict()[name], value, atol=1e-6, rtol=0)


class _Policy(torch.nn.Module):
    """Our network in the shape that SB3's `train` expects of its policy."""

    def __init__(self, network, optimizer):
        super().__init__()
        self.network, self.optimizer = network, optimizer

    def evaluate_actions(self, observations, actions):
        logits, values = self.network(SetFeatures.of(observations.numpy()))
        distribution = torch.distributions.Categorical(logits=logits)
        return values[:, None], distribution.log_prob(actions), distribution.entropy()

    def set_training_mode(self, mode):
        self.train(mode)


def sb3_ppo(ours, batch):
    """SB3's PPO about to train on `batch` as its only minibatch, from our weights."""
    config = ours.config
    rows = len(batch.actions)
    env = gymnasium.make("CartPole-v1")
    model = sb3.PPO(
        "MlpPolicy",
        env,
        learning_rate=config.learning_rate,
        n_steps=rows,
        batch_size=rows,
        n_epochs=1,
        clip_range=config.clip,
        ent_coef=config.entropy,
        vf_coef=config.value_weight,
        max_grad_norm=config.max_grad_norm,
        device="cpu",
    )
    model.set_logger(sb3.common.logger.configure(format_strings=[]))
    twin = learner().network
    twin.load_state_dict(ours.network.state_dict())
    model.policy = _Policy(twin, torch.optim.Adam(twin.parameters(), lr=config.learning_rate, eps=1e-5))
    model.action_space = gymnasium.spaces.Discrete(ACTIONS)
    tensors = {name: torch.from_numpy(getattr(batch, name)) for name in ("actions", "advantages", "returns", "values")}
    data = SimpleNamespace(
        observations=torch.from_numpy(batch.features),
        actions=tensors["actions"],
        old_values=tensors["values"],
        old_log_prob=torch.from_numpy(batch.logprobs),
        advantages=tensors["advantages"],
        returns=tensors["returns"],
    )
    model.rollout_buffer = SimpleNamespace(get=lambda size: [data], values=batch.values, returns=batch.returns)
    return model


def test_a_ratio_beyond_the_clip_range_gives_no_gradient():
    logprobs = torch.tensor([0.5, 0.0], requires_grad=True)
    ppo_loss(logprobs, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2)[0].backward()
    assert logprobs.grad[0] == 0 and logprobs.grad[1] != 0


def test_the_divergence_is_that_of_torch_and_its_derivative_the_difference():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]])
    log_policy = F.log_softmax(logits, dim=-1)
    pairs = zip(target, log_policy.exp(), strict=True)
    far = divergence(log_policy, target)
    torch.testing.assert_close(
        far, torch.stack([torch.distributions.kl_divergence(categorical(q), categorical(p)) for q, p in pairs])
    )
    far.sum().backward()
    torch.testing.assert_close(logits.grad, (log_policy.exp() - target).detach())
    assert divergence(target[1:2].log(), target[1:2]) == pytest.approx(0, abs=1e-6)


def some_habits():
    return np.random.default_rng(8).normal(size=(FEATURES, ACTIONS)).astype(np.float32) * 0.2


def all_terms():
    """A learner and the rows of one step in which every term of the loss matters."""
    student = learner(habits=some_habits(), epochs=1, minibatch=64, max_grad_norm=100.0, value_weight=0.7)
    batch, aside = some_batch(student, 64, weight=0.6, extra=30), some_batch(student, 50, seed=3)
    batch.logprobs += np.random.default_rng(5).normal(size=64).astype(np.float32) * 0.3  # so that ratios are clipped
    batch.weight[::3] = 0
    return student, batch, Imitation(aside.features, aside.target, np.linspace(0, 2, 50, dtype=np.float32))


def test_the_gradient_is_that_of_the_losses_sum():
    """Of all terms at once: surrogate, entropy, guidance, imitation, and the critic's error on own and led rows."""
    student, batch, replayed = all_terms()
    twin = learner(habits=some_habits()).network
    twin.load_state_dict(student.network.state_dict())
    step = OptimizerStep(
        student.network, student.optimizer, student.config, Rows(batch, replayed, student.layout, student.device)
    )
    step(torch.arange(30), torch.arange(64), torch.arange(50))
    expected(twin, batch, replayed, student.config).backward()
    for ours, theirs in zip(student.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def expected(network, batch, replayed, config):
    """The loss of one update as a formula, for autograd: actions were drawn with the habits, advice is imitated without."""
    tensor = torch.from_numpy
    features = np.concatenate([batch.features, batch.value_features, replayed.features])
    logits, values = network(SetFeatures.of(features))
    log_policy = F.log_softmax(logits[:64], dim=-1)
    learned = F.log_softmax(logits - tensor(features).float() @ network.habits, dim=-1)
    ratio = (log_policy.gather(1, tensor(batch.actions)[:, None])[:, 0] - tensor(batch.logprobs)).exp()
    advantages = (batch.advantages - batch.advantages.mean()) / batch.advantages.std(ddof=1)
    surrogate = torch.min(ratio * tensor(advantages), ratio.clamp(1 - config.clip, 1 + config.clip) * tensor(advantages))
    error = values[:94] - tensor(np.concatenate([batch.returns, batch.value_returns]))
    entropy = -(log_policy.exp() * log_policy).sum(dim=-1).mean()
    guidance = sum(
        (tensor(rows.weight) * F.kl_div(policy, tensor(rows.target), reduction="none").sum(dim=-1)).mean()
        for rows, policy in ((batch, learned[:64]), (replayed, learned[94:]))
    )
    return -surrogate.mean() + config.value_weight * (error**2).mean() - config.entropy * entropy + guidance


def categorical(probabilities):
    return torch.distributions.Categorical(probs=probabilities.clamp(min=1e-12))


def test_guidance_of_weight_0_is_exactly_plain_ppo():
    plain, guided, heeding = learner(), learner(), learner()
    batches = [some_batch(student, weight=weight) for student, weight in ((plain, 0.0), (guided, 0.0), (heeding, 1.0))]
    batches[0].target[:] = 0.2
    for student, batch in zip((plain, guided, heeding), batches, strict=True):
        student.update(batch)
    assert same(weights(plain), weights(guided))
    assert not same(weights(plain), weights(heeding))


def test_a_guided_student_takes_up_the_advice():
    student = learner(learning_rate=1e-2, epochs=5)
    batch = some_batch(student, weight=3.0)
    batch.target = np.eye(ACTIONS, dtype=np.float32)[batch.features[:, :ACTIONS].argmax(axis=1)]
    first = student.update(batch)["guidance_kl"]
    for _ in range(20):
        last = student.update(batch)["guidance_kl"]
    assert last < 0.3 * first
    assert (student.greedy(batch.features) == batch.target.argmax(axis=1)).mean() > 0.95


def test_imitation_does_not_unlearn_a_habit():
    """Who goes in circles sees the same advice over and over: the habit of trying something else must outlast it."""
    habits = np.zeros((FEATURES, ACTIONS), dtype=np.float32)
    habits[0, 1] = -8.0  # "done here many times: action 1"
    student = learner(habits=habits, learning_rate=1e-2, epochs=5)
    batch = some_batch(student, weight=3.0)
    batch.features[:, 0] = 1
    batch.target = np.tile(np.array([0.04, 0.9, 0.04, 0.01, 0.01], dtype=np.float32), (len(batch.actions), 1))
    aside = Imitation(batch.features, batch.target, batch.weight)
    for _ in range(40):
        student.update(batch, lambda rows: aside)
    tired, fresh = batch.features.copy(), batch.features.copy()
    fresh[:, 0] = 0
    assert (student.greedy(fresh) == 1).all(), "the advice was learned"
    assert (student.greedy(tired) != 1).all(), "and the habit is as it was"


def test_replayed_rows_are_distilled_and_asked_for_by_the_round():
    student = learner(learning_rate=1e-2, minibatch=64)
    features = some_features(500, seed=9)
    target = np.eye(ACTIONS, dtype=np.float32)[features[:, :ACTIONS].argmax(axis=1)]
    asked = []

    def replay(rows):
        asked.append(rows)
        return Imitation(features[:rows], target[:rows], np.full(rows, 3.0, dtype=np.float32))

    for _ in range(60):
        student.update(some_batch(student, rows=128), replay)
    assert asked == [2 * 128] * 60, "once a round, for both passes"
    assert (student.greedy(features[:64]) == target[:64].argmax(axis=1)).mean() > 0.95


def test_rows_for_the_critic_move_values_but_not_through_the_policy():
    student = learner(learning_rate=1e-2, entropy=0.0)
    batch = some_batch(student, extra=128)
    assert batch.value_features is not None and batch.value_returns is not None
    batch.advantages[:] = 0
    batch.value_returns[:] = 4.0
    head = student.network.policy.weight.clone()
    for _ in range(30):
        student.update(batch)
    assert student.values(batch.value_features).mean() > 2.0
    assert torch.equal(head, student.network.policy.weight)


def test_a_round_without_student_led_rows_trains_the_critic():
    student = learner()
    before = weights(student)
    batch = some_batch(student, rows=0, extra=64)
    logged = student.update(batch)
    assert logged["value_loss"] > 0 and np.isfinite(list(logged.values())).all()
    assert not same(before, weights(student))


# --- the learner ---


def test_actions_are_drawn_from_the_policy():
    student = learner(learning_rate=1e-2)
    student.update(some_batch(student, weight=5.0))
    row = some_features(1)
    drawn, logprobs, values = student.act(np.repeat(row, 20_000, axis=0))
    policy = student.probabilities(row)[0]
    assert policy.max() - policy.min() > 0.02
    np.testing.assert_allclose(np.bincount(drawn, minlength=ACTIONS) / 20_000, policy, atol=0.015)
    np.testing.assert_allclose(logprobs, np.log(policy)[drawn], atol=1e-5)
    np.testing.assert_allclose(values, student.values(row)[0], atol=1e-5)
    assert drawn.dtype == np.int64 and logprobs.dtype == values.dtype == np.float32


def test_the_same_seed_learns_the_same():
    def train(seed):
        student = learner(seed)
        for i in range(3):
            student.update(some_batch(student, weight=1.0, seed=i, extra=30))
        return student.state_dict()

    assert same(train(1), train(1))
    assert not same(train(1), train(2))


def test_a_saved_learner_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    student = learner(1)
    student.update(some_batch(student))
    student.save(tmp_path)
    restored = learner(2)
    restored.load(tmp_path)
    for one in (student, restored):
        one.update(some_batch(one, seed=3))
    assert same(student.state_dict(), restored.state_dict())


def test_a_learner_that_never_learned_can_be_saved(tmp_path):
    learner(1).save(tmp_path)
    restored = learner(2)
    restored.load(tmp_path)
    assert same(restored.state_dict(), learner(1).state_dict())


def test_a_student_of_another_size_is_refused(tmp_path):
    learner(hidden=16).save(tmp_path)
    with pytest.raises(CoteachError, match="'hidden': 16.*expected.*'hidden': 8"):
        learner(hidden=8).load(tmp_path)


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    student = learner()
    student.save(tmp_path)
    file = tmp_path / "student.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CoteachError, match="cannot be read") as error:
        student.load(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(CoteachError, match="cannot be read"):
        student.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "name"), [("advantages", "policy_loss"), ("returns", "value_loss"), ("weight", "guidance_loss")]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_weights(field, name):
    student = learner()
    batch = some_batch(student, rows=64, weight=1.0)
    getattr(batch, field)[3] = np.nan
    before = weights(student)
    with pytest.raises(NotFinite, match=name):
        student.update(batch)
    assert same(before, weights(student))


@pytest.mark.slow
def test_it_learns_a_bandit_whose_best_arm_is_shown():
    """Reward 1 for the arm named by the only feature that is set: nothing but PPO's gradient teaches that."""
    student = learner(learning_rate=1e-2, epochs=4)
    rng = np.random.default_rng(0)
    for _ in range(40):
        best = rng.integers(0, ACTIONS, 256)
        features = np.zeros((256, FEATURES), dtype=np.uint8)
        features[np.arange(256), best] = 1
        actions, logprobs, values = student.act(features)
        rewards = (actions == best).astype(np.float32)
        no_advice = np.zeros((256, ACTIONS), dtype=np.float32), np.zeros(256, dtype=np.float32)
        student.update(Batch(features, actions, logprobs, values, rewards - values, rewards, *no_advice))
    assert rewards.mean() > 0.85
    assert (student.greedy(features) == best).all()
    np.testing.assert_allclose(student.values(features), 1.0, atol=0.3)


def test_explained_variance():
    returns = np.array([1.0, 2.0, 4.0], dtype=np.float32)
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(np.zeros(3, dtype=np.float32), returns) == 0.0
    assert explained_variance(returns, np.ones(3, dtype=np.float32)) == 0.0
