"""Kill -9 in a loop on a real process; `kill_loop.py --rounds 1000` is the long form."""

import random

from kill_loop import rounds


def test_25_kills():
    seed = random.randrange(1 << 30)
    figures = rounds(25, seed)
    assert figures.get("resumed", 0) + figures.get("run_finished", 0) > 0, (seed, figures)
