"""The configuration: dataclasses whose defaults are the method, read from a TOML file and dotted overrides.

`load(path, overrides)` resolves defaults < file < overrides ("student.learning_rate=3e-4") into a `Config` checked by pydantic,
and raises a one-line `CoteachError` for wrong input. `dump(config)` writes the resolved TOML that a run keeps. `fields.py`
declares every setting with its help, range and source; `python -m coteach.config` prints docs/configuration.md, the table of all.
"""

from coteach.config.fields import (
    ENGINES,
    FEEDBACK,
    FRESH,
    PRECISIONS,
    TUNE_METHODS,
    CollectConfig,
    Config,
    EvaluationConfig,
    EvidenceConfig,
    ExecutorConfig,
    GuidanceConfig,
    StudentConfig,
    TeacherConfig,
    WordsConfig,
)
from coteach.config.files import dump, load, loads, validate
from coteach.config.reference import describe, names, table

__all__ = [
    "ENGINES",
    "FEEDBACK",
    "FRESH",
    "PRECISIONS",
    "TUNE_METHODS",
    "CollectConfig",
    "Config",
    "EvaluationConfig",
    "EvidenceConfig",
    "ExecutorConfig",
    "GuidanceConfig",
    "StudentConfig",
    "TeacherConfig",
    "WordsConfig",
    "describe",
    "dump",
    "load",
    "loads",
    "names",
    "table",
    "validate",
]
