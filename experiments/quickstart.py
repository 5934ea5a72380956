"""The whole path in about a minute on two cores: train a super-net on scikit-learn's digits, score every one of its 243
sub-networks, and compare the ranking with the 243 networks trained alone (the table that comes with jaxnas).

    python -m experiments.quickstart --workdir runs/quickstart

It is `experiments.rank_correlation` on the embedded space; figures and pictures are explained there.
"""

from experiments import workdir as cli
from experiments.rank_correlation import PRESETS, run

PRESETS = {name: PRESETS[name] for name in ("tiny", "quick")}

if __name__ == "__main__":
    cli.main("quickstart", run, PRESETS)
