"""The `svl` command: `parser` says what may be typed, `main` runs it, and each command has a file.

Parsing, `--help` and most refusals load neither torch nor transformers.
"""
