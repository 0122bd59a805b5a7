"""A campaign of damaged and odd inputs: `python -m tests.fuzz --inputs 10000 --seed 0`; see `__main__`."""
