"""Scripted teachers, and the making of teachers from their specs."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from coteach.config import TeacherConfig
from coteach.errors import CoteachError
from coteach.grounding.base import Situation
from coteach.teacher.base import Lesson
from coteach.teacher.make import make_teacher

KNOWN = Situation("a door", ("explore", "open the door", "wait"), expert=1)
UNKNOWN = Situation("a wall", ("explore", "wait"))


def test_uniform_advice_prefers_nothing():
    advice = make_teacher("uniform", TeacherConfig()).advise([KNOWN, UNKNOWN])
    assert_allclose(advice[0], [1 / 3] * 3)
    assert_allclose(advice[1], [1 / 2] * 2)


def test_the_oracle_says_what_the_expert_would_do_and_nothing_where_it_knows_nothing():
    oracle = make_teacher("oracle", TeacherConfig())
    known, unknown = oracle.advise([KNOWN, UNKNOWN])
    assert known.argmax() == 1 and known[1] > 0.9 and known.min() > 0
    assert_allclose(known.sum(), 1.0)
    assert_allclose(unknown, [0.5, 0.5])
    assert oracle.usage.queries == 0  # no model was asked


def test_an_only_option_is_certain():
    assert_allclose(make_teacher("oracle", TeacherConfig()).advise([Situation("", ("explore",), expert=0)])[0], [1.0])


def test_a_scripted_teacher_says_that_it_cannot_be_tuned():
    teacher = make_teacher("uniform", TeacherConfig())
    assert not teacher.tunable
    with pytest.raises(CoteachError, match="cannot be tuned"):
        teacher.tune([Lesson(UNKNOWN, np.array([0.5, 0.5]))], seed=0)


def test_an_unknown_spec_is_answered_with_the_nearest_known_one():
    with pytest.raises(CoteachError, match="did you mean 'smollm2'"):
        make_teacher("smolm2", TeacherConfig())
    with pytest.raises(CoteachError, match="unknown teacher 'hf:'"):
        make_teacher("hf:", TeacherConfig())


def test_scripted_teachers_need_no_pytorch():
    code = (
        "import sys; from coteach.config import TeacherConfig; from coteach.teacher.make import make_teacher;"
        "make_teacher('oracle', TeacherConfig()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
