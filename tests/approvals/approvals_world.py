"""One workspace of approvals for the tests beside this file: a real database, a clock that is told what time it is."""

from interlock.approvals import ApprovalStore
from interlock.disk import Database
from interlock.testing import CountingIds, FakeClock

SECRET = "sk-live-0123456789"


def redact(value):
    """What the engine hands in, in small."""
    if isinstance(value, str):
        return value.replace(SECRET, "[secret]")
    if isinstance(value, dict):
        return {redact(k): redact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redact(v) for v in value]
    return value


class World:
    """One workspace's database; `store()` opens it once more, as another process would."""

    def __init__(self, directory):
        self.path = directory / "interlock.db"
        self.clock = FakeClock()
        self.ids = CountingIds()
        self.rings = 0
        self.open = []

    def database(self, **options):
        database = Database(self.path, **options)
        self.open.append(database)
        return database

    def store(self, *, boot="boot-1", **options):
        def rung():
            self.rings += 1

        return ApprovalStore(self.database(**options), self.clock, self.ids, boot=boot, redact=redact, changed=rung)
