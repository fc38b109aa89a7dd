"""What a run leaves behind and how it lives as a process: folder, files, locks, signals, progress, the machine."""
