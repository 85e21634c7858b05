"""Who may connect where: the hosts of grants, per tool, and Cedar's `connect`."""

from __future__ import annotations

import pytest

from interlock.capability import compile_grants
from interlock.model.decision import Request
from interlock.model.errors import ConfigurationError
from interlock.model.grant import Grant
from interlock.model.tool import Tool
from interlock.policy import Rules, World, load
from interlock.settings.decode import decode

SHELL = Tool(name="shell", isolation="process")


def judged(text, host="pypi.org:443", rules=None, **request):
    judge = load([("test.cedar", text)], rules or Rules(), World(tools=(SHELL,)))
    asked = Request(agent="coder", action="connect", resource_type="Host", resource=host, **request)
    found = judge.connection(asked)
    return judge.guards_connections, None if found is None else (found.decision, found.reason)


ANYTHING = "permit (principal, action, resource);"


def test_policies_that_do_not_speak_of_connect_leave_it_to_the_grant():
    assert judged(ANYTHING) == (False, None)
    assert judged('permit (principal, action == Action::"shell", resource);') == (False, None)
    assert judged('forbid (principal, action == Action::"shell", resource);') == (False, None)


def test_a_forbid_denies_connections_to_the_hosts_that_it_names():
    text = 'forbid (principal, action == Action::"connect", resource) when { resource.host like "*.evil.example" };'
    assert judged(text) == (True, None)
    assert judged(text, "a.evil.example:443") == (True, ("deny", "policy_denied"))
    assert judged(text, "A.EVIL.example.:443") == (True, ("deny", "policy_denied"))
    port = 'forbid (principal, action == Action::"connect", resource) unless { resource has port && resource.port == 443 };'
    assert judged(port, "pypi.org:80") == (True, ("deny", "policy_denied"))
    assert judged(port, "pypi.org:443") == (True, None)


def test_a_forbid_of_everything_is_a_forbid_of_connections():
    assert judged('forbid (principal == Agent::"coder", action, resource);') == (True, ("deny", "policy_denied"))
    assert judged('forbid (principal == Agent::"other", action, resource);') == (True, None)


def test_a_permit_that_names_connect_makes_all_else_denied():
    text = 'permit (principal, action == Action::"connect", resource) when { resource.host == "pypi.org" };'
    assert judged(text) == (True, None)
    assert judged(text, "evil.example:443") == (True, ("deny", "policy_denied"))


def test_a_forbid_that_cannot_be_evaluated_denies():
    sum_ = "resource has port && resource.port + 9223372036854775807 > 1"
    text = f'forbid (principal, action == Action::"connect", resource) when {{ {sum_} }};'
    assert judged(text) == (True, ("deny", "policy_error"))


def test_short_rules_speak_of_connect_too():
    assert judged("", rules=Rules(deny=("connect",))) == (True, ("deny", "policy_denied"))
    assert judged("", rules=Rules(allow=("connect",))) == (True, None)
    asked = judged("", rules=Rules(ask=("connect",)))
    assert asked[0]
    assert asked[1][0] in ("hold", "deny")


def hosts(*grants, agent="coder", now=0):
    return compile_grants(grants).hosts(agent, SHELL, now)


def test_the_hosts_of_each_grant_that_allows_the_tool_count_with_those_it_was_made_from():
    root = Grant(id="root", agent="boss", tools=("*",), hosts=("*:443",))
    child = Grant(id="child", agent="coder", tools=("shell",), hosts=("pypi.org:*",), parent="root")
    other = Grant(id="other", agent="coder", tools=("shell",), hosts=("localhost:5432",))
    elsewhere = Grant(id="else", agent="coder", tools=("http.fetch",), hosts=("evil.example:443",))
    assert set(hosts(root, child, other, elsewhere)) == {(("pypi.org:*",), ("*:443",)), (("localhost:5432",),)}


def test_an_expired_or_revoked_grant_reaches_no_host():
    assert hosts(Grant(id="a", agent="coder", tools=("shell",), hosts=("a:1",), expires_at_us=5), now=5) == ()
    assert hosts(Grant(id="a", agent="coder", tools=("shell",), hosts=("a:1",), parent="gone")) == ()
    assert hosts(agent="nobody") == ()


def test_a_counted_grant_adds_no_host_where_no_use_of_it_is_taken():
    plain = Grant(id="plain", agent="coder", tools=("shell",), hosts=("a:1",))
    counted = Grant(id="counted", agent="coder", tools=("shell",), hosts=("b:1",), uses_max=1)
    assert hosts(plain, counted) == ((("a:1",),),)
    assert hosts(counted) == ((("b:1",),),)


def test_the_settings_name_hosts_by_pattern():
    settings = decode(
        {"network": {"private": ["git.corp.example:443"]}, "tools": {"shell": {"hosts": ["pypi.org:443"]}}}
    )
    assert settings.network.private == ("git.corp.example:443",)
    assert settings.tools.by_name["shell"].hosts == ("pypi.org:443",)
    assert decode({"tools": {"shell": {"hosts": []}}}).tools.by_name["shell"].hosts == ()
    for document, place in (
        ({"network": {"private": ["git.corp.example"]}}, "network.private[0]"),
        ({"network": {"private": ["*:443"]}}, "network.private[0]"),
        ({"tools": {"shell": {"hosts": ["a:443", "b"]}}}, "tools.shell.hosts[1]"),
        ({"network": {"privat": []}}, "network.privat"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            decode(document)
        assert place in f"{caught.value.message} {caught.value.path}", caught.value.message


def test_a_bound_on_hosts_is_refused_where_nothing_would_hold_it():
    bound = {"tools": {"shell": {"hosts": ["pypi.org:443"]}}}
    for profile, features, refused in (
        ("none", {"isolation.ns"}, ["tools.shell.hosts"]),
        ("ns", {"isolation.ns"}, []),
        ("ns", set(), ["isolation.profile", "tools.shell.hosts"]),
    ):
        settings = decode({**bound, "isolation": {"profile": profile}})
        found = [u.path for u in settings.unavailable(features | {"workspace.layer"}) if u.refuse]
        assert found == refused
