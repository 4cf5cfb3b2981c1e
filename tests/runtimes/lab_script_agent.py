"""A real agent class, so that the check passes; what runs in the child is lab_script's."""

from paddock.agent import Agent


class Lab(Agent):
    pass
