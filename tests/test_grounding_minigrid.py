"""MiniGrid grounding on the reference `minigrid`: the belief map is correct, and controllers complete their options."""

from __future__ import annotations

import shutil
from pathlib import Path

import gymnasium
import minigrid  # noqa: F401  (registers the levels)
import numpy as np
import pytest

from coteach.grounding.base import Grounded, Observation, Situations
from coteach.grounding.minigrid import MiniGridGrounding, controllers
from coteach.grounding.minigrid import encoding as e
from coteach.grounding.minigrid.mission import read

TURNS = {(0, -1): 0, (1, 0): 1, (0, 1): 2, (-1, 0): 3}


class World:
    """One reference environment and its grounding, stepped together; it resets by itself on the step after an episode's end."""

    def __init__(self, task: str, seed: int, situations: Situations | None = None) -> None:
        self.env = gymnasium.make(task).unwrapped
        self.grounding = MiniGridGrounding(1, situations, num_actions=7)
        self.seed = seed
        self.reward = 0.0
        self.begin()

    def begin(self) -> None:
        view, _ = self.env.reset(seed=self.seed)
        self.start = (*map(int, self.env.agent_pos), int(self.env.agent_dir))
        self.ended = False
        self.take(view, None, True)

    def take(self, view: dict[str, np.ndarray], action: int | None, restarted: bool) -> None:
        seen = Observation(np.ascontiguousarray(view["image"])[None], [self.env.mission])
        actions = None if action is None else np.array([action])
        self.now: Grounded = self.grounding.observe(seen, actions, np.array([restarted]))

    def act(self, action: int) -> None:
        if self.ended:
            self.seed += 1
            view, _ = self.env.reset(seed=self.seed)
            self.start = (*map(int, self.env.agent_pos), int(self.env.agent_dir))
            self.ended = False
            self.take(view, action, True)
            return
        view, self.reward, terminated, truncated, _ = self.env.step(action)
        self.ended = terminated or truncated
        self.take(view, action, False)

    @property
    def situation(self):
        return self.grounding.situations[int(self.now.situation[0])]

    def slot(self, option: str) -> int:
        return self.situation.options.index(option)

    def place(self, x: int, y: int) -> tuple[int, int]:
        """Return the place of a cell of the environment on the belief map."""
        x0, y0, heading = self.start
        dx, dy = x - x0, y - y0
        for _ in range((heading - 3) % 4):  # turn the world until the heading at the start is up
            dx, dy = dy, -dx
        return e.ORIGIN + dx, e.ORIGIN + dy

    def follow(self, option: str, patience: int = 100) -> bool:
        """Follow an option's controller; return whether its completion is reported within `patience` steps."""
        slot, number = self.slot(option), self.now.situation[0]
        for _ in range(patience):
            self.act(int(self.now.actions[0, slot]))
            if self.now.completed[0] >> slot & 1:
                return True
            if self.now.situation[0] != number:
                assert option in self.situation.options
                slot, number = self.slot(option), self.now.situation[0]
        return False


def true_code(world: World, x: int, y: int) -> int:
    cell = world.env.grid.get(x, y)
    return e.EMPTY if cell is None else int(e.CODE_OF[cell.encode()])


def count_wrong_cells(world: World) -> int:
    """Count the known cells of the belief map that are wrong; assert that some cells are known."""
    belief = world.grounding.belief
    known = wrong = 0
    for x in range(world.env.width):
        for y in range(world.env.height):
            mx, my = world.place(x, y)
            code = belief.cells[0, my, mx]
            known += code != e.UNSEEN
            wrong += code != e.UNSEEN and code != true_code(world, x, y)
    assert known > 3
    return wrong


@pytest.mark.parametrize(
    "task",
    ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-UnlockPickup-v0", "MiniGrid-BlockedUnlockPickup-v0", "BabyAI-GoToLocal-v0"],
)
def test_belief_is_correct_whatever_the_agent_does(task: str) -> None:
    world, rng = World(task, 3), np.random.default_rng(0)
    moved = 0
    for _ in range(500):
        # Half of the actions are random, half are a controller's, so that the agent uses keys and passes doors.
        slot = rng.integers(len(world.situation.options))
        planned = int(world.now.actions[0, slot])
        world.act(planned if planned >= 0 and rng.random() < 0.5 else int(rng.integers(7)))
        pose = world.grounding.belief.pose[0]
        assert tuple(pose[:2]) == world.place(*map(int, world.env.agent_pos))
        assert pose[2] == (world.env.agent_dir - world.start[2]) % 4
        assert count_wrong_cells(world) == 0
        moved += tuple(pose[:2]) != (e.ORIGIN, e.ORIGIN)
        held = world.env.carrying
        assert world.grounding.belief.held[0, 0] == (0 if held is None else e.CODE_OF[held.encode()])
    assert moved > 100


