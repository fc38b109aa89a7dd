"""`python -m coteach`: the command line."""

from coteach.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
