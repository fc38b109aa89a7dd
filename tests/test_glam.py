"""The LLM as policy: what it reads, that PPO's ratio begins at one, that what is better becomes likelier, and costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny_lm
from coteach.errors import CoteachError, RunFailed
from coteach.experiments import glam
from coteach.experiments.glam import Glam, GlamConfig, Policy, Rows, losses
from coteach.grounding.base import Observation, Situation, Situations
from coteach.grounding.minigrid.describe import ViewGrounding, describe
from coteach.teacher.local.scoring import Scorer

TASK = "BabyAI-GoToRedBallNoDists-v0"
CONFIG = GlamConfig(TASK, engine="minigrid", threads=1, envs=4, horizon=8, epochs=1, learning_rate=1e-2)
ACTIONS = ("turn left", "turn right", "go forward")


def view(**cells: tuple[int, int, int]) -> np.ndarray:
    """An empty 7x7 view with (object, colour, state) at cells named c<column>r<row>."""
    image = np.ones((7, 7, 3), dtype=np.uint8)
    image[..., 1:] = 0
    for name, cell in cells.items():
        image[int(name[1]), int(name[3])] = cell
    return image


def policy(*texts: str, seed: int = 0) -> Policy:
    situations = Situations()
    for text in texts or ("You see a red ball.", "You see a wall.", "You see nothing."):
        situations.number(Situation(text, ACTIONS))
    return Policy(tiny_lm.loaded(), situations, lora_rank=4, seed=seed)


def rows(situation: list[int], action: list[int], advantage: list[float], of: Policy) -> Rows:
    log_policy, _ = of.answer(np.array(situation))
    chosen = log_policy[np.arange(len(action)), action]
    better = np.array(advantage, dtype=np.float32)
    return Rows(np.array(situation), np.array(action), chosen, better, better)


@pytest.fixture
def baseline() -> Glam:
    return Glam(CONFIG, tiny_lm.loaded())


BALL, WALL, DOOR, KEY = (6, 0, 0), (2, 5, 0), (4, 1, 2), (5, 4, 0)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (view(), "You see nothing."),
        (view(c1r3=BALL), "You see a red ball 2 steps left and 3 steps forward."),
        (view(c4r6=BALL), "You see a red ball 1 step right."),
        (view(c3r2=WALL, c6r6=WALL), "You see a wall 4 steps forward. You see a wall 3 steps right."),
        (view(c0r6=WALL, c2r6=WALL), "You see a wall 1 step left."),
        (view(c3r6=KEY, c3r5=DOOR), "You carry a yellow key. You see a locked green door 1 step forward."),
        (view(c3r0=BALL, c3r4=BALL), "You see a red ball 2 steps forward. You see a red ball 6 steps forward."),
        (view(c0r0=WALL, c1r1=WALL), "You see nothing."),
    ],
)
def test_the_view_is_told_from_where_the_agent_stands(image: np.ndarray, text: str) -> None:
    assert describe(image) == text


def test_a_situation_is_mission_and_view_and_its_options_are_the_actions() -> None:
    grounding = ViewGrounding(Situations(), 7)
    same, other = view(c3r3=BALL), view(c3r2=BALL)
    seen = Observation(np.stack([same, same, other]), ["go to the red ball", "go to the key", "go to the red ball"])
    now = grounding.observe(seen, None, np.ones(3, dtype=np.bool_))
    assert now.situation.tolist() == [0, 1, 2]
    assert "Mission: go to the key." in grounding.situations[1].text
    assert grounding.situations[0].options == ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
    again = grounding.observe(seen, np.array([0, 2, 5]), np.array([False, False, True]))
    assert again.situation.tolist() == [0, 1, 2]
    assert again.completed.tolist() == [1 << 0, 1 << 2, 0]  # an action is over once taken; a reset takes none


def test_tasks_with_three_actions_offer_three() -> None:
    assert ViewGrounding(Situations(), 3).action_names == ACTIONS


def test_scores_and_states_of_one_pass_are_those_of_the_model_alone() -> None:
    of = policy()
    read = [of.prompt(number) for number in range(3)]
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            scores, states = of.scorer.score_and_read(read)
        for prompt, score, state in zip(read, scores, states, strict=True):
            ids = torch.tensor([[*of.scorer.prefix, *prompt.body]])
            whole = of.scorer.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
            assert torch.allclose(state, whole, atol=1e-4)
            alone = Scorer(of.scorer.model, of.scorer.prefix, packed=False).score([prompt])[0]
            assert np.allclose(score.detach().numpy(), alone, atol=1e-3)


def test_ppos_ratio_is_one_before_the_first_step(baseline: Glam) -> None:
    taken = baseline.collect()
    numbers = np.unique(taken.situation)
    assert len(numbers) < len(taken.action)  # else nothing is grouped
    log_policy, values = baseline.policy.forward(numbers.tolist())
    slot = torch.from_numpy(np.searchsorted(numbers, taken.situation))
    ratio = (log_policy[slot, torch.from_numpy(taken.action)] - torch.from_numpy(taken.logprob)).exp()
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-4)
    _, measures = losses(log_policy, values, slot, taken, CONFIG)
    assert measures["clipfrac"] == 0.0
    assert abs(measures["approx_kl"]) < 1e-6


def test_a_situation_read_once_for_all_its_rows_teaches_what_it_teaches_read_for_each() -> None:
    of = policy()
    taken = rows([0, 1, 0, 2, 1], [0, 1, 2, 0, 2], [1.0, -0.5, 0.3, 0.0, 2.0], of)
    taken.logprob -= np.float32(0.05)
    weights = [*of.lora, *of.head.parameters()]
    torch.nn.init.normal_(of.lora[1], std=0.1)  # LoRA's second factor begins at zero: the first would get no gradient

    def gradient(log_policy: torch.Tensor, values: torch.Tensor, slot: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
        total, _ = losses(log_policy, values, slot, taken, CONFIG)
        return total.item(), list(torch.autograd.grad(total, weights))

    grouped = gradient(*of.forward([0, 1, 2]), torch.from_numpy(taken.situation))
    each = [of.forward([number]) for number in taken.situation.tolist()]
    alone = gradient(torch.cat([row for row, _ in each]), torch.cat([value for _, value in each]), torch.arange(5))
    assert grouped[0] == pytest.approx(alone[0], abs=1e-5)
    assert max(float(one.abs().max()) for one in grouped[1]) > 1e-3
    for one, other in zip(grouped[1], alone[1], strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_lora_and_head_learn_and_the_model_beneath_does_not(baseline: Glam) -> None:
    model, of = baseline.policy.scorer.model, baseline.policy
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    head = [weight.clone() for weight in of.head.parameters()]
    baseline.update(baseline.collect())
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora" in name for name in changed)
    assert any(not torch.equal(one, other) for one, other in zip(of.head.parameters(), head, strict=True))


def test_what_turned_out_better_becomes_likelier_where_it_did(baseline: Glam) -> None:
    seen = Observation(np.stack([view(c3r5=BALL), view(c3r5=WALL)]), ["go to the red ball"] * 2)
    ball, wall = baseline.ground(2, 7).observe(seen, None, np.ones(2, dtype=np.bool_)).situation.tolist()
    asked = np.array([ball, wall])
    for _ in range(8):
        # At the ball going forward is right, at the wall turning left.
        taken = rows([ball, ball, wall, wall], [2, 0, 0, 2], [1.0, -1.0, 1.0, -1.0], baseline.policy)
        baseline.update(taken)
    policy_now, values = baseline.policy.answer(asked)
    assert policy_now[0, 2] > policy_now[0, 0] + 1.0
    assert policy_now[1, 0] > policy_now[1, 2] + 1.0
    assert np.isfinite(values).all()


def test_the_model_reads_a_situation_once_until_it_has_learned() -> None:
    of = policy()
    first, _ = of.answer(np.array([0, 1, 1, 0]))
    tokens = of.scorer.tokens
    again, _ = of.answer(np.array([1, 0]))
    assert of.scorer.tokens == tokens
    assert np.array_equal(again, first[[1, 0]])
    of.changed()
    of.answer(np.array([1]))
    assert of.scorer.tokens > tokens


def test_the_same_seed_is_the_same_run() -> None:
    runs = [Glam(CONFIG, tiny_lm.loaded()) for _ in range(2)]
    for run in runs:
        run.learn(2 * 32)
    weights = [[weight.detach() for weight in run.policy.lora] for run in runs]
    assert runs[0].steps >= 64
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_learning_goes_on_from_where_it_stopped_and_stops_when_time_is_up(baseline: Glam) -> None:
    told: list[float] = []
    baseline.learn(1, report=lambda row: told.append(row["steps"]))
    assert 28 <= baseline.steps <= 32  # one iteration, but for steps that only begin an episode
    baseline.learn(1)
    baseline.learn(10_000, seconds=1e-9)
    assert told == [baseline.steps]


def test_evaluation_plays_the_reference_episodes_and_is_not_booked_as_learning(baseline: Glam) -> None:
    baseline.learn(1)
    tokens, steps = baseline.tokens, baseline.steps
    first, second = baseline.evaluate(3), baseline.evaluate(3)
    assert first.episodes == 3
    assert np.array_equal(first.returns, second.returns)
    assert (baseline.tokens, baseline.steps) == (tokens, steps)
    assert tokens > 0


def test_a_loss_that_is_not_finite_ends_the_run_with_the_weights_as_they_were(baseline: Glam) -> None:
    taken = baseline.collect()
    taken.returns[0] = np.nan
    before = [weight.clone() for weight in baseline.policy.lora]
    with pytest.raises(RunFailed, match="not finite"):
        baseline.update(Rows(*(array[:1] for array in vars(taken).values())))
    assert all(torch.equal(one, other) for one, other in zip(before, baseline.policy.lora, strict=True))


def test_a_model_that_cannot_read_actions_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glam, "reads_tries", lambda *_: False)
    with pytest.raises(CoteachError, match="tiny"):
        policy()
