"""Kills at random moments: `python -m tests.kills --kills 100 --seed 0`; see `__main__`."""
