"""The whole path in about a minute on two cores: train a super-net on scikit-learn's digits, score every one of its 243
sub-networks, and compare the ranking with the 243 networks trained alone (the table that comes with jaxnas).

    jaxnas quickstart --workdir runs/quickstart

It is `experiments.rank_correlation` on the embedded space; figures and pictures are explained there.
"""

from jaxnas.runs.command import main

from . import rank_correlation
from .rank_correlation import run

PRESETS = {name: config for name, config in rank_correlation.PRESETS.items() if config.problem.space == "digits_chain"}

if __name__ == "__main__":
    main(f"{__package__}.quickstart", __doc__, run, PRESETS)
