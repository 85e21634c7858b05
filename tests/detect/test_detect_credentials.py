"""Secrets that are recognised by the name beside them, and the many things that only have such a name."""

# The fake secrets are written in two pieces, and tables read better in one line a case.
# ruff: noqa: ISC004, Q003

import pytest

from interlock.detect import find_secrets
from interlock.detect.credentials import KINDS, is_secret_flag, is_secret_name

TRUE = [
    ("credential-flag", "mysqldump --password hun" "ter2 db", "hunter2"),
    ("credential-flag", "tool --password=hun" "ter2", "hunter2"),
    ("credential-flag", "tool --api-key 'abc" "123'", "abc123"),
    ("credential-flag", "tool --db-password \"p4" 'ss word"', "p4ss"),
    ("credential-flag", "tool --access-token xyz" "789", "xyz789"),
    ("credential-flag", "sshpass -p hun" "ter2 ssh host", "hunter2"),
    ("credential-flag", "mysql -u root -phun" "ter2 shop", "hunter2"),
    ("authorization", "Authorization: Basic dXNl" "cjpwYXNz", "dXNl" "cjpwYXNz"),
    ("basic-auth", "curl -s -u admin:hun" "ter2 https://example.org", "hunter2"),
    ("basic-auth", "curl --user admin:hun" "ter2 https://example.org", "hunter2"),
    ("url-credentials", "git clone https://bob:hun" "ter2@example.org/x.git", "hunter2"),
    ("url-credentials", "postgres://app:s3" "cr%21et@db:5432/shop", "s3cr%21et"),
    ("url-credentials", "redis://:s3" "cret@cache:6379/0", "s3cret"),
    ("authorization", "Authorization: Bearer abcDEF" "123456.xyz", "abcDEF123456.xyz"),
    ("authorization", "-H 'authorization: Basic YWRtaW46" "aHVudGVyMg=='", "YWRtaW46aHVudGVyMg=="),
    ("authorization", '{\\"Authorization\\": \\"token 0123abcd' '4567\\"}', "0123abcd4567"),
    ("authorization", "curl -H 'X: Bearer 0123456789abc" "defxyz'", "0123456789abcdefxyz"),
    ("env-assignment", "DB_PASSWORD=hun" "ter2 ./run", "hunter2"),
    ("env-assignment", "export GITHUB_TOKEN=abc" "d1234", "abcd1234"),
    ("env-assignment", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MD" "ENG+bPxRfiCY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"),
    ("password", 'password = "hun' 'ter2"', "hunter2"),
    ("password", "password: 'correct" "horse'", "correcthorse"),
    ("password", "passwd=hun" "ter2", "hunter2"),
    ("secret-assignment", 'api_key: "abcd1234' 'efgh5678"', "abcd1234efgh5678"),
    ("secret-assignment", 'client_secret="8f14e45f' 'ceea167a"', "8f14e45fceea167a"),
    ("secret-assignment", "aws_secret_access_key = wJalrXUtnFEMI/K7MD" "ENG+bPxRfiCY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"),
    ("secret-assignment", "AccountName=x;AccountKey=abc123DEF456" "ghi789==;E=y", "abc123DEF456ghi789=="),
]  # fmt: skip

FALSE = [
    "token = get_token()",
    "token = os.environ['TOKEN']",
    "API_KEY = settings.api_key",
    "password: str",
    "password: str = None",
    "def login(user, password=None):",
    "max_tokens=4096",
    "tokens: 128000",
    "token_count = 12345678",
    "PASSWORD=$DB_PASSWORD ./run",
    "PASSWORD=${DB_PASSWORD}",
    'password = "<your password>"',
    'password = "{{ password }}"',
    'password = "********"',
    'api_key = "your_api_key_here"',
    "--password $PASSWORD",
    "--password-file secrets.txt",
    "--password --verbose",
    "--token-count 5",
    "the password is checked by the server",
    "Bearer tokens are described in RFC 6750",
    "Authorization: Bearer $TOKEN",
    "https://example.org:8080/path@2x.png",
    "https://user@example.org/",
    "http://$USER:$PASS@example.org/",
    "secret: process.env.SECRET",
    "class PasswordField(TextField):",
    "mkdir -pv a/b/c",
    "mysql -p shop",
    "see the cookie policy",
    "passed: 12, password tests: 3",
]


@pytest.mark.parametrize(("kind", "text", "secret"), TRUE)
def test_the_value_beside_the_name_is_found(kind: str, text: str, secret: str) -> None:
    assert [(f.kind, text[f.start : f.end]) for f in find_secrets(text)] == [(kind, secret)]


@pytest.mark.parametrize("text", FALSE)
def test_a_name_without_a_secret_is_left_alone(text: str) -> None:
    assert find_secrets(text) == []


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, _, _ in TRUE} == set(KINDS)


def test_positions_hold_where_lower_case_is_longer_than_upper_case() -> None:
    text = "İİİ DB_PASSWORD=hun" + "ter2"
    (found,) = find_secrets(text)
    assert text[found.start : found.end] == "hunter2"


@pytest.mark.parametrize(
    "name",
    ["password", "Password", "db_password", "apiKey", "api-key", "X-Api-Key", "access_token", "clientSecret", "Authorization",
     "Set-Cookie", "private_key", "aws_secret_access_key", "credentials", "pin", "passphrase"],
)  # fmt: skip
def test_names_of_secret_fields(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["path", "content", "tokens", "max_tokens", "key", "keyboard", "author", "spinner", "pinned", "secretary"]
)
def test_names_of_ordinary_fields(name: str) -> None:
    assert not is_secret_name(name)


def test_flags_that_take_a_secret() -> None:
    assert is_secret_flag("--password")
    assert is_secret_flag("--api-key")
    assert not is_secret_flag("--password=x")
    assert not is_secret_flag("--path")
    assert not is_secret_flag("password")
