"""The baseline's idea (GLAM: Carta et al. 2023, arXiv 2302.02662): the LLM itself is the policy, tuned by PPO.

At every step the model reads the view in words; a softmax over the log-probabilities of the named primitive actions is the
policy (as in Lamorel), a small head on the state at the prompt's end the critic. LoRA and the head learn. Left out of the
original: the two observations before the present one in the prompt, and training all weights.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from coteach.config import TeacherConfig
from coteach.envs import tasks
from coteach.envs.engines import Step
from coteach.errors import CoteachError, RunFailed
from coteach.evaluation.episodes import Evaluation, evaluate_teacher
from coteach.grounding.base import Situation, Situations
from coteach.grounding.follower import choose_slots
from coteach.grounding.minigrid.describe import ViewGrounding
from coteach.runs.machine import cores
from coteach.student.ppo import gae, ppo_loss
from coteach.teacher import prompt as prompts
from coteach.teacher.local.adapter import Adapter
from coteach.teacher.local.models import LoadedModel, context_length
from coteach.teacher.local.scoring import Scorer, reads_tries
from coteach.teacher.local.trie import passes

TOKENS_PER_PASS = 512
TOKENS_PER_STEP = 1024
"""Of the prompts that one optimiser step sees, before those that begin alike are computed together: bounds the memory."""
HEAD_WIDTH = 128
RECENT = 100
"""Training episodes over which success is averaged."""


@dataclass(frozen=True)
class GlamConfig:
    """One run of the baseline. An iteration is `envs` x `horizon` environment steps and `epochs` passes over them.

    entropy: with the original's 0.01 the policy grew surer (1.1 to 0.6 nats in 12 iterations) before it had seen much success.
    """

    task: str
    seed: int = 0
    engine: str = "auto"
    threads: int = 0
    envs: int = 16
    horizon: int = 16
    epochs: int = 2
    lora_rank: int = 16
    learning_rate: float = 2e-4
    head_learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.05
    value_weight: float = 0.5
    max_grad_norm: float = 0.5


class Policy:
    """A causal LM with LoRA as policy and critic over situations whose options are actions.

    loaded:     the model; it gets LoRA layers, so load one for each policy.
    situations: all of them have the same options; they are named by their numbers.
    """

    def __init__(self, loaded: LoadedModel, situations: Situations, lora_rank: int, seed: int) -> None:
        self.situations = situations
        self._tokenizer, self._frame = loaded.tokenizer, prompts.frame(loaded.tokenizer)
        self._prefix = prompts.prefix_ids(loaded.tokenizer, self._frame)
        self._context = context_length(loaded.model)
        self._prompts: list[prompts.Prompt] = []
        if not reads_tries(loaded.model, self._prefix, self._build(Situation("You see a wall.", ("turn left", "turn right")))):
            raise CoteachError(f"teacher {loaded.base!r}: it cannot score actions together, which `glam` needs; choose another")
        adapter = Adapter(loaded.model, TeacherConfig(lora_rank=lora_rank), loaded.base)
        adapter.create(seed)
        self.scorer = Scorer(loaded.model, self._prefix)
        self.lora = list(adapter.weights().values())
        self.head = _head(int(loaded.model.config.get_text_config().hidden_size), seed).to(loaded.model.device)
        self._known: dict[int, tuple[NDArray[np.float32], float]] = {}

    def forward(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One pass over distinct situations: log-policy (P, A) and values (P,), differentiable where gradients are recorded."""
        scores, states = self.scorer.score_and_read([self.prompt(number) for number in numbers])
        return F.log_softmax(torch.stack(scores).float(), dim=-1), self.head(states.float()).squeeze(-1)

    def answer(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log-policy (N, A) and values (N,) of situations; the model reads each once, until its weights change."""
        new = [number for number in np.unique(numbers).tolist() if number not in self._known]
        with torch.inference_mode():
            for pack in passes([self.prompt(number) for number in new], TOKENS_PER_PASS):
                log_policy, values = self.forward([new[slot] for slot in pack])
                entries = zip(log_policy.cpu().numpy(), values.cpu().tolist(), strict=True)
                self._known.update(zip([new[slot] for slot in pack], entries, strict=True))
        known = [self._known[number] for number in numbers.tolist()]
        return np.stack([row for row, _ in known]), np.array([value for _, value in known], dtype=np.float32)

    def changed(self) -> None:
        """The weights are others now: forget what was answered."""
        self._known.clear()
        self.scorer.forget()

    def prompt(self, number: int) -> prompts.Prompt:
        """Token ids of a situation and of its actions."""
        while len(self._prompts) <= number:
            self._prompts.append(self._build(self.situations[len(self._prompts)]))
        return self._prompts[number]

    def _build(self, situation: Situation) -> prompts.Prompt:
        built = prompts.build(self._tokenizer, self._frame, situation)
        prompts.check_length(self._prefix, built, self._context, situation.text)
        return built


@dataclass
class Rows:
    """What an iteration's R valid steps teach: all arrays are (R,), `situation` and `action` int64, the others float32."""

    situation: NDArray[np.int64]
    action: NDArray[np.int64]
    logprob: NDArray[np.float32]
    advantage: NDArray[np.float32]
    returns: NDArray[np.float32]


def losses(log_policy: Tensor, values: Tensor, slot: Tensor, rows: Rows, config: GlamConfig) -> tuple[Tensor, dict[str, float]]:
    """PPO's loss, a scalar, and measures of it: log_policy (P, A) and values (P,) of situations; row r is about slot[r]."""
    action, logprob, advantage, returns = (
        torch.from_numpy(array).to(values.device) for array in (rows.action, rows.logprob, rows.advantage, rows.returns)
    )
    own = log_policy[slot]
    policy_loss, measures = ppo_loss(own.gather(1, action[:, None])[:, 0], logprob, advantage, config.clip)
    value_loss = ((values[slot] - returns) ** 2).mean()
    entropy = -(own.exp() * own).sum(dim=-1).mean()
    total = policy_loss + config.value_weight * value_loss - config.entropy * entropy
    logged = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, **measures}
    return total, {name: float(value.detach()) for name, value in logged.items()}


