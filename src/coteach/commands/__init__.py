"""One module per verb of the command line: `HELP`, `add_arguments(parser)`, and `run(args)`, which returns the exit code."""
