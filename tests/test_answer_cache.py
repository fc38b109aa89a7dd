"""The answer cache is shared, and never the reason that a run stops."""

import multiprocessing
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from coteach.teacher.answer_cache import AnswerCache, cache_key

SCORES = {"a": np.array([-1.5, -2.25]), "b": np.array([0.1])}


def _write(path, name):
    cache = AnswerCache(path)
    for index in range(50):
        cache.put_many({f"{name}{index}": np.array([float(index)])})


def test_what_was_put_is_got_bit_by_bit_and_outlives_the_process(tmp_path):
    AnswerCache(tmp_path / "deep" / "advice.sqlite3").put_many(SCORES)
    found = AnswerCache(tmp_path / "deep" / "advice.sqlite3").get_many(["a", "missing", "b"])
    assert set(found) == {"a", "b"}
    assert_array_equal(found["a"], SCORES["a"])


def test_many_keys_at_once():
    cache = AnswerCache(None)
    cache.put_many({str(index): np.array([float(index)]) for index in range(1234)})
    assert len(cache.get_many([str(index) for index in range(2000)])) == 1234


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "advice.sqlite3"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(path, name)) for name in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(AnswerCache(path).get_many([f"{name}{index}" for name in "xy" for index in range(50)])) == 100


def _open_together(path, name, barrier):
    warnings.simplefilter("error")
    barrier.wait()
    AnswerCache(path).put_many({name: np.array([1.0])})


def test_processes_that_begin_a_new_file_at_the_same_moment_wait_for_each_other(tmp_path):
    fork = multiprocessing.get_context("fork")
    for attempt in range(10):  # without waiting, two of five attempts failed
        path, barrier = tmp_path / f"{attempt}.sqlite3", fork.Barrier(3)
        openers = [fork.Process(target=_open_together, args=(path, name, barrier)) for name in "xyz"]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join()
        assert [opener.exitcode for opener in openers] == [0, 0, 0]
        assert set(AnswerCache(path).get_many(["x", "y", "z"])) == {"x", "y", "z"}


def test_a_damaged_file_is_moved_aside_and_begun_anew(tmp_path):
    path = tmp_path / "advice.sqlite3"
    path.write_bytes(b"no database" * 1000)
    with pytest.warns(UserWarning, match="damaged"):
        cache = AnswerCache(path)
    cache.put_many(SCORES)
    assert len(cache.get_many(["a", "b"])) == 2
    assert [file.read_bytes()[:2] for file in tmp_path.glob("*.damaged-*")] == [b"no"]


def test_a_file_damaged_while_in_use_is_begun_anew(tmp_path):
    path = tmp_path / "advice.sqlite3"
    cache = AnswerCache(path)
    cache.put_many({str(index): np.zeros(200) for index in range(200)})
    cache.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged"):
        cache = AnswerCache(path)
        assert cache.get_many([str(index) for index in range(200)]) == {}
    cache.put_many(SCORES)
    assert len(cache.get_many(["a", "b"])) == 2


def test_a_folder_that_cannot_be_written_costs_the_memory_not_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="going on without it"):
        cache = AnswerCache(tmp_path / "file" / "advice.sqlite3")
    cache.put_many(SCORES)
    assert cache.get_many(["a"]) == {}


def test_a_full_memory_forgets_the_oldest_answers_first(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite3", limit=100)
    for index in range(250):
        cache.put_many({str(index): np.array([float(index)])})
        assert cache.contents().answers <= 100
    kept = sorted(map(int, cache.get_many([str(index) for index in range(250)])))
    assert kept == list(range(250 - len(kept), 250)) and len(kept) >= 75
    assert AnswerCache(tmp_path / "answers.sqlite3").contents().answers == len(kept)


def test_a_cleared_memory_is_empty_for_all_who_share_it(tmp_path):
    one, other = (AnswerCache(tmp_path / "answers.sqlite3") for _ in range(2))
    one.put_many(SCORES)
    contents = other.contents()
    assert (contents.answers, contents.size) == (2, 2 * 1 + 3 * 8) and contents.oldest == contents.newest
    other.clear()
    assert one.get_many(["a", "b"]) == {} and one.contents().answers == 0
    one.put_many(SCORES)
    assert len(other.get_many(["a", "b"])) == 2


def test_the_key_knows_all_that_an_answer_depends_on():
    base = ("model", "adapter", (1, 2), (3,), ((4, 1), (5, 1)))
    others = [
        ("other", *base[1:]),
        ("model", "", *base[2:]),
        (*base[:2], (1, 3), *base[3:]),
        (*base[:3], (3, 4), base[4]),
        (*base[:4], ((5, 1), (4, 1))),
        (*base[:4], ((4, 1, 5, 1),)),
    ]
    assert len({cache_key(*case) for case in [base, *others]}) == 7
