"""`python -m coteach.config` prints docs/configuration.md."""

from coteach.config.reference import table

print(table(), end="")
