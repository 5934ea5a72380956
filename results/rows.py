"""Tables of the READMEs, out of what runs left here.

A README has the template of a table in a comment, and below it what `python -m results` makes of it:

    <!-- [[[cog
    from results.rows import table
    table('''
    | ranking | 0 labels | 5 | 30 |
    |---|---|---|---|
    | MACs | **{label_budget_digits.tau_macs_0}** | | |
    | codes and MACs | | {label_budget_digits.tau_code_process_(5 30)} |
    ''')
    ]]] -->

`{FILE.FIGURE}` is a figure of results/FILE.json, an experiment's `result.json`, or of a benchmark's records
(`--out`), where the texts of its record stand before it: `{train_step.nasbench201_fixed_ms}`. It comes with the
interval of its `_low` and `_high` where there are some, to three digits; `:2` gives two, `:2%` two of a hundred times
as much, `:2f` and `:2f%` the figure alone, `:,` a whole number. `{..._(5 30)}` are several cells. What a file does
not have, or has as null, leaves its cell empty. In the names of figures all that is no letter or digit is one `_`:
`learning_rate=0.5: delta` is called `learning_rate_0_5_delta`.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cog

from jaxnas.ranking import Estimate
from results.changes import changed_since

HERE = Path(__file__).parent
FIGURE = re.compile(r"\{(\w+)\.(\w+?)(?:\(([^)]+)\)(\w*))?(?::([^}]+))?\}")
EARLIER = "*No result file is behind these figures.*"  # what stands under a table that no file is behind


def table(template: str) -> None:
    """Write a table, and below it where its figures are from."""
    cog.outl(rendered(template))


def rendered(template: str) -> str:
    """The table's lines and, a paragraph for each file, what made the figures and what has changed since.

    Raises:
      ValueError: a file that is not there, or a row without a figure where its template has some.
    """
    used: dict[str, Mapping[str, Any]] = {}
    lines = []
    for line in template.strip().splitlines():
        parts = FIGURE.findall(line)
        for name in (part[0] for part in parts):
            used[name] = used.get(name) or read(name)
        row = FIGURE.sub(lambda found: _cells(used[found[1]], *found.groups()[1:]), line)
        row = re.sub(r"\*\*\*\*", "", row)  # of an empty cell that would have been bold
        if parts and row == FIGURE.sub("", line):
            raise ValueError(f"no file has any figure of the row {line.strip()!r}.")
        lines.append(row.strip())
    return "\n".join([*lines, "", *(told(name, used[name]) for name in used)])


def read(name: str) -> Mapping[str, Any]:
    """The figures of results/NAME.json, flat, and what made them."""
    path = HERE / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"no {path.name} in results: {', '.join(sorted(file.stem for file in HERE.glob('*.json')))}.")
    record = json.loads(path.read_text(encoding="utf-8"))
    record = by_texts(record) if isinstance(record, list) else record
    return {re.sub(r"\W+", "_", name): value for name, value in record.items()}


def by_texts(records: list[dict[str, Any]]) -> Mapping[str, Any]:
    """A benchmark's records as one: each field is named after those texts of its record that others don't share.

    >>> made = {"command": "python -m benchmarks.mine", "commit": "0123456"}
    >>> by_texts([{"route": "graph", "ms": 2.0} | made, {"route": "serial", "ms": 3.0} | made])["serial_ms"]
    3.0
    """
    first = records[0]
    texts = [key for key, value in first.items() if isinstance(value, str) and len({each[key] for each in records}) > 1]
    figures: dict[str, Any] = {"commit": first["commit"], "name": re.search(r"benchmarks\.\w+", first["command"])[0]}  # type: ignore[index]
    for each in records:
        numbers = {key: value for key, value in each.items() if not isinstance(value, str)}
        of_each = {"_".join([*(each[text] for text in texts), key]): value for key, value in numbers.items()}
        if set(of_each) & set(figures):
            raise ValueError(
                f"texts of {first['command']} do not tell its records apart: {', '.join(texts) or 'none'}."
            )
        figures |= of_each
    return figures


def told(name: str, record: Mapping[str, Any]) -> str:
    """Where figures are from: file, commit, and the rooms whose code is no longer that of the run."""
    commit = record["commit"].removesuffix("-dirty")
    name_of = record["name"]
    changed = changed_since(commit, name_of if "." in name_of else f"experiments.{name_of}")
    what = f"code changed since: {', '.join(changed)}" if changed else "the code that it runs is the same since"
    return f"*[{name}.json](../results/{name}.json), as of {commit[:7]}; {what}.*"


def _cells(record: Mapping[str, Any], begin: str, several: str | None, end: str | None, form: str | None) -> str:
    names = [begin] if several is None else [f"{begin}{each}{end}" for each in several.split()]
    return " | ".join(_cell(record, name, form or "3") for name in names)


def _cell(record: Mapping[str, Any], name: str, form: str) -> str:
    """
    >>> _cell({"tau": 0.5, "tau_low": 0.4, "tau_high": 0.61}, "tau", "2"), _cell({"tau": 0.5}, "tau", "1f%")
    ('0.50 [0.40, 0.61]', '50.0')
    """
    value = record.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    if form == ",":
        return f"{value:,.0f}"
    digits, alone, percent = re.fullmatch(r"(\d+)(f?)(%?)", form).groups()  # type: ignore[union-attr]
    ends = [math.nan if alone or (bound := record.get(name + end)) is None else bound for end in ("_low", "_high")]
    if all(math.isclose(end, value, rel_tol=1e-9) for end in ends):
        ends = [math.nan, math.nan]  # of what does not vary
    return Estimate(*(number * (100 if percent else 1) for number in (value, *ends))).text(digits=int(digits))
