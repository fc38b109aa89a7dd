"""The teacher: a language model (or a script) asked which option is best in a situation, and taught by the student."""

from coteach.teacher.answer_cache import AdviceMemory
from coteach.teacher.base import Lesson, Teacher, TuneReport
from coteach.teacher.costs import Books
from coteach.teacher.make import make_teacher

__all__ = ["AdviceMemory", "Books", "Lesson", "Teacher", "TuneReport", "make_teacher"]