def test_expert_opens_the_door_and_fetches_the_box() -> None:
    for seed in range(8):
        world = World("MiniGrid-UnlockPickup-v0", seed)
        said = []
        for _ in range(100):
            expert = world.situation.expert
            assert expert is not None
            said.append(world.situation.options[expert].split()[0])
            world.act(int(world.now.actions[0, expert]))
            if world.ended:
                break
        assert world.reward > 0
        order = list(dict.fromkeys(word for word in said if word != "explore"))
        assert order == ["pick", "open", "drop"]


def test_controllers_complete_their_options_and_report_it() -> None:
    world = World("MiniGrid-UnlockPickup-v0", 5)
    while not any(o.startswith("pick up") and o.endswith("key") for o in world.situation.options):
        assert world.follow("explore")
    key = next(o for o in world.situation.options if o.endswith("key"))
    assert world.follow(key)
    assert world.env.carrying.type == "key"
    while not any(o.startswith("open") for o in world.situation.options):
        assert world.follow("explore")
    assert world.follow(next(o for o in world.situation.options if o.startswith("open")))
    assert any(cell is not None and cell.type == "door" and cell.is_open for cell in world.env.grid.grid)
    assert world.follow(next(o for o in world.situation.options if o.startswith("drop")))
    assert world.env.carrying is None


def test_a_locked_door_without_its_key_is_a_failure_not_a_completion() -> None:
    world = World("MiniGrid-Unlock-v0", 0)
    while not any(o.startswith("open") for o in world.situation.options):
        world.act(int(world.now.actions[0, world.slot("explore")]))
    option = next(o for o in world.situation.options if o.startswith("open"))
    for _ in range(40):
        slot = world.slot(option)
        action = int(world.now.actions[0, slot])
        world.act(action)
        assert not world.now.completed[0] >> slot & 1
        if action == e.TOGGLE:
            assert world.now.failed[0] >> slot & 1
            return
        assert world.now.failed[0] == 0
    pytest.fail("the controller never tried the door")


def test_a_closed_door_and_a_locked_one_of_the_same_colour_are_different_things() -> None:
    """KeyCorridor has two doors of one colour: an event at one of them is no event of the other."""
    done = set()
    for seed in range(20):
        world, rng = World("MiniGrid-KeyCorridorS3R3-v0", seed), np.random.default_rng(seed)
        for _ in range(200):
            closed, locked = (
                next((o for o in world.situation.options if o.startswith(f"open the {state} ")), None)
                for state in ("closed", "locked")
            )
            option = rng.choice([closed, locked]) if closed and locked else rng.choice(world.situation.options)
            slots = (world.slot(closed), world.slot(locked)) if closed and locked else ()
            planned = int(world.now.actions[0, world.slot(option)])
            world.act(planned if planned >= 0 else int(rng.integers(3)))
            if world.ended:
                break
            now = [(int(world.now.completed[0]) >> slot & 1, int(world.now.failed[0]) >> slot & 1) for slot in slots]
            assert now in ([], [(0, 0), (0, 0)], [(1, 0), (0, 0)], [(0, 0), (0, 1)], [(0, 0), (1, 0)])
            done |= {("closed", *now[0]), ("locked", *now[1])} if now else set()
    assert {("closed", 1, 0), ("locked", 0, 1)} <= done


def test_compiled_code_is_cached_for_exactly_these_sources(tmp_path: Path) -> None:
    """A change of one file must also recompile the functions of other files that call into it."""
    folder = Path(controllers.__file__).parent
    assert e.sources_hash(folder) in controllers.completed.stats.cache_path
    for path in folder.glob("*.py"):
        shutil.copy(path, tmp_path)
    assert e.sources_hash(tmp_path) == e.sources_hash(folder)
    with (tmp_path / "controllers.py").open("a") as file:
        file.write("# changed")
    assert e.sources_hash(tmp_path) != e.sources_hash(folder)


def test_a_permutation_of_colours_changes_neither_situation_nor_features() -> None:
    """The same level with its colours permuted is the same situation, with the same options, at every step."""
    plain, permuted = Situations(), np.array([3, 5, 0, 4, 1, 2])
    env = gymnasium.make("BabyAI-PutNextLocal-v0").unwrapped
    one, other = MiniGridGrounding(1, plain), MiniGridGrounding(1, plain)
    rng, met = np.random.default_rng(1), set()
    names = dict(zip(e.COLOUR_NAMES, (e.COLOUR_NAMES[k] for k in permuted), strict=True))
    for seed in range(6):
        view, _ = env.reset(seed=seed)
        mission = " ".join(names.get(word, word) for word in env.mission.split())
        action, begun = None, True
        for _ in range(40):
            image = np.ascontiguousarray(view["image"])[None]
            recoloured = image.copy()
            things = (image[..., 0] >= 4) & (image[..., 0] <= 7)
            recoloured[..., 1] = np.where(things, permuted[image[..., 1] % 6], image[..., 1])
            actions, restarted = None if action is None else np.array([action]), np.array([begun])
            a = one.observe(Observation(image, [env.mission]), actions, restarted)
            b = other.observe(Observation(recoloured, [mission]), actions, restarted)
            assert np.array_equal(a.situation, b.situation)
            assert np.array_equal(a.features, b.features)
            # Colours that do not differ in any way may swap canonical names, and with them slots.
            assert sorted(a.actions[0]) == sorted(b.actions[0])
            assert int(a.completed[0]).bit_count() == int(b.completed[0]).bit_count()
            met.add(int(a.situation[0]))
            choice = int(a.actions[0, rng.integers(len(plain[int(a.situation[0])].options))])
            action, begun = choice if choice >= 0 else int(rng.integers(7)), False
            view, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
    assert len(met) > 20


