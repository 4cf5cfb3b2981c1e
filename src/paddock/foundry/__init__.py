"""Ready-made kinds of agents that do real work: architect, coder, executor, critic, deployer.

They use `paddock.agent` as any author would, and nothing else of the house.
"""
