"""The database: transactions, migrations, clear errors, several processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.disk import Database
from interlock.model.errors import StoreError, UsageError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "interlock.db")
    database.migrate("test", ["create table t (k text primary key, n integer not null)"])
    yield database
    database.close()


def insert(database: Database, key: str, number: int = 0) -> None:
    database.execute("insert into t values (?, ?)", (key, number))


def insert_and_fail(database: Database) -> None:
    with database.transaction():
        insert(database, "half")
        raise ZeroDivisionError


def keys(database: Database) -> list[str]:
    return [key for (key,) in database.execute("select k from t order by k")]


def test_the_file_is_for_its_user_only(tmp_path: Path, database: Database):
    assert (tmp_path / "interlock.db").stat().st_mode & 0o777 == 0o600


def test_a_transaction_is_all_or_nothing(database: Database):
    with pytest.raises(ZeroDivisionError):
        insert_and_fail(database)
    assert keys(database) == []
    with database.transaction():
        insert(database, "a")
        with database.transaction():
            insert(database, "b")
    assert keys(database) == ["a", "b"]


def test_a_nested_block_that_raises_takes_the_outer_one_back_too(database: Database):
    def outer() -> None:
        with database.transaction():
            insert(database, "a")
            insert_and_fail(database)

    with pytest.raises(ZeroDivisionError):
        outer()
    insert(database, "after")
    assert keys(database) == ["after"]


def test_ctrl_c_right_after_a_transaction_began_leaves_none_open(database: Database):
    class Interrupted:
        def __init__(self, connection: object) -> None:
            self.connection = connection

        def execute(self, sql: str) -> None:
            self.connection.execute(sql)
            if sql == "begin immediate":
                raise KeyboardInterrupt

    real = database._connection
    database._connection = Interrupted(real)
    with pytest.raises(KeyboardInterrupt), database.transaction():
        pass
    database._connection = real
    with database.transaction():
        insert(database, "a")
    assert keys(database) == ["a"]


def test_changes_tell_whether_a_compare_and_set_won(database: Database):
    insert(database, "a", 1)
    with database.transaction():
        database.execute("update t set n = 2 where k = 'a' and n = 1")
        assert database.changes == 1
        database.execute("update t set n = 3 where k = 'a' and n = 1")
        assert database.changes == 0


def test_migrations_run_once_and_in_order(tmp_path: Path, database: Database):
    steps = ["create table u (a text)", "alter table u add column b text", "insert into u values ('x', 'y')"]
    database.migrate("other", steps[:2])
    database.migrate("other", steps)
    database.migrate("other", steps)
    assert database.execute("select a, b from u") == [("x", "y")]


def test_a_migration_that_fails_changes_nothing(database: Database):
    with pytest.raises(Exception, match="syntax"):
        database.migrate("other", ["create table u (a text)", "not sql"])
    assert database.execute("select name from sqlite_master where name = 'u'") == []


def test_a_database_of_a_newer_version_is_refused(database: Database):
    with pytest.raises(StoreError) as caught:
        database.migrate("test", [])
    assert caught.value.code == "newer_database"


def test_threads_share_a_connection_one_transaction_at_a_time(database: Database):
    insert(database, "n", 0)

    def work() -> None:
        for _ in range(50):
            with database.transaction():
                [(n,)] = database.execute("select n from t where k = 'n'")
                database.execute("update t set n = ? where k = 'n'", (n + 1,))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.execute("select n from t") == [(200,)]


def test_processes_do_not_lose_each_others_updates(tmp_path: Path, database: Database):
    insert(database, "n", 0)
    program = """if True:
        import sys, pathlib
        from interlock.disk import Database
        d = Database(pathlib.Path(sys.argv[1]), busy_ms=20_000)
        for _ in range(25):
            with d.transaction():
                [(n,)] = d.execute("select n from t where k = 'n'")
                d.execute("update t set n = ? where k = 'n'", (n + 1,))
    """
    others = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "interlock.db")]) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    assert database.execute("select n from t") == [(75,)]


def test_a_database_held_by_another_for_too_long_is_a_clear_error(tmp_path: Path, database: Database):
    other = Database(tmp_path / "interlock.db", busy_ms=10)
    with database.transaction():
        insert(database, "a")
        with pytest.raises(StoreError) as caught, other.transaction():
            pass
    assert caught.value.code == "database_locked"
    insert(other, "b")
    other.close()
    assert keys(database) == ["a", "b"]


def test_a_new_file_can_be_opened_by_many_at_once(tmp_path: Path):
    failed: list[StoreError] = []
    together = threading.Barrier(4)

    def opens(path: Path) -> None:
        together.wait()
        try:
            Database(path).close()
        except StoreError as error:
            failed.append(error)

    for round_ in range(25):
        threads = [threading.Thread(target=opens, args=(tmp_path / f"{round_}.db",)) for _ in range(together.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


def test_what_was_committed_survives_a_kill(tmp_path: Path, database: Database):
    program = """if True:
        import sys, pathlib
        from interlock.disk import Database
        d = Database(pathlib.Path(sys.argv[1]))
        d.execute("insert into t values ('committed', 1)")
        with d.transaction():
            d.execute("insert into t values ('open', 1)")
            print("ready", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "interlock.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"ready\n"
        other.kill()
    assert keys(database) == ["committed"]


def test_damage_and_places_that_cannot_be_written_are_clear_errors(tmp_path: Path):
    (tmp_path / "damaged.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError) as caught:
        Database(tmp_path / "damaged.db")
    assert caught.value.code == "database_damaged"
    with pytest.raises(StoreError):
        Database(tmp_path / "nowhere" / "interlock.db")
    with pytest.raises(StoreError):
        Database(tmp_path / "absent.db", read_only=True)


def test_a_database_opened_read_only_refuses_to_be_written(tmp_path: Path, database: Database):
    insert(database, "a")
    reader = Database(tmp_path / "interlock.db", read_only=True)
    assert keys(reader) == ["a"]
    with pytest.raises(StoreError) as caught:
        insert(reader, "b")
    assert caught.value.code == "read_only"
    reader.close()


def test_what_need_not_last_is_seen_at_once_and_leaves_the_connection_as_it_was(database: Database, tmp_path: Path):
    other = Database(database.path)
    database.execute("create table leases (x integer)")
    with database.transaction(lasting=False):
        database.execute("insert into leases values (1)")
    assert other.execute("select x from leases") == [(1,)]
    assert database.execute("pragma synchronous") == [(2,)]
    with pytest.raises(StoreError), other.transaction(), _impatient(database).transaction(lasting=False):
        pass
    assert database.execute("pragma synchronous") == [(2,)]
    other.close()


def _impatient(database: Database) -> Database:
    database.execute("pragma busy_timeout = 0")
    return database


def test_no_room_even_for_the_index_of_the_wal_is_a_full_disk(tmp_path: Path):
    """SQLite calls that an I/O error. A limit on the size of files makes no room for the index."""
    code = f"""
        import resource, signal
        from pathlib import Path
        from interlock.disk import Database
        from interlock.model.errors import StoreError
        path = Path({str(tmp_path / "full.db")!r})
        Database(path).close()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            Database(path).execute("select * from sqlite_schema")
        except StoreError as error:
            print(error.code)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "disk_full\n", done.stderr


def test_a_closed_database_says_so(database: Database):
    database.close()
    with pytest.raises(UsageError, match="closed"):
        database.execute("select 1")
