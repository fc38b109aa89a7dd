"""A benchmark compares like with like: turns, medians, the same work."""

import sys
import time

import pytest

from coteach.errors import CoteachError
from coteach.experiments import bench
from coteach.teacher.prompt import Prompt


def test_both_sides_take_turns_and_the_warm_up_does_not_count():
    played = []

    def side(name, rates):
        pending = iter(rates)

        def rate():
            played.append(name)
            return next(pending)

        return rate

    result = bench.take_turns(side("a", [1, 30, 20, 1000]), side("b", [1, 10, 2, 4]), repeats=3)
    assert played == ["a", "b"] * 4
    assert result == {"ours": 30, "theirs": 4, "ratio": 7.5}


def test_the_peer_trains_on_the_same_task():
    pytest.importorskip("stable_baselines3")
    assert bench.peer_training("MiniGrid-Empty-5x5-v0", rollouts=1)() > 0


def test_the_loop_is_timed_by_the_environment_steps_it_takes(monkeypatch):
    monkeypatch.setattr("coteach.method.players.cores", lambda: 1)
    rate = bench.coteach_training("MiniGrid-Empty-5x5-v0", rounds=1)
    assert rate() > 0
    assert rate() > 0


def test_without_the_peer_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(CoteachError, match=r"pip install 'coteach\[dev\]'"):
        bench.peer_training()


def test_packed_and_single_scores_are_compared_on_the_same_prompts():
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **size)).eval()
    prompts = [Prompt(body=(start, 4, 9), options=((7, 1), (8, 3, 1), (8, 1))) for start in range(10, 14)]
    result = bench.scoring_ratio(model, (5, 6), prompts, repeats=1)
    assert result["difference"] < 1e-4 and result["options"] == 3
    assert result["ratio"] == pytest.approx(result["ours"] / result["theirs"])


def test_the_rate_of_grounding_counts_the_steps_of_all_environments():
    class Slow:
        def observe(self, observation, actions, restarted):
            time.sleep(0.001)

    result = bench.grounding_rate(lambda envs, actions: Slow(), "MiniGrid-Empty-5x5-v0", envs=8, steps=10, repeats=1)
    assert 800 < result["steps_per_second"] < 8000
