"""Every setting of a run: its default, what it means, its range, and where the default comes from.

The defaults are the method. Each number that changes what is learned is a field here; numbers that only guard against division by
zero, bound memory or time, or describe how a network is built are constants beside the code that uses them.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self, get_args

from annotated_types import Ge, Le
from pydantic import BeforeValidator, Strict, model_validator
from pydantic.dataclasses import dataclass

from coteach.arms import ARMS
from coteach.config.section import CHECKED, Section, Text, Whole, part, setting
from coteach.errors import CoteachError, unknown

Device = Literal["auto", "cpu", "cuda"]
Engine = Literal["auto", "envpool", "minigrid", "gymnasium"]
Feedback = Literal["nothing", "examples", "evidence", "both"]
Fresh = Literal["nothing", "teacher", "student"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "4bit"]
TuneMethod = Literal["distill", "pg", "dpo"]
JsonObject = Annotated[str, BeforeValidator(lambda given: json.dumps(given) if isinstance(given, dict) else given)]
"""A JSON object as text; in TOML it may be a table."""

Power = Annotated[float, Strict(), Ge(0.0), Le(10.0)]

ENGINES: tuple[str, ...] = get_args(Engine)
FEEDBACK: tuple[str, ...] = get_args(Feedback)
FRESH: tuple[str, ...] = get_args(Fresh)
PRECISIONS: tuple[str, ...] = get_args(Precision)
TUNE_METHODS: tuple[str, ...] = get_args(TuneMethod)

CHOSEN = "chosen, not tuned"
HINDSIGHT = "hindsight: Andrychowicz et al. 2017, arXiv 1707.01495"
SOFT_UPDATE = "soft target updates: Lillicrap et al. 2015, arXiv 1509.02971"
STOOD_STILL = "notebook: 2026-11-22-a-greedy-student-that-stood-still"
IN_CIRCLES = "notebook: 2026-11-22-a-greedy-student-that-goes-in-circles"
LLM_TUNED = "notebook: 2026-11-22-how-the-llm-is-tuned"
COUNTING = "notebook: 2026-11-22-counting-successes"
SHARING = "notebook: 2026-11-22-sharing-between-situations"
IN_CONTEXT = "notebook: 2026-11-22-in-context-feedback"
THREE_WAYS = "notebook: 2026-11-22-three-ways-to-tune-the-llm"
FINE_TUNING = "notebook: 2026-11-22-fine-tuning-where-the-llm-itself-goes"
TIDY_UP = "notebook: 2026-11-27-a-task-of-words-tidyup"
WORD_VALUES = "notebook: 2026-11-27-word-values-learned-too-slowly"
LEAVES = "notebook: 2026-11-28-a-student-that-leaves-its-teacher"
GAPS = "notebook: 2026-11-28-widened-gaps"
ALL_LESSONS = "notebook: 2026-11-28-all-lessons-in-one-tuning"
FOR_SURE = "notebook: 2026-11-28-trust-only-for-what-is-gained-for-sure"
PPO = "PPO: Schulman et al. 2017, arXiv 1707.06347"
GAE = "GAE: Schulman et al. 2016, arXiv 1506.02438"
DETAILS = "Huang et al. 2022, The 37 implementation details of PPO"
GRILL = "Grill et al. 2020, arXiv 2007.12509"
LORA = "LoRA: Hu et al. 2021, arXiv 2106.09685"
VEC_NORMALIZE = "VecNormalize of Stable-Baselines3"
R_MAX = "R-max: Brafman & Tennenholtz 2002"
ENSEMBLES = "deep ensembles: Lakshminarayanan et al. 2017, arXiv 1612.01474"


@dataclass(config=CHECKED)
class CollectConfig(Section):
    """How experience is collected in a round."""

    envs: Whole = setting(64, "parallel environments", 1, 4096, CHOSEN)
    horizon: Whole = setting(32, "steps per environment and round", 1, 4096, STOOD_STILL)
    led_share_max: float = setting(0.5, "share of environments that the teacher controls at the start", 0.0, 1.0, CHOSEN)
    led_share_min: float = setting(0.0625, "smallest share of environments that the teacher controls", 0.0, 1.0, CHOSEN)
    optimistic_share: float = setting(
        0.5, "share of the teacher-controlled episodes that are optimistic: they follow the exploration policy", 0.0, 1.0, SHARING
    )
    option_patience: Whole = setting(40, "steps after which an option that is followed times out", 1, 1000, CHOSEN)


@dataclass(config=CHECKED)
class StudentConfig(Section):
    """The student's network and PPO."""

    hidden: Whole = setting(128, "width of the hidden layers", 8, 4096, IN_CIRCLES)
    learning_rate: float = setting(1e-3, "Adam's learning rate", 1e-7, 1.0, STOOD_STILL)
    adam_epsilon: float = setting(1e-5, "Adam's epsilon", 1e-12, 1e-1, DETAILS)
    epochs: Whole = setting(4, "passes over each round's student-controlled rows", 1, 50, IN_CIRCLES)
    minibatch: Whole = setting(128, "rows per optimiser step", 16, 1_000_000, IN_CIRCLES)
    gamma: float = setting(0.99, "discount per step", 0.0, 1.0, PPO)
    gae_lambda: float = setting(0.95, "GAE's lambda", 0.0, 1.0, GAE)
    clip: float = setting(0.2, "PPO's clip range", 0.0, 1.0, PPO)
    entropy: float = setting(0.002, "weight of the entropy bonus", 0.0, 1.0, STOOD_STILL)
    value_weight: float = setting(0.5, "weight of the value loss", 0.0, 10.0, DETAILS)
    max_grad_norm: float = setting(0.5, "largest gradient norm; larger gradients are clipped", 0.0, 100.0, DETAILS)
    clip_obs: float = setting(10.0, "normalised numbers among the observations are clipped to +- this", 0.1, 1e6, VEC_NORMALIZE)
    large_picture: Whole = setting(
        36, "side in pixels from which on pictures pass through convolutions with strides", 36, 100_000, "Mnih et al. 2015"
    )
    repetition_reluctance: float = setting(
        1.0,
        "by how much an action's logit falls at each count of how often it was taken in this place (MiniGrid; not learned)",
        0.0,
        100.0,
        IN_CIRCLES,
    )
    learned_options: list[Text] = setting(
        [], "beginnings of options, for example pick up, that the student learns to carry out even if they have controllers"
    )
    device: Device = setting("auto", "auto, cpu or cuda")


