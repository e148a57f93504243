"""Recordings are data: thousands of damaged and hostile ones through every command that reads recordings.

`python -m tests.fuzz --count 10000 --seed 0` prints what became of them, by kind of damage; `test_fuzz.py` runs some
with every run of the tests. A kind of damage is a function in `mutations.py`, a command a line in `commands.py`.
"""