def test_a_situation_text_has_no_places_and_no_numbers() -> None:
    world = World("BabyAI-GoToLocal-v0", 1)
    rng = np.random.default_rng(0)
    for _ in range(100):
        world.act(int(rng.integers(7)))
    for k in range(len(world.grounding.situations)):
        situation = world.grounding.situations[k]
        assert not any(letter.isdigit() for letter in situation.text)
        assert situation.text.startswith("Mission: go to ")
        assert len(set(situation.options)) == len(situation.options)


@pytest.mark.parametrize(
    ("text", "verbs", "stages"),
    [
        ("go to the red ball", [e.GO_TO], [0]),
        ("pick up a blue key behind you and open the door on your left", [e.PICK_UP, e.OPEN_IT], [0, 0]),
        ("open the red door, then put a ball next to the blue box", [e.OPEN_IT, e.PUT_NEXT], [0, 1]),
        ("go to a key after you open a door and pick up the grey box", [e.OPEN_IT, e.PICK_UP, e.GO_TO], [0, 0, 1]),
        ("open the red door then the blue door", [e.OPEN_IT, e.OPEN_IT], [0, 1]),
        ("use the key to open the door and then get to the goal", [e.REACH], [0]),
        ("you must fetch a yellow ball", [e.PICK_UP], [0]),
        ("sing and dance", [], []),
    ],
)
def test_missions_are_parsed_into_parts_in_the_order_of_execution(text: str, verbs: list[int], stages: list[int]) -> None:
    parts = read(text).parts
    known = parts[parts[:, e.VERB] != e.NO_VERB]
    assert known[:, e.VERB].tolist() == verbs
    assert known[:, e.STAGE].tolist() == stages


def test_parts_of_a_mission_are_marked_as_done_in_order() -> None:
    world = World("BabyAI-OpenTwoDoors-v0", 2)
    texts = []
    for _ in range(200):
        expert = world.situation.expert
        assert expert is not None
        world.act(int(world.now.actions[0, expert]))
        texts.append(world.situation.text)
        if world.ended:
            break
    assert world.reward > 0
    assert "Done: open the red door." in texts[-2] and "Done" not in texts[0]


def shown(world: World) -> set[str]:
    """Return the names of the student's features that are 1."""
    return {name for name, value in zip(MiniGridGrounding.feature_names(), world.now.features[0], strict=True) if value}


def test_actions_taken_in_a_place_are_counted_until_the_agent_learns_something_new() -> None:
    world = World("MiniGrid-Empty-8x8-v0", 0)
    assert not any(name.startswith("done here") for name in shown(world))
    counts = []
    for _ in range(8):  # the first turn may show something new, the second does not
        world.act(0)
        counts.append({name for name in shown(world) if name.startswith("done here")})
    assert not counts[0], "facing another way, it has taken no action yet"
    assert counts[7] == {"done here 1 times: left", "done here 2 times: left"}


def test_the_repetition_prior_only_lowers_the_logit_of_the_repeated_action() -> None:
    habits, names = MiniGridGrounding.habits(7), MiniGridGrounding.feature_names()
    assert habits.shape == (len(names), 7)
    for row, name in zip(habits, names, strict=True):
        done = name.partition(" times: ")[2]
        assert (row < 0).tolist() == [done != "" and action == done for action in e.ACTION_NAMES]


def test_the_features_show_which_key_fits_though_they_show_no_colours() -> None:
    fits = 0
    for seed in range(12):
        world = World("BabyAI-UnlockPickupDist-v0", seed)
        for action in (0, 0, 0, 0):
            world.act(action)
        text, planes = world.situation.text, shown(world)
        doors = [colour for colour in e.COLOUR_NAMES if f"a locked {colour} door" in text]
        keys = [name for name in planes if name.startswith("key at ")]
        for key in keys:
            if doors and f"{doors[0]} key" in text and len(keys) == text.count(" key"):
                fits += f"locked colour{key.removeprefix('key')}" in planes
        if not doors:
            assert not any(name.startswith("locked colour") for name in planes)
    assert fits >= 3
