"""A configuration resolves defaults < file < overrides, survives being written, and answers wrong input with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from coteach import config as configuration
from coteach.arms import ARMS
from coteach.config import CollectConfig, Config, dump, load, loads, validate
from coteach.errors import CoteachError


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
        ("tasks=[1]", "tasks=[1]: expected a list of texts"),
        ("student.epochs", "expected FIELD=VALUE"),
        ("=3", "expected FIELD=VALUE"),
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
    validate(Config())
    with pytest.raises(CoteachError, match=r"collect.envs=0"):
        validate(Config(collect=CollectConfig(envs=0)))


def test_every_default_is_within_its_own_range_and_every_field_has_help() -> None:
    validate(Config())
    described = configuration.describe(everything=True)
    for name in configuration.names():
        assert f"  {name}=" in described
    assert len(described.splitlines()) == len(configuration.names()) > 100


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_can_be_configured(arm: str) -> None:
    assert load(None, [f"arm={arm}"]).arm == arm


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_that_comes_with_the_project_loads(path: Path) -> None:
    assert load(path).tasks