class Glam:
    """The baseline being trained: `learn` for some iterations, `evaluate`, learn on."""

    def __init__(self, config: GlamConfig, loaded: LoadedModel) -> None:
        torch.set_num_threads(config.threads or cores())
        self.config, self.rng = config, np.random.default_rng(config.seed)
        self.environments = tasks.make(config.task, config.engine, config.envs, int(self.rng.integers(2**31)))
        self.situations = Situations()
        self.policy = Policy(loaded, self.situations, config.lora_rank, config.seed)
        groups = [(self.policy.lora, config.learning_rate), (self.policy.head.parameters(), config.head_learning_rate)]
        self.optimiser = torch.optim.Adam([{"params": list(weights), "lr": rate} for weights, rate in groups], eps=1e-5)
        self.steps, self.tokens, self.seconds = 0, 0, 0.0
        """Environment steps taken, tokens computed and time spent while learning; evaluations are not counted."""
        self.recent: deque[bool] = deque(maxlen=RECENT)
        self._grounding = self.ground(config.envs, self.environments.num_actions)
        everyone = np.ones(config.envs, dtype=np.bool_)
        self._now = self._grounding.observe(self.environments.reset(), None, everyone).situation
        self._reward = np.zeros(config.envs)

    def ground(self, _num_envs: int, num_actions: int) -> ViewGrounding:
        """A grounding that numbers situations together with all others."""
        return ViewGrounding(self.situations, num_actions)

    def learn(self, steps: int, seconds: float = math.inf, report: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Go on until `steps` environment steps are taken in all, or `seconds` spent in all; no iteration is broken off."""
        while self.steps < steps and self.seconds < seconds:
            began, tokens = time.perf_counter(), self.policy.scorer.tokens
            rows = self.collect()
            measures = self.update(rows)
            self.steps += len(rows.action)
            self.tokens += self.policy.scorer.tokens - tokens
            self.seconds += time.perf_counter() - began
            if report is not None:
                success = sum(self.recent) / len(self.recent) if self.recent else None
                report({"steps": self.steps, "seconds": self.seconds, "success": success, "tokens": self.tokens} | measures)

    def collect(self) -> Rows:
        """Act for `horizon` steps; the rows that were no mere resets, with their advantages."""
        steps, envs = self.config.horizon, self.config.envs
        situation = np.empty((steps + 1, envs), dtype=np.int64)
        action = np.empty((steps, envs), dtype=np.int64)
        logprob, reward = np.empty((2, steps, envs), dtype=np.float32)
        terminated, truncated, valid = np.empty((3, steps, envs), dtype=np.bool_)
        for t in range(steps):
            situation[t] = self._now
            log_policy, _ = self.policy.answer(self._now)
            action[t] = choose_slots(np.exp(log_policy.astype(np.float64)), np.ones_like(log_policy, dtype=np.bool_), self.rng)
            logprob[t] = np.take_along_axis(log_policy, action[t][:, None], axis=1)[:, 0]
            step = self.environments.step(action[t])
            reward[t], terminated[t], truncated[t], valid[t] = step.reward, step.terminated, step.truncated, ~step.restarted
            self._now = self._grounding.observe(step.observation, action[t], step.restarted).situation
            self._account(step)
        situation[steps] = self._now
        values = self.policy.answer(situation.ravel())[1].reshape(situation.shape)
        weighing = (self.config.gamma, self.config.gae_lambda)
        advantage, returns = gae(reward, values, terminated, truncated, valid, *weighing)
        return Rows(situation[:-1][valid], action[valid], logprob[valid], advantage[valid], returns[valid])

    def update(self, rows: Rows) -> dict[str, float]:
        """`epochs` passes over the rows, each situation read once a pass; means of the measures over the optimiser's steps."""
        seen = [self._step(numbers, rows) for _ in range(self.config.epochs) for numbers in self._shares(rows)]
        self.policy.changed()
        return {name: float(np.mean([measures[name] for measures in seen])) for name in seen[0]}

    def evaluate(self, episodes: int, greedy: bool = False) -> Evaluation:
        """Actions drawn, as in training (greedy: the most probable), over the fixed-seed reference episodes of all players."""
        return evaluate_teacher(self._advise, self.config.task, self.ground, 1, episodes, sample=not greedy)

    def close(self) -> None:
        """Let go of the environments."""
        self.environments.close()

    def _advise(self, asked: list[Situation]) -> list[NDArray[np.float32]]:
        numbers = np.array([self.situations.number(situation) for situation in asked], dtype=np.int64)
        return list(np.exp(self.policy.answer(numbers)[0])) if len(numbers) else []

    def _account(self, step: Step) -> None:
        self._reward += step.reward * ~step.restarted
        for env in np.flatnonzero((step.terminated | step.truncated) & ~step.restarted):
            self.recent.append(bool(self._reward[env] > 0))
            self._reward[env] = 0.0

    def _shares(self, rows: Rows) -> Iterator[NDArray[np.int64]]:
        """The distinct situations of a pass in random order, in equal shares that fit one forward pass."""
        numbers = self.rng.permutation(np.unique(rows.situation))
        read = [self.policy.prompt(number) for number in numbers.tolist()]
        tokens = sum(len(prompt.body) + sum(map(len, prompt.options)) for prompt in read)
        return iter(np.array_split(numbers, math.ceil(tokens / TOKENS_PER_STEP)))

    def _step(self, numbers: NDArray[np.int64], rows: Rows) -> dict[str, float]:
        """One optimiser step on the rows that are about these situations."""
        chosen = np.isin(rows.situation, numbers)
        few = Rows(*(array[chosen] for array in vars(rows).values()))
        place = {number: slot for slot, number in enumerate(numbers.tolist())}
        log_policy, values = self.policy.forward(numbers.tolist())
        slot = torch.tensor([place[number] for number in few.situation.tolist()], device=values.device)
        total, measures = losses(log_policy, values, slot, few, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        weights = [*self.policy.lora, *self.policy.head.parameters()]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.config.max_grad_norm)
        if not bool(torch.isfinite(total + norm)):
            raise RunFailed("glam: its loss or gradient is not finite; begin again with a smaller learning rate")
        self.optimiser.step()
        return measures | {"grad_norm": float(norm)}


def _head(hidden: int, seed: int) -> nn.Module:
    """States (P, hidden) -> values (P, 1). Begins near 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        last = nn.Linear(HEAD_WIDTH, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        # States of a language model are large and lie in one direction mostly: their scale must not be the head's.
        return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, HEAD_WIDTH), nn.Tanh(), last)
