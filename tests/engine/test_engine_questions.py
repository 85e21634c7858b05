"""What a question shows: every word that could be code, no secret in its summary, and no more than that to notifiers."""

import json

import pytest
from engine_world import TOML, call, execute

ASKING = TOML % 'ask = ["shell", "exec", "fs.*"]\n'
TOKEN = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"


@pytest.fixture
def asking(new_project):
    return new_project(toml=ASKING)


class Told:
    """A notifier that remembers."""

    name = "told"

    def __init__(self):
        self.holds = []

    def notify(self, hold, timeout_s):
        self.holds.append(hold)


def ask(project, *actions):
    """The question about a call that nobody waits for, and what notifiers were told."""
    rt = project.open()
    told = Told()
    rt.services.desk.notify_through([told])
    rt.services.desk.wait = False
    result = execute(rt, *actions)
    (hold,) = rt.services.desk.store.list_holds("pending")
    rt.services.desk.close()
    return result, hold, told.holds[0]


@pytest.mark.parametrize(
    ("tool", "parameters", "code"),
    [
        ("shell", {"command": "echo https://ci:x;touch${IFS}pwned;:@artifacts.example/build.tgz"}, "touch${IFS}pwned"),
        ("shell", {"command": "cat <<X\n-----BEGIN PRIVATE KEY-----\n$(touch pwned)\n-----END PRIVATE KEY-----\nX"}, "touch"),
        ("exec", {"argv": ["sh", "-c", "$PASSWORD"], "env": {"PASSWORD": "rm -rf important"}}, "rm -rf important"),
        ("fs.write", {"path": "x", "content": "-----BEGIN PRIVATE KEY-----\ntouch pwned\n-----END PRIVATE KEY-----\n"}, "pwned"),
    ],
)  # fmt: skip
def test_what_runs_is_what_was_shown(asking, tool, parameters, code):
    _, hold, _ = ask(asking, call(tool, parameters=parameters))
    assert hold.parameters == parameters
    assert code in json.dumps(hold.parameters)


@pytest.mark.parametrize(
    ("tool", "parameters", "secret"),
    [
        ("exec", {"argv": ["mysql", "--password", "hunter2-hunter2"]}, "hunter2-hunter2"),
        ("exec", {"argv": ["curl", "-u", "me:" + TOKEN, "https://example.org"]}, TOKEN),
        ("shell", {"command": f"GITHUB_TOKEN={TOKEN} gh release list"}, TOKEN),
    ],
)
def test_the_summary_is_made_of_what_is_shown(asking, tool, parameters, secret):
    result, hold, told = ask(asking, call(tool, "c", parameters=parameters))
    assert "[redacted:" in hold.summary
    for text in (repr(hold), repr(told), repr(result["c"])):
        assert secret not in text
    for file in asking.state.rglob("interlock.db*"):
        assert secret.encode() not in file.read_bytes()


def test_the_summary_of_an_argument_vector_is_as_one_would_type_it(asking):
    _, hold, _ = ask(asking, call("exec", parameters={"argv": ["printf", "%s\n", "a b", "plain"]}))
    assert hold.summary == "exec: printf '%s\n' 'a b' plain"


def test_notifiers_are_told_less_than_an_approver_sees(asking):
    parameters = {"command": "PASSWORD=hunter2; echo $PASSWORD https://ci:p;w@example.org"}
    _, hold, told = ask(asking, call("shell", parameters=parameters))
    assert hold.parameters == parameters
    for secret in ("hunter2", "p;w"):
        assert secret in hold.summary
        assert secret not in repr(told)
