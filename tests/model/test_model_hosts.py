"""Hosts: every spelling comes to one endpoint, or is refused; a pattern matches what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.errors import ConfigurationError
from interlock.model.hosts import Endpoint, endpoint, endpoint_matcher, pattern_covers


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.org", "example.org", None),
        ("example.org:443", "example.org", 443),
        ("EXAMPLE.org.:443", "example.org", 443),
        ("https://example.org", "example.org", 443),
        ("HTTPS://Example.ORG/path?x=http://evil.org#@evil.org", "example.org", 443),
        ("http://example.org:8080/", "example.org", 8080),
        ("http://example.org:/", "example.org", 80),
        ("wss://example.org/a|b", "example.org", 443),
        ("ssh://git@example.org/repo", "example.org", 22),
        ("https://user:secret@example.org/", "example.org", 443),
        ("https://good.org@evil.org/", "evil.org", 443),
        ("https://good.org:443@evil.org/", "evil.org", 443),
        ("https://evil.org/@good.org", "evil.org", 443),
        ("https://evil.org?@good.org", "evil.org", 443),
        ("https://evil.org#@good.org", "evil.org", 443),
        ("unknown://example.org/", "example.org", None),
        ("[::1]:80", "::1", 80),
        ("[::1]", "::1", None),
        ("http://[2001:DB8:0::1]/", "2001:db8::1", 80),
        ("http://[::ffff:127.0.0.1]/", "127.0.0.1", 80),
        ("http://127.0.0.1/", "127.0.0.1", 80),
        ("http://127.1/", "127.0.0.1", 80),
        ("http://2130706433/", "127.0.0.1", 80),
        ("http://0x7f.1/", "127.0.0.1", 80),
        ("http://0177.0.0.1/", "127.0.0.1", 80),
        ("http://0X7F000001./", "127.0.0.1", 80),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("localhost:8000", "localhost", 8000),
        ("_sip._tcp.example.org:5060", "_sip._tcp.example.org", 5060),
    ],
)
def test_an_endpoint(text, host, port):
    assert endpoint(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " example.org",
        "example.org ",
        "exa mple.org",
        "exam\tple.org",
        "https://exam\nple.org/",
        "https://good.org\\@evil.org/",
        "https://good.org\\.evil.org/",
        "https:\\\\evil.org",
        "https:///evil.org",
        "https:/evil.org",
        "https:evil.org",
        "//evil.org/",
        "evil.org/path",
        "a@b@evil.org",
        "https://a@b@evil.org/",
        "https://@evil.org/",
        "https://[::1]@evil.org/",
        "https://ex%61mple.org/",
        "https://faß.de/",
        "https://\uff45xample.org/",
        "https://exa\u200dmple.org/",
        "https://exa\u00admple.org/",
        "https://example。org/",
        "https://..org/",
        "https://example..org/",
        "https://example.org../",
        "https://-example.org/",
        "https://" + "a" * 64 + ".org/",
        "https://" + "a." * 127 + "org/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://4294967296/",
        "http://08.1.1.1/",
        "http://example.123/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://::1/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://example.org:-1/",
        "http://example.org:\uff18\uff10/",
        "http://example.org:80:80/",
        "file:///etc/passwd",
        "data:text/plain,x",
        "javascript:alert(1)",
        "git@github.com:org/repo",
        "*.example.org:443",
        "a" * 20_000,
        7,
        None,
        {"b64": "YQ=="},
    ],
)
def test_what_programs_might_read_differently_is_refused(text):
    with pytest.raises(ValueError) as caught:
        endpoint(text)
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("example.org:443", "example.org:443", True),
        ("example.org:443", "https://EXAMPLE.org./", True),
        ("example.org:443", "http://example.org/", False),
        ("example.org:443", "example.org", False),
        ("example.org:*", "example.org", True),
        ("example.org:*", "example.org:1", True),
        ("*.example.org:443", "a.example.org:443", True),
        ("*.example.org:443", "a.b.example.org:443", True),
        ("*.example.org:443", "example.org:443", False),
        ("*.example.org:443", "evilexample.org:443", False),
        ("*.example.org:443", "a.example.org.evil.org:443", False),
        ("*.example.org:443", "a.example.org:80", False),
        ("*:443", "anything.at.all:443", True),
        ("*:443", "1.2.3.4:443", True),
        ("*:443", "anything.at.all:80", False),
        ("*:*", "[::1]:9", True),
        ("[::1]:80", "http://[0:0::1]/", True),
        ("127.0.0.1:80", "http://0x7f.1/", True),
        ("127.0.0.1:80", "http://[::ffff:7f00:1]/", True),
        ("bücher.example:443", "https://xn--bcher-kva.example/", True),
        ("EXAMPLE.ORG:443", "example.org:443", True),
    ],
)
def test_a_pattern(pattern, subject, matches):
    assert endpoint_matcher([pattern])(endpoint(subject)) is matches


@pytest.mark.parametrize(
    "pattern",
    ["", "example.org", ":443", "example.org:", "::1:80", "*.1.2.3.4:80", "a.*.org:80", "x:http", "https://x.org:443"],
)
def test_a_senseless_pattern_is_a_configuration_error(pattern):
    with pytest.raises(ConfigurationError):
        endpoint_matcher([pattern])


HOSTS = st.sampled_from(["a.org", "b.a.org", "c.b.a.org", "xa.org", "1.2.3.4", "[::1]"])
PORTS = st.sampled_from(["80", "443"])
PATTERNS = st.tuples(
    st.sampled_from(["*", "*.org", "*.a.org", "*.b.a.org", "a.org", "b.a.org", "1.2.3.4", "[::1]"]),
    st.sampled_from(["80", "443", "*"]),
).map(":".join)


@given(PATTERNS, PATTERNS, HOSTS, PORTS)
def test_a_covering_pattern_matches_all_that_the_covered_one_does(outer, inner, host, port):
    subject = endpoint(f"{host}:{port}")
    if pattern_covers(outer, inner) and endpoint_matcher([inner])(subject):
        assert endpoint_matcher([outer])(subject)


@given(st.text(max_size=40))
def test_any_text_is_an_endpoint_or_a_value_error(text):
    for subject in (text, "https://" + text, "http://[" + text + "]/"):
        try:
            found = endpoint(subject)
        except ValueError:
            continue
        assert endpoint(str(found).removesuffix(":*")) == found
        assert found.host == found.host.lower()
        assert found.host.isascii()
