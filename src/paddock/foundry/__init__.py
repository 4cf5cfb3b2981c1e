"""Ready-made kinds of agents that do real work: architect, coder, executor, critic, deployer,
infrastructure.

They use `paddock.agent` as any author would, and nothing else of the house.
"""

from __future__ import annotations

from paddock.foundry.critic import Critic
from paddock.foundry.deployer import Deployer
from paddock.foundry.executor import Executor
from paddock.foundry.infrastructure import Infrastructure
from paddock.foundry.thinkers import Architect, Coder

__all__ = ["Architect", "Coder", "Critic", "Deployer", "Executor", "Infrastructure"]