@dataclass(config=CHECKED)
class ExecutorConfig(Section):
    """How the student learns to carry out options that have no controller (all-goals Q-learning)."""

    words: Whole = setting(256, "columns into which an option's words are hashed", 1, 65_536, CHOSEN)
    discount: float = setting(0.95, "discount per step: an option's value says how soon it can be completed", 0.0, 1.0, CHOSEN)
    rows: Whole = setting(16_384, "steps in the replay buffer", 1, 10_000_000, CHOSEN)
    batch: Whole = setting(256, "rows per optimiser step", 1, 1_000_000, CHOSEN)
    steps: Whole = setting(32, "optimiser steps per round", 1, 100_000, CHOSEN)
    event_share: float = setting(
        0.5,
        "share of the rows that are drawn from the last steps before an option was completed",
        0.0,
        1.0,
        f"{HINDSIGHT}; {CHOSEN}",
    )
    run_up: Whole = setting(16, "how many steps before the completion count as the last ones", 1, 10_000, CHOSEN)
    learning_rate: float = setting(1e-3, "Adam's learning rate", 1e-7, 1.0, CHOSEN)
    follow: float = setting(
        0.02,
        "share by which the target network moves to the network in an optimiser step",
        0.0,
        1.0,
        f"{SOFT_UPDATE}; {CHOSEN}",
    )
    indifference: float = setting(
        0.05, "scale of the Gumbel noise added to values: smaller differences are decided at random", 0.0, 1.0, CHOSEN
    )


