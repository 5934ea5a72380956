"""What several experiments share: the problem, its super-net, and a search that narrows one."""
