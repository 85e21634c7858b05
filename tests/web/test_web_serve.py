"""`interlock serve` as a process: answering over HTTP, continuing what died, starting and stopping."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from web_world import delete, result, until, waiting, write

from interlock.engine.people.answers import Answering, Approver

LIST = "/api/v1/approvals"


def journal(rt, run_id):
    lines = (rt.services.state_dir / "runs" / run_id / "journal.ndjson").read_text().splitlines()
    return [json.loads(line) for line in lines]


def kinds(rt, run_id):
    return [event["kind"] for event in journal(rt, run_id)]


def ended(rt, run_id):
    """The run's row in the index, once it says how the run ended."""

    def look():
        row = rt.services.index.get(run_id)
        return row if row.status not in ("running", "held", "interrupted") else None

    return until(look)


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


def test_a_run_asks_and_continues_when_it_is_answered_over_http(project, rt):
    token = rt.services.desk.approvers.add("ann", groups=["ops"])
    secret = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"
    asking = project.run(write("a.txt", f"hello {secret}"), delete("a.txt"))
    server = project.serve()
    (hold,) = waiting(rt)
    with server.client(token) as http:
        (row,) = http.get(LIST).json()["approvals"]
        assert (row["id"], row["tool"], row["summary"]) == (hold.id, "fs.write", "fs.write: a.txt")
        shown = http.get(f"{LIST}/{hold.id}").json()
        assert shown["parameters"]["content"].startswith("hello [redacted:github-token:")
        original = http.post(f"{LIST}/{hold.id}/original", json={"digest": shown["digest"]}).json()
        assert original["parameters"] == {"path": "a.txt", "content": f"hello {secret}"}
        assert secret not in str(original["approval"])
        answer = http.post(f"{LIST}/{hold.id}/edit", json={"digest": shown["digest"], "patch": {"content": "bye"}})
        assert answer.json()["outcome"] == "resolved"
        (hold,) = until(lambda: [h for h in waiting(rt) if h.tool == "fs.delete"])
        assert (project.root / "a.txt").read_text() == "bye"
        assert http.post(f"{LIST}/{hold.id}/approve", json={"digest": hold.digest}).status_code == 200
    document = result(asking)
    assert document["status"] == "succeeded", document
    assert server.stop()[0] == 0


def test_wrong_tokens_other_groups_and_late_answers_change_nothing(project, rt):
    ann = rt.services.desk.approvers.add("ann", groups=["ops"])
    eve = rt.services.desk.approvers.add("eve", groups=["design"])
    (project.root / "a.txt").write_text("precious")
    asking = project.run(delete("a.txt"))
    server = project.serve()
    (hold,) = waiting(rt)
    body = {"digest": hold.digest}
    with server.client() as http, server.client("0" * 64) as wrong, server.client(eve) as other:
        assert http.get(LIST).status_code == 401
        assert wrong.post(f"{LIST}/{hold.id}/approve", json=body).status_code == 401
        assert other.post(f"{LIST}/{hold.id}/approve", json=body).status_code == 403
        assert [wrong.get(LIST).status_code for _ in range(6)][-1] == 429
    with server.client(ann) as http:
        assert http.post(f"{LIST}/{hold.id}/deny", json={"reason": "keep it"}).status_code == 200
        late = http.post(f"{LIST}/{hold.id}/approve", json=body)
        assert (late.status_code, late.json()["approval"]["status"]) == (409, "denied")
    document = result(asking)
    assert document["results"][0]["reason"] == "approval_denied"
    assert (project.root / "a.txt").read_text() == "precious"
    _, _, log = server.stop()
    for secret in (ann, eve, "0" * 64):
        assert secret not in log


def test_who_leaves_a_group_in_the_configuration_answers_no_longer_for_it(new_project):
    project = new_project(approvals='groups = { ops = ["ann"], design = ["bob"] }')
    rt = project.open()
    ann, bob = (rt.services.desk.approvers.add(name) for name in ("ann", "bob"))
    (project.root / "a.txt").write_text("precious")
    asking = project.run(delete("a.txt"))
    server = project.serve()
    (hold,) = waiting(rt)
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace('["ann"], design = ["bob"]', '["bob"], design = ["ann"]'))
    project.trust()
    body = {"digest": hold.digest}
    with server.client(ann) as gone, server.client(bob) as came:
        assert gone.post(f"{LIST}/{hold.id}/approve", json=body).status_code == 403
        assert came.post(f"{LIST}/{hold.id}/approve", json=body).status_code == 200
    assert result(asking)["status"] == "succeeded"