@dataclass(config=CHECKED)
class TeacherConfig(Section):
    """The LLM: which one, how often it is queried, how it is tuned."""

    spec: str = setting(
        "smollm2",
        "smollm2 | hf:<id or folder> | gguf:<file> | openai:<model>@<base url> | recorded:<run> | uniform | oracle | liar",
    )
    temperature: float = setting(
        2.0, "temperature of the softmax over calibrated option scores (local LLMs)", 0.01, 100.0, CHOSEN
    )
    device: Device = setting("auto", "auto, cpu or cuda")
    precision: Precision = setting(
        "auto",
        "precision of a local LLM's weights; auto: float32, or half of it from 1B parameters on a card; 4bit: NF4, on a card",
    )
    queries_per_round: Whole = setting(
        16, "most situations that the LLM is queried about in a round (lessons of a tuning come on top)", 0, 100_000, CHOSEN
    )
    least_query_share: float = setting(
        0.25, "share of the queries that is made even if the trust in the prior is 0", 0.0, 1.0, CHOSEN
    )
    least_weight: float = setting(
        0.08, "weight of the prior (lambda_N) below which a query would change nothing, and is not made", 0.0, 100.0, LLM_TUNED
    )
    query_visits: float = setting(
        0.5,
        "visit count above which the LLM is queried about situations of student-controlled episodes",
        0.0,
        1e6,
        CHOSEN,
    )
    oracle_smoothing: float = setting(
        0.02, "probability that the scripted teachers oracle and liar leave to the options they do not choose", 0.0, 1.0, CHOSEN
    )
    lora_rank: Whole = setting(16, "rank of the LoRA adapter", 1, 1024, f"{LORA}; {CHOSEN}")
    lora_scale: float = setting(2.0, "LoRA's alpha, as a multiple of the rank", 0.01, 100.0, CHOSEN)
    lora_layers: float = setting(0.5, "share of the LLM's layers, the upper ones, that get an adapter", 0.0, 1.0, CHOSEN)
    lora_learning_rate: float = setting(5e-4, "learning rate of the LoRA weights", 1e-7, 1.0, LLM_TUNED)
    lora_max_grad_norm: float = setting(1.0, "largest gradient norm; larger gradients are clipped", 0.0, 100.0, CHOSEN)
    feedback: Feedback = setting(
        "nothing",
        "what the prompt tells about the student's experience: nothing, examples, evidence (in words) or both",
        source=IN_CONTEXT,
    )
    feedback_tokens: Whole = setting(512, "most prompt tokens for feedback", 0, 100_000, CHOSEN)
    feedback_pieces: Whole = setting(8, "most examples, and most sentences, in the feedback", 0, 1000, IN_CONTEXT)
    feedback_candidates: Whole = setting(
        300, "situations, met most often first, from which examples are chosen and which these have to cover", 1, 100_000, CHOSEN
    )
    feedback_outcomes: Whole = setting(5, "outcomes of an option before a sentence is written about it", 1, 100_000, CHOSEN)
    feedback_failing: float = setting(
        0.5, "share of failures from which on a sentence says that an option fails", 0.0, 1.0, CHOSEN
    )
    feedback_contrast: float = setting(
        0.5, "by how much a condition must be more frequent among failures than among completions to be named", 0.0, 1.0, CHOSEN
    )
    feedback_regret: float = setting(0.02, "return that advice must cost before a sentence is written about it", 0.0, 1e6, CHOSEN)
    tune_every: Whole = setting(10, "rounds between tunings, and between renewals of the feedback", 1, 100_000, CHOSEN)
    tune_steps: Whole = setting(12, "optimiser steps per tuning; more if there are many lessons", 1, 10_000, LLM_TUNED)
    tune_situations: Whole = setting(6, "situations per optimiser step", 1, 1024, LLM_TUNED)
    tune_passes: float = setting(
        2.5, "how often a lesson is seen in a tuning on average, if tune_steps are too few for that", 0.0, 1000.0, ALL_LESSONS
    )
    tune_length_decay: float = setting(
        0.25,
        "the learning rate of a tuning that is n times longer than tune_steps is multiplied by n to minus this",
        0.0,
        10.0,
        ALL_LESSONS,
    )
    tune_near_enough: float = setting(
        0.01, "mean KL divergence (nats) to its targets at which a step ends the tuning", 0.0, 100.0, CHOSEN
    )
    tune_method: TuneMethod = setting(
        "distill", "distill (towards the improved advice), pg (policy gradient) or dpo (preferences)", source=THREE_WAYS
    )
    dpo_beta: float = setting(
        1.0, "beta of tune_method=dpo", 0.0, 1000.0, "DPO: Rafailov et al. 2023, arXiv 2305.18290, eq. 7; " + CHOSEN
    )
    anchor: float = setting(0.05, "weight of KL(untuned || tuned) while tuning", 0.0, 100.0, CHOSEN)
    lessons: Whole = setting(4, "situations taught in one tuning between rounds, for each of tune_situations", 1, 100_000, CHOSEN)
    lesson_disagreement: float = setting(
        0.1,
        "mean KL divergence (nats) between targets and advice below which nothing is taught between rounds; below 0: never so",
        -1.0,
        100.0,
        CHOSEN,
    )
    lesson_outcomes: Whole = setting(10, "outcomes in a situation before it becomes a lesson", 0, 100_000, CHOSEN)
    lesson_fewest_outcomes: Whole = setting(
        2, "the same if too few situations have lesson_outcomes to fill a tuning", 0, 100_000, TIDY_UP
    )
    lesson_rehearsal: float = setting(
        0.5,
        "added to a lesson's disagreement (nats), so that the LLM also rehearses what it already knows",
        0.0,
        100.0,
        LLM_TUNED,
    )
    lesson_most_disagreement: float = setting(
        1.0, "disagreement (nats) above which a lesson's weight rises no further", 0.0, 100.0, CHOSEN
    )
    schooling: Whole = setting(
        10,
        "most tunings after a rung: the LLM acts alone and is tuned on the situations that it meets; 0: none",
        0,
        1000,
        FINE_TUNING,
    )
    schooling_lessons: Whole = setting(
        40, "situations taught in a tuning after a rung, for each of tune_situations", 1, 100_000, ALL_LESSONS
    )
    schooling_patience: Whole = setting(
        3, "tunings in a row without a better result that end the tuning after a rung", 1, 1000, ALL_LESSONS
    )
    schooling_levels: Whole = setting(60, "levels that the LLM plays before each tuning after a rung", 1, 100_000, CHOSEN)
    schooling_situations: Whole = setting(
        1500, "situations, counted anew each time the LLM plays, that end the tuning after a rung", 1, 10_000_000, ALL_LESSONS
    )
    schooling_success: float = setting(0.95, "success of the LLM alone that ends the tuning after a rung", 0.0, 1.01, FINE_TUNING)
    samples: Whole = setting(6, "openai: replies per situation if the server gives no log-probabilities", 1, 1000, CHOSEN)
    reply_tokens: Whole = setting(32, "openai: most tokens of a reply that is read in words", 1, 100_000, CHOSEN)
    thought_tokens: Whole = setting(
        2048,
        "openai: most tokens of thoughts before a reply, if the model cannot be kept from thinking",
        0,
        1_000_000,
        CHOSEN,
    )
    extra_body: JsonObject = setting(
        "", 'openai: further parameters of every call, as a JSON object, for example {"top_k": 20}; they have the last word'
    )
    reply_temperature: float = setting(1.0, "openai: temperature of replies that are counted", 0.0, 2.0, CHOSEN)
    reply_smoothing: float = setting(
        1.0, "openai: votes that all options share when replies are counted", 0.0, 100.0, "Laplace's rule of succession"
    )
    least_label_mass: float = setting(
        0.05, "openai: probability that the options' labels must have together to be an answer", 0.0, 1.0, CHOSEN
    )
    least_probability: float = setting(1e-3, "openai: probability that every option keeps", 1e-9, 0.01, CHOSEN)
    concurrency: Whole = setting(8, "openai: most calls at the same time", 1, 1000)
    deadline: float = setting(30.0, "openai: seconds that a call may take, retries included", 0.1, 3600.0)
    price_in: float = setting(0.0, "openai: US dollars for a million tokens of prompts", 0.0, 1e6)
    price_out: float = setting(0.0, "openai: US dollars for a million tokens of replies", 0.0, 1e6)
    budget_tokens: Whole = setting(0, "openai: tokens that the run may use; 0: no limit", 0)
    budget_money: float = setting(0.0, "openai: US dollars that the run may cost; 0: no limit", 0.0, 1e9)

    @model_validator(mode="after")
    def _extra_body_is_an_object(self) -> Self:
        """Check that further parameters are a JSON object that leaves model, messages and the form of the reply alone."""
        example = 'for example {"top_k": 20}'
        try:
            given = json.loads(self.extra_body or "{}", parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise CoteachError(f"teacher.extra_body={self.extra_body!r}: expected a JSON object, {example}")
        if taken := {"model", "messages", "stream"} & given.keys():
            raise CoteachError(
                f"teacher.extra_body has {min(taken)!r}: that is set elsewhere; expected other parameters, {example}"
            )
        return self


def _refuse_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(name)


@dataclass(config=CHECKED)
class EvidenceConfig(Section):
    """How the student's experience is weighed against the prior."""

    optimism: float = setting(1.0, "optimistic pseudo-outcomes per (situation, option)", 0.0, 100.0, f"{R_MAX}; {CHOSEN}")
    trust: float = setting(
        0.5,
        "c in lambda_N = c sqrt(N+1)/(N+K): weight of the prior after N outcomes of K options",
        0.0,
        100.0,
        f"{GRILL}, eq. 4; {CHOSEN}",
    )
    decision_discount: float = setting(
        0.95, "discount per option in the optimistic plan, on top of the discount per step", 0.0, 1.0, CHOSEN
    )
    action_gap: float = setting(
        6.0,
        "factor on the distance of an option from the best one, in the targets of the word values",
        0.0,
        1000.0,
        "Bellemare et al. 2016, arXiv 1512.04860; " + GAPS,
    )
    planning_sweeps: Whole = setting(100, "most sweeps of value iteration per round", 1, 100_000, CHOSEN)
    planning_tolerance: float = setting(1e-4, "largest change of a value at which value iteration stops", 0.0, 1.0, CHOSEN)
    visit_decay: float = setting(0.7, "share of a situation's visit count that is kept from round to round", 0.0, 1.0, CHOSEN)
    recent_visits: float = setting(
        1.0, "visit count from which on a situation counts as recent: its word values are renewed", 0.0, 1e6, CHOSEN
    )
    forgotten_visits: float = setting(
        0.01, "visit count below which the policies of a situation are no longer updated", 0.0, 1e6, CHOSEN
    )
    least_promise: float = setting(
        0.1, "pessimistic value above which a way to a reward counts as known; below 0: everywhere", -1.0, 1.0, CHOSEN
    )
    bound_deviations: float = setting(
        2.0,
        "standard deviations between the mean of the word values and an option's optimistic and pessimistic value",
        0.0,
        100.0,
        CHOSEN,
    )
    uncertain_at: float = setting(0.2, "standard deviation from which on the word values count as uninformed", 1e-6, 1.0, CHOSEN)
    known_outcomes: float = setting(10.0, "outcomes that a word value without uncertainty counts for", 0.0, 1e6, CHOSEN)
    prior_optimism: float = setting(
        0.25,
        "the optimism for an untried option is scaled by its prior, relative to the best option's, to this power",
        0.0,
        10.0,
        TIDY_UP,
    )
    prior_powers: list[Power] = setting(
        [0.0, 0.25, 0.5, 0.75, 1.0],
        "powers of the prior that are compared to set the trust in it; 0, no prior, comes first",
        source=CHOSEN,
    )
    prior_trust_rate: float = setting(
        0.5, "share by which the trust in the prior moves to the best power in a round", 0.0, 1.0, CHOSEN
    )
    judged_situations: Whole = setting(
        5, "situations in which the prior can be judged before the trust in it changes", 1, 100_000, CHOSEN
    )
    clear_errors: float = setting(2.0, "standard errors by which a difference must exceed zero to count", 0.0, 100.0, FOR_SURE)
    fading: float = setting(
        0.9, "share of the outcomes of options without a controller that is kept from round to round", 0.0, 1.0, CHOSEN
    )


@dataclass(config=CHECKED)
class WordsConfig(Section):
    """The word values: small networks that estimate the value of an option in a situation that was never met."""

    members: Whole = setting(4, "networks whose disagreement is the uncertainty", 1, 100, f"{ENSEMBLES}; {CHOSEN}")
    width: Whole = setting(16, "hidden units of each network", 1, 4096, CHOSEN)
    table: Whole = setting(16_384, "rows of the table into which pairs of words are hashed", 1, 2**24, CHOSEN)
    learning_rate: float = setting(3e-3, "Adam's learning rate", 1e-7, 1.0, WORD_VALUES)
    initial_deviation: float = setting(0.3, "standard deviation of the table before it is trained", 0.0, 10.0, WORD_VALUES)
    seen_share: float = setting(0.7, "share of the rows that each network is trained on", 0.01, 1.0, CHOSEN)
    batch: Whole = setting(256, "pairs of situation and option per optimiser step", 1, 1_000_000, CHOSEN)
    steps: Whole = setting(48, "optimiser steps per round", 0, 100_000, WORD_VALUES)
    new_uncertainty: float = setting(
        0.5, "standard deviation for an option whose relation to the task is new in words and in shape", 0.0, 1.0, CHOSEN
    )
    most_tries: float = setting(25.0, "outcomes above which an option is not drawn more often", 1.0, 1e6, CHOSEN)
    recent_share: float = setting(
        0.5, "share of the pairs that are drawn from recently visited situations, where new ones are", 0.0, 1.0, CHOSEN
    )
    distilled_after: Whole = setting(
        32, "answers of the LLM before the distilled prior replaces missing ones", 1, 1_000_000, CHOSEN
    )
    distilled_floor: float = setting(1e-3, "probability that every option keeps in the distilled prior", 1e-9, 1.0, CHOSEN)
    distilled_batch: Whole = setting(32, "answers of the LLM per optimiser step of the distilled prior", 1, 1_000_000, CHOSEN)


@dataclass(config=CHECKED)
class GuidanceConfig(Section):
    """How the advice enters the student's loss."""

    weight: float = setting(1.0, "lambda, the weight of KL(q || pi), at the start of a rung", 0.0, 100.0, CHOSEN)
    slope: float = setting(
        2.0,
        "imitation coefficient per difference of success, teacher-controlled episodes minus the student; at most 1",
        0.0,
        1000.0,
        CHOSEN,
    )
    least_coefficient: float = setting(0.3, "imitation coefficient when the student is as good or better", 0.0, 1.0, LEAVES)
    useful_share: float = setting(
        0.5,
        "share of the student's success that teacher-controlled episodes must reach for least_coefficient to apply",
        0.0,
        1e6,
        LEAVES,
    )
    failing: float = setting(
        0.05, "success at and below which both players count as failing: the imitation coefficient is then 1", 1e-6, 1.0, CHOSEN
    )
    surpass_margin: float = setting(
        0.05,
        "return by which the student's value of a situation must exceed the advice's to end imitation there",
        0.0,
        1e6,
        STOOD_STILL,
    )
    surpass_rows: float = setting(
        20.0, "rows of student-controlled episodes in a situation before the student has a value there", 0.0, 1e6, CHOSEN
    )
    surpass_decay: float = setting(0.8, "share of these rows that is kept from round to round", 0.0, 1.0, CHOSEN)
    hint: float = setting(0.0, "share of the episodes in which the advice is also an input of the student", 0.0, 1.0, CHOSEN)
    subgoal: float = setting(
        0.0,
        "weight of the shaped reward where an advised option completes",
        0.0,
        10.0,
        "Ng et al. 1999, Policy invariance under reward transformations",
    )
    sharpness: float = setting(4.0, "power to which the improved advice is raised before imitation", 0.0, 100.0, CHOSEN)
    replay: float = setting(1.0, "replayed rows distilled per row of PPO", 0.0, 100.0, IN_CIRCLES)
    replay_rows: Whole = setting(32_768, "rows kept for replay", 0, 10_000_000, CHOSEN)


@dataclass(config=CHECKED)
class EvaluationConfig(Section):
    """How the learning curve is measured: it decides when a rung is over and how strongly the student imitates."""

    levels: Whole = setting(100, "levels of a greedy evaluation during training", 1, 100_000, CHOSEN)
    level_seed: Whole = setting(
        2_000_000, "seed of these levels: the same for every run, so that evaluations can be compared", 0, 2**31 - 1, CHOSEN
    )
    spacing: float = setting(
        0.05,
        "the next greedy evaluation is due after this share of the steps taken so far, and not within a round",
        0.0,
        100.0,
        CHOSEN,
    )
    reached: Whole = setting(3, "greedy evaluations in a row over whose mean a level counts as reached", 1, 1000, CHOSEN)
    held: Whole = setting(5, "greedy evaluations in a row whose mean must be stop_at for a rung to be over", 1, 1000, CHOSEN)
    window: Whole = setting(100, "student-controlled training episodes over which success is averaged", 1, 100_000, CHOSEN)
    controlled_window: Whole = setting(50, "the same for teacher-controlled episodes", 1, 100_000, CHOSEN)
    usual_length: float = setting(
        0.95,
        "quantile of the lengths of recent successes above which an unfinished episode counts as a failure",
        0.0,
        1.0,
        COUNTING,
    )


@dataclass(config=CHECKED)
class Config(Section):
    """One run. `tasks` are its rungs, trained on in this order (or together), each for at most `steps` steps."""

    tasks: list[Text] = setting(["MiniGrid-UnlockPickup-v0"], "task ids, one per rung")
    together: bool = setting(False, "train all rungs together: one teacher, a student on each task")
    arm: str = setting("mutual", "the arm: which parts of the loop are switched on (docs/arms.md)")
    engine: Engine = setting("auto", "auto, envpool, minigrid or gymnasium")
    steps: Whole = setting(100_000, "environment steps per rung, over all environments", 1)
    stop_at: float = setting(1.01, "success that ends a rung early, once the student holds it; above 1: never", 0.0, 1.01)
    fresh: Fresh = setting("nothing", "nothing, teacher or student: which player starts untrained on each rung")
    seed: Whole = setting(0, "random seed", 0, 2**31 - 1)
    threads: Whole = setting(0, "processor threads; 0: as many as there are cores", 0, 1024)
    episodes: Whole = setting(200, "evaluation episodes per rung", 1, 100_000)
    collect: CollectConfig = part(CollectConfig)
    student: StudentConfig = part(StudentConfig)
    executor: ExecutorConfig = part(ExecutorConfig)
    guidance: GuidanceConfig = part(GuidanceConfig)
    evidence: EvidenceConfig = part(EvidenceConfig)
    words: WordsConfig = part(WordsConfig)
    teacher: TeacherConfig = part(TeacherConfig)
    evaluation: EvaluationConfig = part(EvaluationConfig)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check that the fields agree with each other."""
        if self.arm not in ARMS:
            raise unknown("arm", self.arm, ARMS)
        if not self.tasks:
            raise CoteachError("tasks is empty: expected at least one task id; `coteach tasks` lists them")
        if self.together:
            _check_together(self)
        if self.teacher.budget_money and not (self.teacher.price_in or self.teacher.price_out):
            raise CoteachError(
                f"teacher.budget_money={self.teacher.budget_money}: without prices nothing is counted; "
                "set teacher.price_in and teacher.price_out (US dollars for a million tokens)"
            )
        low, high = self.collect.led_share_min, self.collect.led_share_max
        if low > high:
            raise CoteachError(
                f"collect.led_share_min={low} exceeds collect.led_share_max={high}: lower the one or raise the other"
            )
        if self.evidence.prior_powers[:1] != [0.0]:
            raise CoteachError(f"evidence.prior_powers={self.evidence.prior_powers}: expected 0, no prior, to come first")
        return self


def _check_together(config: Config) -> None:
    """Raise CoteachError where the tasks cannot be trained on together."""
    twice = [task for task in config.tasks if config.tasks.count(task) > 1]
    if twice or len(config.tasks) < 2:
        given = f"tasks has {twice[0]!r} twice" if twice else f"tasks has {config.tasks[0]!r} alone"
        raise CoteachError(f"together=true: expected several tasks, all different, and {given}; without it they are rungs")
    if config.fresh != "nothing":
        raise CoteachError(
            f"together=true: all rungs begin at once, fresh={config.fresh} is for one after the other; leave one out"
        )
