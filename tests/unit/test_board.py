"""The board between the loop and its pages: what is counted, and that nothing here ends the loop."""

from __future__ import annotations

from dataclasses import replace

from reconciler.board import Board, Tally
from reconciler.due import Due
from reconciler.watcher import Face, Turn

TURN = Turn(
    result=None, trouble="no answer", due=Due(in_s=1.0, what="x"), due_at_s=1.0, wake_at_s=1.0, took_s=0.3
)  # fmt: skip


class Told(Face):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.turns = 0

    def tell(self, turn: Turn) -> None:
        self.turns += 1

    def say(self, what: str, detail: str) -> None:
        self.said.append(f"{what}: {detail}")


def test_passes_are_counted_by_how_long_they_took() -> None:
    found = Tally().after(TURN).after(replace(TURN, trouble="", took_s=99.0))
    assert (found.passes, found.passes_refused, found.pass_s_last) == (2, 1, 99.0)
    assert sum(found.buckets) == 2
    assert (found.buckets[5], found.buckets[-1]) == (1, 1)


def test_a_web_face_that_breaks_is_told_once_and_ends_nobody() -> None:
    told = Told()

    def broken() -> str:
        raise RuntimeError("no thread")

    board = Board(told, broken)
    for _ in range(3):
        board.tell(TURN)
    assert told.turns == 3
    assert told.said == ["problem: the web face: RuntimeError: no thread"]


def test_what_kept_a_pass_from_being_done_is_kept_until_one_is() -> None:
    board = Board(Told())
    board.tell(TURN)
    assert (board.snapshot, board.trouble) == (None, "no answer")