def test_two_answers_over_http_at_the_same_time_have_one_winner(project, rt):
    tokens = [rt.services.desk.approvers.add(name, groups=["ops"]) for name in ("ann", "bob")]
    server = project.serve()
    for number in range(3):
        asking = project.run(write(f"{number}.txt", "x"))
        (hold,) = waiting(rt)

        def answer(pair, hold=hold):
            token, choice = pair
            with server.client(token) as http:
                return http.post(f"{LIST}/{hold.id}/{choice}", json={"digest": hold.digest}).status_code

        with ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(answer, zip(tokens, ("approve", "deny"), strict=True)))
        assert sorted(codes) == [200, 409]
        expected = "succeeded" if codes[0] == 200 else "rejected"
        assert result(asking)["results"][0]["status"] == expected


def test_serve_continues_an_approved_run_whose_process_was_killed(project, rt):
    token = rt.services.desk.approvers.add("ann", groups=["ops"])
    asking = project.run(write("a.txt", "hello"), write("b.txt", "hello", "w2"), order="free")
    # Actions side by side ask in either order.
    (first, second) = sorted(waiting(rt, 2), key=lambda hold: hold.parameters["path"])
    server = project.serve()
    killed(asking)
    with server.client(token) as http:
        assert http.post(f"{LIST}/{first.id}/approve", json={"digest": first.digest}).status_code == 200
        until((project.root / "a.txt").exists)
        assert not (project.root / "b.txt").exists()
        (still,) = waiting(rt)
        assert still.id == second.id, "nothing is asked twice"
        assert http.post(f"{LIST}/{second.id}/approve", json={"digest": second.digest}).status_code == 200
    assert ended(rt, first.run).status == "succeeded"
    assert (project.root / "b.txt").read_text() == "hello"
    assert len(rt.services.desk.store.of_run(first.run)) == 2
    _, _, log = server.stop()
    assert f"resumed run {first.run}: succeeded" in log


def test_serve_continues_a_run_in_its_layer_and_commits_it_whole(new_project):
    project = new_project(mode="layer")
    rt = project.open()
    token = rt.services.desk.approvers.add("ann", groups=["ops"])
    asking = project.run(write("a.txt", "hello"), write("b.txt", "hello", "w2"))
    (first,) = waiting(rt)
    server = project.serve()
    killed(asking)
    with server.client(token) as http:
        assert http.post(f"{LIST}/{first.id}/approve", json={"digest": first.digest}).status_code == 200
        (second,) = until(lambda: [hold for hold in waiting(rt) if hold.id != first.id])
        assert not (project.root / "a.txt").exists(), "nothing reaches the files before the whole proposal is done"
        assert http.post(f"{LIST}/{second.id}/approve", json={"digest": second.digest}).status_code == 200
    assert ended(rt, first.run).status == "succeeded"
    assert [(project.root / name).read_text() for name in ("a.txt", "b.txt")] == ["hello", "hello"]
    server.stop()


def test_serve_continues_what_was_answered_before_it_started(project, rt):
    rt.services.desk.approvers.add("ann", groups=["ops"])
    document = result(project.run(write("a.txt", "hello"), wait=False))
    assert document["status"] == "held"
    (hold,) = waiting(rt)
    answered(rt, hold, "approve")
    server = project.serve()
    assert ended(rt, hold.run).status == "succeeded"
    assert (project.root / "a.txt").read_text() == "hello"
    server.stop()


def test_a_denied_run_whose_process_was_killed_is_undone(project, rt):
    rt.services.desk.approvers.add("ann", groups=["ops"])
    asking = project.run(write("a.txt", "hello"), delete("a.txt"))
    (first,) = waiting(rt)
    answered(rt, first, "approve")
    (second,) = until(lambda: [h for h in rt.services.desk.store.list_holds() if h.id != first.id])
    killed(asking)
    assert (project.root / "a.txt").exists()
    server = project.serve()
    answered(rt, second, "deny")
    assert ended(rt, first.run).status == "failed"
    assert not (project.root / "a.txt").exists()
    server.stop()


