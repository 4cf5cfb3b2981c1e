"""Paddock under torture: real processes, killed at random while they work. Each test has a short form, which every run
of the tests takes, and a long one, which `./dev torture` and `./dev soak` ask for (see `conftest.py`)."""
