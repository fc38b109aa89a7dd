"""`python -m coteach` is the command line."""

from coteach.commands.cli import script

if __name__ == "__main__":
    script()
