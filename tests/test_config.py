"""A configuration resolves defaults < file < overrides, survives being written, and answers wrong input with one line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from coteach import config as configuration
from coteach.arms import ARMS
from coteach.config import CollectConfig, Config, dump, load, loads, validate
from coteach.config.reference import COMMON
from coteach.config.section import settings
from coteach.errors import CoteachError

ROOT = Path(__file__).parents[1]


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_method_with_its_defaults() -> None:
    assert load() == Config()


def test_an_override_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, "steps = 5000\n[student]\nepochs = 3\nclip = 0.1\n")
    config = load(path, ["student.epochs=4", "student.learning_rate=3e-4"])
    assert (config.steps, config.student.epochs, config.student.clip) == (5000, 4, 0.1)
    assert config.student.learning_rate == 3e-4
    assert config.student.gamma == Config().student.gamma


def test_what_is_written_is_read_back_identically() -> None:
    config = load(None, ["tasks=A,B", 'teacher.spec=gguf:/a "b"\\c.gguf', "student.learning_rate=1e-7", "seed=7"])
    assert config.tasks == ["A", "B"]
    assert config.teacher.spec == 'gguf:/a "b"\\c.gguf'
    assert loads(dump(config)) == config


@pytest.mark.parametrize("spec", ["5", "true", "1.5", "ünï", "a\x7fb", "a\tb", ""])
def test_text_stays_text_whatever_it_looks_like(spec: str) -> None:
    config = load(None, [f"teacher.spec={spec}"])
    assert config.teacher.spec == spec
    assert loads(dump(config)) == config


def test_quotes_and_brackets_on_the_command_line_are_optional() -> None:
    assert load(None, ['arm="uniform"']) == load(None, ["arm=uniform"])
    assert load(None, ['tasks=["A", "B"]']) == load(None, ["tasks=A, B"])
    assert load(None, ["evidence.prior_powers=0, 0.5"]).evidence.prior_powers == [0.0, 0.5]


def test_a_whole_number_may_be_written_as_a_power_of_ten() -> None:
    assert load(None, ["steps=2e5"]).steps == 200_000
    assert isinstance(load(None, ["steps=2e5"]).steps, int)
    assert isinstance(load(None, ["student.clip=1"]).student.clip, float)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("student.epchs=3", "did you mean 'student.epochs'"),
        ("sed=3", "did you mean 'seed'"),
        ("student=3", "unknown field 'student'"),
        ("student.epochs=3.5", "student.epochs=3.5: expected a whole number in [1..50]"),
        ("student.epochs=many", "student.epochs='many': expected a whole number"),
        ("student.epochs=true", "student.epochs=True: expected a whole number"),
        ("student.epochs=51", "student.epochs=51: expected a whole number in [1..50]"),
        ("steps=0", "steps=0: expected a whole number in [1..]"),
        ("student.gamma=nan", "student.gamma=nan: expected a number in [0.0..1.0]"),
        ("student.gamma=inf", "student.gamma=inf"),
        ("engine=envpol", "did you mean 'envpool'"),
        ("arm=mutaul", "did you mean 'mutual'"),
        ("tasks=[]", "tasks is empty"),
        ("tasks=", "tasks=['']: expected a list of texts"),
        ("tasks=A,,B", "tasks=['A', '', 'B']: expected a list of texts"),
        ('tasks=[" "]', "tasks=[' ']: expected a list of texts"),
        ("student.learned_options=", "student.learned_options=['']: expected a list of texts"),
        ("tasks=[1]", "tasks=[1]: expected a list of texts"),
        ("student.epochs", "expected FIELD=VALUE"),
        ("=3", "expected FIELD=VALUE"),
        ("teacher.samples=", "teacher.samples='': expected a whole number"),
        ("evidence.prior_powers=0,-1", "evidence.prior_powers=[0, -1]: expected a list of numbers in [0.0..10.0]"),
        ("evidence.prior_powers=[0, true]", "evidence.prior_powers=[0, True]: expected a list of numbers"),
        ("evidence.prior_powers=0.5,1", "expected 0, no prior, to come first"),
        ("collect.led_share_min=0.9", "collect.led_share_min=0.9 exceeds collect.led_share_max=0.5"),
    ],
)
def test_a_wrong_override_is_answered_with_one_line_that_names_it(override: str, said: str) -> None:
    with pytest.raises(CoteachError) as caught:
        load(None, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = ", "run.toml is not TOML"),
        ("student = 3", "student=3: expected a table [student]"),
        ("stps = 3", "did you mean 'steps'"),
        ("[student]\nepochs = '3'", "student.epochs='3': expected a whole number"),
        ("[studnt]\nepochs = 3", "unknown field 'studnt'"),
        ("[tasks]\na = 1", "tasks={'a': 1}: expected a list of texts"),
    ],
)
def test_a_wrong_file_is_answered_with_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CoteachError) as caught:
        load(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CoteachError, match="nowhere.toml: No such file"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CoteachError, match="not UTF-8"):
        load(tmp_path / "run.toml")


def test_an_override_cannot_reach_through_a_wrong_table(tmp_path: Path) -> None:
    with pytest.raises(CoteachError, match=r"student=3: expected a table \[student\]"):
        load(write(tmp_path, "student = 3"), ["student.epochs=3"])


def test_a_configuration_made_in_python_is_checked_as_well() -> None:
    with pytest.raises(CoteachError, match=r"collect.envs=0: expected a whole number in \[1..4096\]"):
        CollectConfig(envs=0)
    with pytest.raises(CoteachError, match=r"unknown field 'collect.env': did you mean 'collect.envs'"):
        CollectConfig(env=3)  # type: ignore[call-arg]
    config = Config()
    validate(config)
    config.collect.envs = 0
    with pytest.raises(CoteachError, match=r"collect.envs=0"):
        validate(config)
    with pytest.raises(CoteachError, match=r"collect.envs=0"):
        replace(Config(), collect=config.collect)


def test_every_default_is_within_its_own_range_and_every_field_has_help() -> None:
    validate(Config())
    assert all(entry.help for entry in settings(Config))


def test_help_shows_the_usual_settings_and_on_demand_all() -> None:
    names = configuration.names()
    assert set(COMMON) <= set(names) and len(names) > 100
    assert re.findall(r"^  ([\w.]+)=", configuration.describe(), re.M) == [name for name in names if name in COMMON]
    assert re.findall(r"^  ([\w.]+)=", configuration.describe(everything=True), re.M) == names


def test_every_number_that_changes_what_is_learned_says_where_it_comes_from() -> None:
    operational = r"(seed|threads|steps|episodes|stop_at|teacher\.(concurrency|deadline|price_\w+|budget_\w+))"
    numbers = [entry for entry in settings(Config) if entry.kind in (int, float)]
    assert [entry.name for entry in numbers if not entry.source and not re.fullmatch(operational, entry.name)] == []


def test_every_section_of_the_notebook_that_is_named_exists() -> None:
    titles = re.findall(r"^## (.*)$", (ROOT / "docs/notebook.md").read_text(encoding="utf-8"), re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    named = {anchor for entry in settings(Config) for anchor in re.findall(r"notebook: ([\w-]+)", entry.source)}
    assert named <= anchors and len(named) > 10


def test_every_setting_is_read_somewhere() -> None:
    package = ROOT / "src/coteach"
    source = "".join(file.read_text(encoding="utf-8") for file in package.rglob("*.py") if file.parent.name != "config")
    assert [entry.name for entry in settings(Config) if not re.search(rf"\.{entry.name.split('.')[-1]}\b", source)] == []


def test_the_documentation_of_the_settings_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == configuration.table(), "run: make configuration"


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_can_be_configured(arm: str) -> None:
    assert load(None, [f"arm={arm}"]).arm == arm


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_that_comes_with_the_project_loads(path: Path) -> None:
    assert load(path).tasks
