"""Settings of all tests: one thread for each process, examples that are the same in every run."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported

from hypothesis import settings

settings.register_profile("coteach", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("coteach")
