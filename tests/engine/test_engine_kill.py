"""Kill -9 in a loop on a real process; `kill_loop.py --rounds 1000` is the long form."""

import random

import pytest
import undo_kill_loop
from kill_loop import rounds


@pytest.mark.timeout(240)
def test_25_kills():
    seed = random.randrange(1 << 30)
    figures = rounds(25, seed)
    assert figures.get("resumed", 0) + figures.get("run_finished", 0) > 0, (seed, figures)


@pytest.mark.parametrize("at", [3, 13, 24, 33, 44, 45, 47, 50])
@pytest.mark.parametrize("then", [undo_kill_loop.Case.undo_again_then_edit, undo_kill_loop.Case.edit_then_resume])
def test_an_undo_killed_at_any_point_costs_a_person_nothing(tmp_path, at, then):
    """Some of the points; `python tests/engine/undo_kill_loop.py` tries them all."""
    case = undo_kill_loop.Case(tmp_path, at)
    try:
        then(case)
    finally:
        case.project.close()
