"""Progress in a file: lines now and then, where a terminal shows bars that move."""

import contextlib
import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

EVERY = 30.0  # seconds between two lines of one command's bars
_MOVES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of the cursor, for bars below each other
_BAR = re.compile(r"\|[^|\d]*\d*[^|\d]*\|")  # what is drawn, between percent and numbers


class Lines(io.TextIOBase):
    """A text file that gets lines only: of a line that is written over and over by carriage returns, its state every
    `every` seconds and at the end."""

    def __init__(self, file: TextIO, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self.every, self.clock = file, every, clock
        self.line, self.moves, self.told = "", False, clock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.file.encoding

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.split(r"(\r\n|\n|\r)", text):
            if part in ("\n", "\r\n"):
                self._emit(blank=not self.moves)
                self.moves = False
            elif part == "\r":
                self.line, self.moves = "", True
            else:
                self.line += part
        if self.moves and self.clock() - self.told >= self.every and self.line.strip():
            self._emit()
        return len(text)

    def flush(self) -> None:
        self.file.flush()

    def finish(self) -> None:
        """Write what is left of a line that never ended."""
        if self.line.strip():
            self._emit()

    def _emit(self, *, blank: bool = False) -> None:
        line = _MOVES.sub("", self.line)
        line = _BAR.sub(" ", line).rstrip() if self.moves else line
        if line.strip() or blank:
            self.file.write(f"{line}\n")
            self.file.flush()
            self.told = self.clock()
        self.line = ""


@contextlib.contextmanager
def lines_in_files() -> Iterator[None]:
    """Meanwhile stderr gets lines only, unless it is a terminal or a notebook, which show bars."""
    if sys.stderr is None or sys.stderr.isatty() or "ipykernel" in sys.modules:
        yield
        return
    lines = Lines(sys.stderr)
    with contextlib.redirect_stderr(lines):
        try:
            yield
        finally:
            lines.finish()
