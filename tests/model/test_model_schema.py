"""Schemas of tools: hostile definitions are refused without network or disk, and messages never hold the value."""

import contextlib
import http.server
import threading
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.model.limits import Limits
from interlock.model.schema import Schema, SchemaError, defaults, marks


@pytest.fixture(scope="module")
def server():
    """A server that serves a permissive schema to anyone who asks, and remembers that they asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/schema", asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def outside(url):
    return [
        {"$ref": url},
        {"properties": {"a": {"$ref": url + "#/x"}}},
        {"$dynamicRef": url + "#x"},
        {"$recursiveRef": url},
        {"$schema": url},
        {"$id": url, "$ref": "other"},
        {"$id": url, "properties": {"a": {"$id": "b", "$ref": "#"}}},
        {"properties": {"a": {"$id": url, "type": "string"}}},
        {"unknown": {"$ref": url}, "$ref": "#/unknown"},
        {"enum": [{"$ref": url}], "$ref": "#/enum/0"},
        {"dependencies": {"a": {"$ref": url}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"$ref": url}]},
        {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"id": url, "$ref": "b"}}},
        {"$defs": {"unused": {"$ref": url}}},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$ref": "/etc/passwd"},
        {"$ref": "//host/share"},
        {"$ref": 5},
    ]


def test_a_reference_outside_the_document_is_refused_and_nothing_is_fetched(server, tmp_path):
    url, asked = server
    file = tmp_path / "x.json"
    file.write_text("{}")
    for definition in [*outside(url), *outside("file://" + quote(str(file)))]:
        with pytest.raises(SchemaError) as caught:
            Schema.compile(definition)
        assert caught.value.code == "invalid_schema"
    assert asked == []


def test_references_inside_the_document_work():
    schema = Schema.compile(
        {
            "$id": "https://example.org/root",
            "$defs": {"n": {"type": "integer"}, "a/b": {"$anchor": "q", "type": "string"}},
            "properties": {
                "n": {"$ref": "#/$defs/n"},
                "s": {"$ref": "#/$defs/a~1b"},
                "q": {"$ref": "#q"},
                "child": {"$ref": "#"},
                "$ref": {"type": "boolean"},
                "x": {"const": {"$ref": "http://nowhere.example/"}},
            },
        }
    )
    assert schema.is_valid({"n": 1, "s": "x", "q": "x", "child": {"n": 2}, "$ref": True})
    for bad in ({"n": "1"}, {"s": 1}, {"q": 1}, {"child": {"child": {"n": "x"}}}, {"$ref": 1}, {"x": 1}):
        assert not schema.is_valid(bad)


@pytest.mark.parametrize(
    "definition",
    [
        [],
        "x",
        None,
        True,
        {"type": "objekt"},
        {"type": 5},
        {"pattern": "("},
        {"$ref": "#/nowhere"},
        {"properties": []},
        {"required": "a"},
        {"x": b"bytes"},
        {"x": object()},
        {"enum": "ab"},
        {"minimum": "1"},
        {1: 2},
    ],
)
def test_what_is_not_a_schema_is_an_error(definition):
    with pytest.raises(SchemaError):
        Schema.compile(definition)


def test_older_drafts_keep_their_meaning_when_they_are_named():
    definition = {"items": [{"type": "string"}], "additionalItems": False}
    old = Schema.compile({"$schema": "http://json-schema.org/draft-07/schema#", **definition})
    assert old.is_valid(["a"])
    assert not old.is_valid(["a", "b"])
    with pytest.raises(SchemaError):
        Schema.compile(definition)


def test_limits_hold_at_the_limit():
    limits = Limits(schema_bytes=17, depth=3)
    Schema.compile({"type": "object"}, limits=limits)
    with pytest.raises(SchemaError, match="schema_bytes"):
        Schema.compile({"type": "object", "$comment": ""}, limits=limits)
    Schema.compile({"properties": {"a": {}}}, limits=Limits(depth=3))
    with pytest.raises(SchemaError, match="deeper than 3"):
        Schema.compile({"properties": {"a": {"not": {}}}}, limits=Limits(depth=3))


def doubling(levels):
    defs = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": defs | {f"a{levels}": {"type": "object"}}}


def test_references_that_double_at_each_level_are_refused():
    Schema.compile(doubling(10))
    for levels in (20, 60):
        with pytest.raises(SchemaError, match="subschemas"):
            Schema.compile(doubling(levels))


def test_a_long_chain_of_references_is_refused_and_does_not_overflow_a_stack():
    defs = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(20_000)} | {"a20000": {}}
    with pytest.raises(SchemaError, match="deeper"):
        Schema.compile({"$ref": "#/$defs/a0", "$defs": defs})


def test_circles_of_references_end():
    for definition in ({"$ref": "#"}, {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"not": {"$ref": "#"}}):
        schema = Schema.compile(definition)
        assert schema.is_valid({}) in (True, False)
    tree = Schema.compile({"properties": {"a": {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}]}}})
    value = {}
    for _ in range(60):
        value = {"a": value}
    assert tree.is_valid(value)


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|aa)+(?!x)$", "(a*)*\\1(b)", "(.*a){20}(?=b)"])
def test_catastrophic_patterns_end_and_a_value_at_the_bound_is_invalid(pattern):
    schema = Schema.compile({"type": "object", "additionalProperties": {"pattern": pattern}})
    value = {"k": "a" * 50_000 + "!"}
    assert not schema.is_valid(value)
    assert "aaaa" not in str(schema.errors(value))


def test_reaching_the_bound_never_turns_a_no_into_a_yes():
    # The pattern does match `aaaa...c`, but only beyond the bound: under `not` that must not become "valid".
    pattern = "^(?:(?:a|aa)+b|a*c)(?!x)$"
    value = "a" * 60 + "c"
    for definition in (
        {"not": {"pattern": pattern}},
        {"if": {"pattern": pattern}, "then": False},
        {"not": {"anyOf": [{"pattern": pattern}]}},
    ):
        assert not Schema.compile(definition).is_valid(value)
    assert not Schema.compile({"patternProperties": {pattern: False}}).is_valid({value: 1})


def test_values_that_are_not_json_are_invalid_and_never_raise():
    schema = Schema.compile({"type": "object", "additionalProperties": {"type": "string"}})
    deep = {}
    for _ in range(5_000):
        deep = {"a": deep}
    for value in ({"a": b"x"}, {1: 2}, {"a": object()}):
        assert not schema.is_valid(value)
        assert [path for path, _ in schema.errors(value)] == ["$"]
    nested = Schema.compile({"properties": {"a": {"$ref": "#"}}})
    assert nested.is_valid(deep) in (True, False)


SECRET = "s3cr3t-value that must not be shown"
EVERY_KEYWORD = {
    "type": "object",
    "properties": {
        "type": {"type": "integer"},
        "enum": {"enum": [1, 2]},
        "const": {"const": 1},
        "maxLength": {"maxLength": 3},
        "pattern": {"pattern": "^[0-9]+$"},
        "not": {"not": {"type": "string"}},
        "anyOf": {"anyOf": [{"type": "integer"}, {"maxLength": 2}]},
        "oneOf": {"oneOf": [{"type": "string"}, {"minLength": 1}]},
        "contains": {"contains": {"type": "integer"}},
        "unique": {"uniqueItems": True},
        "items": {"items": {"type": "integer"}},
        "prefix": {"prefixItems": [{}], "items": False},
        "uneval": {"prefixItems": [{}], "unevaluatedItems": False},
        "closed": {"properties": {"a": {}}, "additionalProperties": False},
        "unevalp": {"properties": {"a": {}}, "unevaluatedProperties": False},
        "names": {"propertyNames": {"maxLength": 3}},
        "open": {"additionalProperties": {"type": "integer"}},
        "few": {"maxProperties": 0},
        "false": False,
    },
}
BREAKING = {
    **dict.fromkeys(("type", "enum", "const", "maxLength", "pattern", "not", "anyOf", "oneOf", "false"), SECRET),
    **{key: [SECRET] for key in ("contains", "items")},
    **{key: [SECRET, SECRET] for key in ("unique", "prefix", "uneval")},
    **{key: {SECRET: SECRET} for key in ("closed", "unevalp", "names", "open", "few")},
}


@pytest.mark.parametrize("keyword", sorted(BREAKING))
def test_a_message_never_holds_the_offending_value(keyword):
    errors = Schema.compile(EVERY_KEYWORD).errors({keyword: BREAKING[keyword]})
    assert errors
    assert all(path.startswith(f"$.{keyword}") for path, _ in errors)
    assert "s3cr3t" not in str(errors)


def test_errors_name_the_place_and_the_nearest_known_property():
    schema = Schema.compile(
        {
            "type": "object",
            "properties": {"files": {"items": {"properties": {"mode": {"type": "integer"}}}}},
            "required": ["path"],
            "additionalProperties": False,
        }
    )
    found = schema.errors({"files": [{}, {"mode": "x"}], "fils": 1})
    assert ("$.files[1].mode", 'the value is not of type "integer"') in found
    assert ("$", "`path` is a required property") in found
    assert ("$", "unknown property `fils` (did you mean `files`?)") in found


def test_only_the_first_twenty_errors_are_reported():
    schema = Schema.compile({"items": {"type": "string"}})
    assert len(schema.errors([1] * 1000)) == 20


def test_marks_are_found_at_any_depth_and_through_references():
    definition = {
        "$defs": {"p": {"type": "string", "x-interlock": "path.read"}},
        "properties": {
            "one": {"$ref": "#/$defs/p"},
            "many": {"type": "array", "items": {"$ref": "#/$defs/p"}},
            "deep": {"properties": {"list": {"items": {"properties": {"to": {"x-interlock": "path.write"}}}}}},
            "maybe": {"anyOf": [{"type": "null"}, {"x-interlock": "host"}]},
            "pair": {"prefixItems": [{}, {"x-interlock": "secret"}]},
            "map": {"properties": {"mode": {}}, "additionalProperties": {"x-interlock": "path.read"}},
            "with/slash": {"x-interlock": "host"},
            "x-interlock": {"type": "string"},
            "data": {"default": {"x-interlock": "whatever"}},
        },
    }
    assert marks(definition) == (
        ("/deep/list/*/to", "path.write"),
        ("/many/*", "path.read"),
        ("/map/*", "path.read"),
        ("/maybe", "host"),
        ("/one", "path.read"),
        ("/pair/1", "secret"),
        ("/with~1slash", "host"),
    )


@pytest.mark.parametrize(
    "definition",
    [
        {"properties": {"a": {"x-interlock": "path"}}},
        {"properties": {"a": {"x-interlock": ["path.read"]}}},
        {"properties": {"a": {"x-interlock": None}}},
        {"propertyNames": {"x-interlock": "path.read"}},
        {"$defs": {"unused": {"x-interlock": "path.read"}}},
        {"properties": {"path": {"x-interlock": "path.read"}, "child": {"$ref": "#"}}},
        {
            "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}, "p": {"x-interlock": "host"}}}},
            "$ref": "#/$defs/n",
        },
    ],
)
def test_a_mark_that_could_not_be_honoured_is_an_error(definition):
    with pytest.raises(SchemaError):
        marks(definition)


def test_a_recursive_schema_without_marks_is_fine():
    assert marks({"properties": {"child": {"$ref": "#"}}}) == ()
    both = {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "properties": {"t": {"$ref": "#/$defs/t"}}}
    both["properties"]["p"] = {"x-interlock": "host"}
    assert marks(both) == (("/p", "host"),)


keywords = st.sampled_from(
    ["type", "properties", "items", "$ref", "$defs", "anyOf", "not", "$id", "$anchor", "pattern", "enum", "x-interlock",
     "additionalProperties", "prefixItems", "$dynamicRef", "required", "propertyNames"]
)  # fmt: skip
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["object", "#", "#/$defs/a", "path.read", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keywords | st.sampled_from("ab"), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(anything, anything)
def test_any_json_value_is_a_schema_or_a_clear_error(definition, value):
    try:
        schema = Schema.compile(definition)
    except SchemaError:
        return
    assert schema.is_valid(value) == (schema.errors(value) == [])
    with contextlib.suppress(SchemaError):
        marks(definition)


def test_defaults_are_found_at_any_depth_where_there_is_only_one_form():
    definition = {
        "$defs": {"o": {"properties": {"force": {"default": True}, "again": {"$ref": "#/$defs/o"}}}},
        "properties": {
            "plain": {"default": 5},
            "nothing": {"default": None},
            "object": {"$ref": "#/$defs/o", "default": {}},
            "maybe": {"anyOf": [{"$ref": "#/$defs/o"}, {"type": "null"}]},
            "many": {"items": {"allOf": [{"$ref": "#/$defs/o"}]}},
            "either": {"oneOf": [{"$ref": "#/$defs/o"}, {"type": "string"}]},
        },
    }
    assert defaults(definition) == {
        ("plain",): 5,
        ("object",): {},
        ("object", "force"): True,
        ("maybe", "force"): True,
        ("many", "*", "force"): True,
    }


def test_schemas_that_all_name_each_other_hide_no_default_beside_them():
    names = [f"n{number}" for number in range(12)]
    each = {"properties": {name: {"$ref": f"#/$defs/{name}"} for name in names}}
    definition = {
        "$defs": {name: {**each} for name in names},
        "properties": {
            "before": {"properties": {"force": {"default": True}}},
            "tree": {"$ref": "#/$defs/n0"},
            "after": {"default": 5},
        },
    }
    assert defaults(definition) == {("after",): 5, ("before", "force"): True}
