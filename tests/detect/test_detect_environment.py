"""Which environment variables may be set without a question."""

from __future__ import annotations

import pytest

from interlock.detect.environment import is_loaded_first, unknown_variables

LOADERS = [
    "PERL5OPT", "PERL5LIB", "PERL5DB", "PERLLIB", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONINSPECT",
    "PYTHONBREAKPOINT", "PYTHONWARNINGS", "NODE_OPTIONS", "NODE_PATH", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0",
    "GIT_CONFIG_GLOBAL", "GIT_CONFIG_PARAMETERS", "GIT_EXTERNAL_DIFF", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_EDITOR",
    "GIT_SEQUENCE_EDITOR", "GIT_PAGER", "GIT_ASKPASS", "GIT_EXEC_PATH", "GIT_TEMPLATE_DIR", "GIT_DIR",
    "GIT_PROXY_COMMAND", "LESSOPEN", "LESSCLOSE", "PAGER", "MANPAGER", "EDITOR", "VISUAL", "BROWSER", "MAKEFLAGS",
    "GNUMAKEFLAGS", "PATH", "HOME", "XDG_CONFIG_HOME", "SHELL", "IFS", "CDPATH", "ZDOTDIR", "PYTEST_ADDOPTS",
    "PYTEST_PLUGINS", "PIP_INDEX_URL", "npm_config_script_shell", "RUSTC_WRAPPER", "CC", "CXX", "LUA_INIT", "PHPRC",
    "PHP_INI_SCAN_DIR", "R_PROFILE_USER", "OPENSSL_CONF", "TERMINFO", "MAILCAPS", "DOTNET_STARTUP_HOOKS",
    "COR_PROFILER_PATH", "HTTP_PROXY", "https_proxy", "SSH_AUTH_SOCK", "TAR_OPTIONS", "RSYNC_RSH", "FPATH",
    "AWKPATH", "GUILE_LOAD_PATH", "ANSIBLE_CONFIG", "TF_CLI_ARGS",
]  # fmt: skip


@pytest.mark.parametrize("name", LOADERS)
def test_what_loads_code_or_leads_elsewhere_is_asked_about(name):
    assert unknown_variables({name: "x"}) == (name,)


def test_what_is_harmless_is_not():
    given = {
        "LC_ALL": "C",
        "TZ": "Europe/Berlin",
        "CI": "1",
        "NO_COLOR": "",
        "NODE_ENV": "test",
        "GIT_AUTHOR_NAME": "A / B",
    }
    assert unknown_variables(given) == ()


@pytest.mark.parametrize("value", ["../../evil", "a/b", "a\\b", "a\0b"])
def test_a_name_that_becomes_part_of_a_path_leads_nowhere(value):
    assert unknown_variables({"RAILS_ENV": value}) == ("RAILS_ENV",)


def test_more_can_be_named():
    given = {"APP_TOKEN": "x", "APP_URL": "x", "DATABASE_URL": "x", "PERL5OPT": "x"}
    assert unknown_variables(given, ("APP_*", "DATABASE_URL")) == ("PERL5OPT",)
    assert unknown_variables(given, ("*",)) == ()


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES", "BASH_ENV", "ENV", "BASH_FUNC_x%%", "PS4"]
)
def test_what_is_read_before_the_program_is_never_passed_on(name):
    assert is_loaded_first(name)
