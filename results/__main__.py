"""Write the tables of the READMEs anew: `python -m results`; with `--check` only say whether they are as written."""

import sys

from cogapp import Cog

from results.changes import ROOT

DOCUMENTS = ("experiments/README.md", "benchmarks/README.md")


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 5 where `--check` finds a difference."""
    options = ["--check", "--diff"] if arguments == ["--check"] else ["-r"]
    if arguments not in ([], ["--check"]):
        print(f"python -m results: got {' '.join(arguments)}, expected --check or nothing.", file=sys.stderr)
        return 2
    return Cog().main(["cog", "-I", str(ROOT), *options, *(str(ROOT / path) for path in DOCUMENTS)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
