"""The run folder and its files, and the process of a run: locks, signals, progress, the machine."""
