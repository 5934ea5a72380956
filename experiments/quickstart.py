"""The whole path in about a minute on two cores: train a super-net on scikit-learn's digits, score every one of its 243
sub-networks, and compare the ranking with the 243 networks trained alone (the table that comes with jaxnas).

    python -m experiments.quickstart --workdir runs/quickstart

It is `experiments.rank_correlation` on the embedded space; figures and pictures are explained there.
"""

import dataclasses

from experiments import rank_correlation
from experiments import workdir as cli
from experiments.rank_correlation import run


@dataclasses.dataclass(frozen=True)
class Config(rank_correlation.Config):
    """The same fields, with this module's text in --help."""


PRESETS = {
    name: Config(**dataclasses.asdict(config))
    for name, config in rank_correlation.PRESETS.items()
    if config.space == "digits_chain"
}

if __name__ == "__main__":
    cli.main("quickstart", run, PRESETS)