def test_a_run_whose_question_expired_while_its_process_was_dead_is_ended(new_project):
    project = new_project(ttl="2s")
    rt = project.open()
    asking = project.run(write("a.txt", "hello"))
    (hold,) = waiting(rt)
    killed(asking)
    server = project.serve()
    assert ended(rt, hold.run).status in ("failed", "rejected")
    assert not (project.root / "a.txt").exists()
    assert rt.services.desk.store.get(hold.id).status == "expired"
    server.stop()


def test_no_continue_leaves_runs_alone_and_two_servers_continue_a_run_once(project, rt):
    rt.services.desk.approvers.add("ann", groups=["ops"])
    idle = project.serve("--no-continue")
    asking = project.run(write("a.txt", "hello"))
    (hold,) = waiting(rt)
    killed(asking)
    answered(rt, hold, "approve")
    time.sleep(0.3)
    assert "run_resumed" not in kinds(rt, hold.run)
    servers = [project.serve() for _ in range(2)]
    assert ended(rt, hold.run).status == "succeeded"
    for server in (idle, *servers):
        server.stop()
    assert kinds(rt, hold.run).count("run_resumed") == 1
    assert kinds(rt, hold.run).count("action_succeeded") == 1


def test_a_live_run_is_not_taken_from_its_process(project, rt):
    rt.services.desk.approvers.add("ann", groups=["ops"])
    server = project.serve()
    asking = project.run(write("a.txt", "hello"), write("b.txt", "hello", "w2"), order="free")
    first, second = waiting(rt, 2)
    answered(rt, first, "approve")
    time.sleep(0.3)
    answered(rt, second, "approve")
    assert result(asking)["status"] == "succeeded"
    assert "run_resumed" not in kinds(rt, first.run)
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(project, number):
    server = project.serve()
    code, out, err = server.stop(number)
    assert (code, out) == (0, "")
    assert "Traceback" not in err


def test_it_says_that_nobody_has_a_token(project):
    server = project.serve()
    assert "no approver has a token" in server.stop()[2]


def test_people_get_the_url_and_no_document(project):
    process = project.start("serve", "--port", "0")
    line = process.stdout.readline()
    assert line.startswith("Serving on http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_let_in_only_on_purpose(project, host):
    process = project.start("serve", "--json", "--port", "0", "--host", host)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert json.loads(out)["error"]["path"] == "--host"


def test_letting_other_machines_in_warns_and_works_by_address_only(project):
    server = project.serve("--host", "0.0.0.0", "--allow-remote")
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    with server.client() as http:
        assert http.get(url + "/healthz").status_code == 200
        assert http.get(url + "/healthz", headers={"host": "attacker.example"}).status_code == 421
    assert "no TLS" in server.stop()[2]


def test_loopback_does_not_answer_to_the_name_of_a_stranger(project):
    server = project.serve()
    port = server.url.rpartition(":")[2]
    with server.client() as http:
        for name, status in {
            f"localhost:{port}": 200,
            f"127.0.0.1:{port}": 200,
            "localhost:1": 421,
            "a.b": 421,
        }.items():
            assert http.get("/healthz", headers={"host": name}).status_code == status, name
    server.stop()


def test_a_port_that_is_taken_is_a_clear_error(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = project.start("serve", "--json", "--port", str(taken.getsockname()[1]))
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 5
    assert json.loads(out)["error"]["code"] == "listen_failed"


def test_garbage_instead_of_http_does_not_disturb_it(project):
    server = project.serve()
    port = int(server.url.rpartition(":")[2])
    for data in (b"\x00" * 4096, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000, b"GET /healthz HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            try:
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
            except OSError:
                pass  # it hung up
    with server.client() as http:
        assert http.get("/healthz").status_code == 200
    assert "Traceback" not in server.stop()[2]


def answered(rt, hold, choice):
    """An answer from another surface of this machine."""
    approver = Approver(id="ann", groups=("ops",))
    outcome = Answering(rt.services.desk, "cli").answer(hold.id, approver, choice, digest=hold.digest)
    assert outcome.code == "resolved", outcome
