"""The official clients as an oracle: they send what we send, and read from the same server what we read."""

import warnings

import pytest
from inference_world import KEY, call, runtime
from model_server import serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import anthropic
    import openai
    from google import genai

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
ANSWER = '{"city": "Bern"}'
AUTHORITY = ("authorization", "x-api-key", "x-goog-api-key", "anthropic-version", "content-type")


def of_openai(server, *, schema, stream):
    client = openai.OpenAI(api_key=KEY, base_url=server.endpoint("openai-compatible"), max_retries=0)
    more = {}
    if schema:
        more["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    if stream:
        more |= {"stream": True, "stream_options": {"include_usage": True}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    with client:
        found = client.chat.completions.create(model="fast", messages=messages, max_tokens=50, **more)
        if not stream:
            return found.choices[0].message.content, (found.usage.prompt_tokens, found.usage.completion_tokens)
        parts = list(found)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    return text, (parts[-1].usage.prompt_tokens, parts[-1].usage.completion_tokens)


def of_anthropic(server, *, schema, stream):
    client = anthropic.Anthropic(api_key=KEY, base_url=server.endpoint("anthropic"), max_retries=0)
    more = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}} if schema else {}
    asked = {
        "model": "fast", "max_tokens": 50, "system": "Be brief.", "messages": [{"role": "user", "content": "What?"}],
    }  # fmt: skip
    with client:
        if stream:
            with client.messages.stream(**asked, **more) as events:
                found = events.get_final_message()
        else:
            found = client.messages.create(**asked, **more)
    return found.content[0].text, (found.usage.input_tokens, found.usage.output_tokens)


def of_google(server, *, schema, stream):
    client = genai.Client(api_key=KEY, http_options={"base_url": server.endpoint("google")})
    config = {"system_instruction": "Be brief.", "max_output_tokens": 50}
    if schema:
        config |= {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
    asked = {"model": "fast", "contents": "What?", "config": config}
    try:
        parts = (
            list(client.models.generate_content_stream(**asked))
            if stream
            else [client.models.generate_content(**asked)]
        )
    finally:
        client.close()
    usage = parts[-1].usage_metadata
    return "".join(part.text or "" for part in parts), (usage.prompt_token_count, usage.candidates_token_count)


CLIENTS = {"openai-compatible": of_openai, "anthropic": of_anthropic, "google": of_google}


def comparable(provider, seen, *, schema):
    """A request without what only one of the two says: names of programs, roles that are understood, the schema in words."""
    path, headers, body = seen
    body = dict(body)
    if provider == "google":
        body["systemInstruction"] = {"parts": body["systemInstruction"]["parts"]}
    if schema:  # ours stands in the system prompt too
        body = {key: value for key, value in body.items() if key not in ("system", "systemInstruction")}
        body["messages"] = [one for one in body.get("messages", ()) if one["role"] != "system"]
    return path, {name: headers.get(name) for name in AUTHORITY}, body


@pytest.mark.parametrize("schema", [False, True], ids=["text", "schema"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", CLIENTS)
def test_the_official_client_sends_and_reads_the_same(provider, stream, schema):
    with serving(ANSWER) as server:
        text, usage = CLIENTS[provider](server, schema=schema, stream=stream)
        with runtime(server, provider, stream=stream) as rt:
            parameters = {"schema": SCHEMA} if schema else {}
            ours = call(rt, "infer", prompt="What?", system="Be brief.", max_tokens=50, **parameters).output
        theirs, own = (comparable(provider, seen, schema=schema) for seen in server.seen)
    assert own == theirs
    assert text == ANSWER
    assert ours["value"] == {"city": "Bern"} if schema else ours["text"] == text
    assert (ours["usage"]["input_tokens"], ours["usage"]["output_tokens"]) == usage


def test_openai_reads_the_same_vectors():
    with serving() as server:
        with openai.OpenAI(api_key=KEY, base_url=server.endpoint("openai-compatible"), max_retries=0) as client:
            found = client.embeddings.create(model="fast", input=["a", "bbb"], encoding_format="float")
        with runtime(server) as rt:
            ours = call(rt, "embed", texts=["a", "bbb"]).output
        assert server.seen[0][2] == server.seen[1][2]
    assert [row.embedding for row in sorted(found.data, key=lambda row: row.index)] == ours["vectors"]


def test_google_reads_the_same_vectors():
    with serving() as server:
        client = genai.Client(api_key=KEY, http_options={"base_url": server.endpoint("google")})
        found = client.models.embed_content(model="fast", contents=["a", "bbb"])
        client.close()
        with runtime(server, "google") as rt:
            ours = call(rt, "embed", texts=["a", "bbb"]).output
        (path, _, theirs), (our_path, _, own) = server.seen
        assert our_path == path
        texts = [
            [part["text"] for one in body["requests"] for part in one["content"]["parts"]] for body in (theirs, own)
        ]
        assert texts[0] == texts[1]
    assert [one.values for one in found.embeddings] == ours["vectors"]
