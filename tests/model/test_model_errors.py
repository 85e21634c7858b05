"""An error that nobody catches says where and what to do, too."""

import traceback

from interlock.model.errors import ConfigurationError, UsageError


def test_a_traceback_has_the_place_and_the_hint():
    error = ConfigurationError("it is wrong", path="interlock.toml:3", hint="mend it")
    text = "".join(traceback.format_exception(error))
    assert "where: interlock.toml:3" in text
    assert "do: mend it" in text


def test_what_there_is_not_is_not_said():
    assert not hasattr(UsageError("no"), "__notes__")
