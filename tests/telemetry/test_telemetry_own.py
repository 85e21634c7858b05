"""What an action itself used."""

import threading

from interlock.telemetry import Meter


def burn(meter_usage: list[dict[str, int | float]]) -> None:
    meter = Meter("thread")
    while meter.usage()["cpu_ms"] < 30:
        sum(range(10_000))
    meter_usage.append(meter.usage())


def test_a_thread_counts_only_itself() -> None:
    mine = Meter("thread")
    whole = Meter("process")
    out: list[dict[str, int | float]] = []
    thread = threading.Thread(target=burn, args=(out,))
    thread.start()
    thread.join()
    assert out[0]["cpu_ms"] >= 30
    assert whole.usage()["cpu_ms"] >= 30
    assert mine.usage()["cpu_ms"] < out[0]["cpu_ms"]
    assert set(out[0]) == {"cpu_ms", "cpu_user_ms", "cpu_system_ms", "read_bytes", "written_bytes"}
