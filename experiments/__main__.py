"""`jaxnas` lists the experiments; `jaxnas NAME [PRESET] [--field value ...] --workdir DIR` runs one.

In a clone that is not installed: `python -m experiments`.
"""

import ast
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def experiments() -> dict[str, str]:
    """Name -> how its docstring begins, up to the first full stop or colon."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    told = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    return {name: re.split(r"[.:](?:\s|$)", " ".join(text.split()))[0] for name, text in told.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment that the first argument names with the others, as `python -m` on its module would."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = experiments()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "jaxnas NAME [PRESET] [--field value ...] --workdir DIR    (jaxnas NAME --help lists presets and fields)\n"
        )
        print("\n".join(f"{name:18} {sentence}" for name, sentence in known.items()))
        return
    name = arguments.pop(0)
    if name not in known:
        print(f"jaxnas: unknown experiment {name!r}; expected one of {', '.join(known)}.", file=sys.stderr)
        raise SystemExit(2)
    sys.argv[1:] = arguments
    sys.path.insert(0, os.getcwd())  # as `python -m` has it: --space finds a module in the folder at hand
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
