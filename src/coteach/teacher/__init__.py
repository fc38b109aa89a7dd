"""The teacher: a language model (or a script) asked which option is best in a situation, and taught by the student."""
