"""Every kind of token: an example that must be found, and one that looks alike and must not."""

import itertools

import pytest

from interlock.detect import find_secrets
from interlock.detect.shapes import KINDS

# Nothing here is a secret. Prefix and body are kept apart so that scanners of this repository see none either.
ALNUM = "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cF3hJ6lM9oR2uX5yZ8bD1eG4iL7nP0qS3tV6w" * 4
HEX = "0a1b2c3d4e5f60718293a4b5c6d7e8f9" * 3
BASE32 = "Q3ZT7WXA5RKM2YNJ"

TRUE = [
    ("aws-access-key", "AK" + "IA" + BASE32),
    ("aws-access-key", "AS" + "IA" + BASE32),
    ("github-token", "gh" + "p_" + ALNUM[:36]),
    ("github-oauth", "gh" + "o_" + ALNUM[:36]),
    ("github-app", "gh" + "s_" + ALNUM[:36]),
    ("github-app", "gh" + "u_" + ALNUM[:36]),
    ("github-refresh", "gh" + "r_" + ALNUM[:76]),
    ("github-fine-grained", "github" + "_pat_" + ALNUM[:22] + "_" + ALNUM[:59]),
    ("gitlab-token", "gl" + "pat-" + ALNUM[:20]),
    ("gitlab-token", "gl" + "dt-" + ALNUM[:20]),
    ("gitlab-token", "gl" + "rt-" + ALNUM[:20]),
    ("gitlab-token", "gl" + "ptt-" + HEX[:40]),
    ("gitlab-token", "gl" + "cbt-" + "64_" + ALNUM[:20]),
    ("slack-token", "xo" + "xb-" + "1234567890-1234567890123-" + ALNUM[:24]),
    ("slack-token", "xo" + "xp-" + "1234567890-1234567890-" + HEX[:32]),
    ("slack-token", "xa" + "pp-" + "1-A0123456789-" + ALNUM[:30]),
    ("slack-webhook", "https://hooks.slack" + ".com/services/T0123ABCD/B0123ABCD/" + ALNUM[:24]),
    ("discord-webhook", "https://discord" + ".com/api/webhooks/123456789012345678/" + ALNUM[:68]),
    ("stripe-key", "sk" + "_live_" + ALNUM[:24]),
    ("stripe-key", "sk" + "_test_" + ALNUM[:24]),
    ("stripe-key", "rk" + "_live_" + ALNUM[:24]),
    ("stripe-key", "rk" + "_test_" + ALNUM[:24]),
    ("stripe-webhook", "wh" + "sec_" + ALNUM[:32]),
    ("google-api-key", "AI" + "za" + ALNUM[:35]),
    ("google-oauth", "GOC" + "SPX-" + ALNUM[:28]),
    ("google-oauth", "ya" + "29." + ALNUM[:60]),
    ("openai-key", "sk" + "-" + ALNUM[:48]),
    ("openai-key", "sk" + "-proj-" + ALNUM[:74]),
    ("openai-key", "sk" + "-svcacct-" + ALNUM[:74]),
    ("openai-key", "sk" + "-admin-" + ALNUM[:74]),
    ("anthropic-key", "sk" + "-ant-" + "api03-" + ALNUM[:93]),
    ("npm-token", "np" + "m_" + ALNUM[:36]),
    ("pypi-token", "py" + "pi-" + "AgEIcHlwaS5vcmc" + ALNUM[:80]),
    ("sendgrid-key", "S" + "G." + ALNUM[:22] + "." + ALNUM[:43]),
    ("twilio-key", "S" + "K" + HEX[:32]),
    ("huggingface-token", "h" + "f_" + "abcDEFghiJKLmnoPQRstuVWXyzaBCDefgH"),
    ("digitalocean-token", "do" + "p_v1_" + HEX[:64]),
    ("shopify-token", "shp" + "at_" + HEX[:32]),
    ("vault-token", "hv" + "s." + ALNUM[:90]),
    ("grafana-token", "gl" + "sa_" + ALNUM[:32] + "_" + HEX[:8]),
    ("atlassian-token", "ATA" + "TT3" + ALNUM[:180]),
    ("databricks-token", "da" + "pi" + HEX[:32]),
    ("linear-key", "lin" + "_api_" + ALNUM[:40]),
    ("age-key", "AGE-SECRET" + "-KEY-1" + ("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2)[:58]),
    ("interlock-grant-token", "ig" + "t1_" + ALNUM[:150]),
    ("jwt", "ey" + "JhbGciOiJIUzI1NiJ9" + ".ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0." + ALNUM[:43]),
    ("telegram-token", "123456789:" + "AA" + ALNUM[:33]),
    ("private-key", "-----BEGIN RSA " + "PRIVATE KEY-----\n" + (ALNUM[:64] + "\n") * 3 + "-----END RSA PRIVATE KEY-----"),
    ("private-key", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + ALNUM[:64] + "\n-----END OPENSSH PRIVATE KEY-----"),
    ("private-key", "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\n\n" + ALNUM[:64] + "\n-----END PGP PRIVATE KEY BLOCK-----"),
]  # fmt: skip

FALSE = [
    "AK" + "IA" + "XXXXXXXXXXXXXXXX",  # a placeholder
    "AK" + "IA" + BASE32[:15],  # too short
    "XAK" + "IA" + BASE32 + "ZZZZ",  # inside a longer word
    "gh" + "p_" + "x" * 36,
    "gh" + "p_" + ALNUM[:20],
    "github" + "_pattern_matcher_for_everything_here",
    "gl" + "pat-short",
    "xo" + "xo-hugs",
    "hooks.slack.com/services is where webhooks live",
    "sk" + "_live_short",
    "AI" + "zawa is a town, its name is not a key of 39 characters",
    "sk" + "-learn-compatible-estimators-for-everyone",
    "task" + "-" + ALNUM[:48],
    "npm" + "_config_registry_and_some_more_words_here",
    "pypi-publish-action-with-a-long-name",
    "S" + "G.short.token",
    "S" + "KILLED-IN-MANY-THINGS-AND-LONG-ENOUGH",
    "h" + "f_hub_download_with_a_name_as_long_as_it_gets",
    "ey" + "Jhbmd1YWdl is the start of a word",
    "12:AA" + ALNUM[:33],
    "-----BEGIN CERTIFICATE-----\n" + ALNUM[:64] + "\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\n" + ALNUM[:64] + "\n-----END PUBLIC KEY-----",
    "sha256:" + HEX[:64],
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "a_very_long_function_name_in_some_python_module",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
]


@pytest.mark.parametrize(("kind", "secret"), TRUE, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(TRUE)])
@pytest.mark.parametrize("around", ["{}", "see {} here", '{{"a": "{}"}}', "x={};", "line\\n{}\\n", "日本語 {} İ"])
def test_a_token_is_found_wherever_it_stands(kind: str, secret: str, around: str) -> None:
    text = around.format(secret)
    found = find_secrets(text)
    assert [f.kind for f in found] == [kind]
    stretch = text[found[0].start : found[0].end]
    # A webhook counts from its host on: what comes before is no secret.
    assert stretch == secret or secret.removeprefix("https://") == stretch


def test_every_kind_has_an_example() -> None:
    assert {kind for kind, _ in TRUE} == set(KINDS)
    assert len(KINDS) >= 12


@pytest.mark.parametrize("text", FALSE)
def test_what_only_looks_like_a_token_is_left_alone(text: str) -> None:
    assert find_secrets(text) == []


def test_several_secrets_are_found_in_order_and_do_not_overlap() -> None:
    text = " and ".join(secret for _, secret in TRUE)
    found = find_secrets(text)
    assert [f.kind for f in found] == [kind for kind, _ in TRUE]
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


def test_a_private_key_that_was_cut_off_counts_as_far_as_it_goes() -> None:
    text = "-----BEGIN EC " + "PRIVATE KEY-----\n" + ALNUM[:64] + "\n" + ALNUM[:30]
    (found,) = find_secrets(text)
    assert (found.start, found.end) == (0, len(text))


def test_a_key_inside_a_json_string_is_found_with_its_escaped_line_breaks() -> None:
    text = '{"key": "-----BEGIN ' + "PRIVATE KEY-----\\n" + ALNUM[:64] + '\\n-----END PRIVATE KEY-----\\n"}'
    (found,) = find_secrets(text)
    assert text[found.end :] == '\\n"}'
