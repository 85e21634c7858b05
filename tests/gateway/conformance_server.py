"""A server on the official SDK with what the conformance suite calls, which it passes.

    conformance_server.py --http PORT_FILE    over streamable HTTP, under the suite's own names
    conformance_server.py --without PREFIX    over standard input and output: the tools of that prefix, without it

Behind the gateway the server `test` offers `simple_text`, which a client then sees as `test_simple_text`. The names, texts and
values are those that the suite expects.
"""

import asyncio
import base64
import json
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SOUND = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
CONFIRM = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}

server = MCPServer(
    "conformance", request_state_security=RequestStateSecurity(keys=[b"a key of the tests, which protects nothing"])
)


def embedded(uri: str, mime: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime, text=text))


def ask(message: str, schema: dict[str, Any] = NAME) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


@server.tool()
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@server.tool()
def test_image_content() -> list[ImageContent]:
    return [ImageContent(type="image", data=IMAGE, mime_type="image/png")]


@server.tool()
def test_audio_content() -> list[AudioContent]:
    return [AudioContent(type="audio", data=SOUND, mime_type="audio/wav")]


@server.tool()
def test_embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool()
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    return [
        TextContent(type="text", text="Multiple content types test:"),
        ImageContent(type="image", data=IMAGE, mime_type="image/png"),
        embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
    ]


@server.tool()
def test_error_handling() -> str:
    raise RuntimeError("This tool intentionally returns an error for testing")


@server.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    for step in (0, 50, 100):
        await ctx.report_progress(progress=step, total=100, message=f"Completed step {step} of 100")
        await asyncio.sleep(0.02)
    return "done"


@server.tool()
async def test_logging_tool(ctx: Context) -> str:
    await ctx.info("a log message")
    return "logged"


@server.tool()
async def test_reconnection(ctx: Context) -> str:
    await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return "Reconnection test completed"


# -- questions as older revisions ask them


class UserResponse(BaseModel):
    response: str


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


def one_of(*titled: tuple[str, str]) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titled]


class Enums(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["active", "inactive", "pending"]})  # noqa: N815
    titledSingle: str = Field(  # noqa: N815
        json_schema_extra={"oneOf": one_of(("low", "Low Priority"), ("medium", "Medium"), ("high", "High"))}
    )
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": ["read", "write", "execute"]}}
    )
    titledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"anyOf": one_of(("feature", "New Feature"), ("bug", "Bug Fix"))}}
    )
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={"enum": ["small", "medium", "large"], "enumNames": ["Small", "Medium", "Large"]}
    )


async def elicited(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    said = await ctx.elicit(message=message, schema=schema)
    content = said.data.model_dump_json() if said.action == "accept" else "{}"
    return f"action={said.action}, content={content}"


@server.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    return "User response: " + await elicited(ctx, message, UserResponse)


@server.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    return "Elicitation result: " + await elicited(ctx, "Please provide user information", Defaults)


@server.tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    return "Elicitation completed: " + await elicited(ctx, "Please select values", Enums)


@server.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    said = await ctx.session.create_message(messages=[message], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {said.content.text}"


# -- questions as 2026-07-28 asks them


def answers(ctx: Context) -> Any:
    return ctx.input_responses or {}


@server.tool()
async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    if "name" in answers(ctx):
        return "asked"
    await ctx.report_progress(progress=1, total=2)
    return InputRequiredResult(input_requests={"name": ask("What is your name?")})


@server.tool()
async def test_missing_capability(ctx: Context) -> str:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool requires the client 'sampling' capability",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "it is declared"


@server.tool()
async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    if "user_name" in answers(ctx):
        return f"Hello, {answers(ctx)['user_name'].content['name']}!"
    return InputRequiredResult(input_requests={"user_name": ask("What is your name?")})


@server.tool()
async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    if "capital_question" in answers(ctx):
        return f"Model said: {answers(ctx)['capital_question'].content.text}"
    return InputRequiredResult(input_requests={"capital_question": sample("What is the capital of France?")})


@server.tool()
async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    if "client_roots" in answers(ctx):
        return f"Client exposed {len(answers(ctx)['client_roots'].roots)} root(s)."
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


@server.tool()
async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    if "confirm" in answers(ctx) and ctx.request_state == "own":
        return "state-ok: confirmation received"
    return InputRequiredResult(input_requests={"confirm": ask("Please confirm", CONFIRM)}, request_state="own")


@server.tool()
async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    if answers(ctx).keys() >= {"user_name", "greeting", "client_roots"}:
        return "All inputs received."
    questions = {
        "user_name": ask("What is your name?"),
        "greeting": sample("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    return InputRequiredResult(input_requests=questions, request_state="several")


@server.tool()
async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    state, said = json.loads(ctx.request_state or "{}"), answers(ctx)
    if "name" in state and "step2" in said:
        return f"{state['name']} likes {said['step2'].content['color']}."
    if "step1" in said:
        color = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
        state = json.dumps({"name": said["step1"].content["name"]})
        return InputRequiredResult(input_requests={"step2": ask("Which color?", color)}, request_state=state)
    return InputRequiredResult(input_requests={"step1": ask("What is your name?")}, request_state="{}")


@server.tool()
async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    if ctx.request_state is not None:
        return "state-ok"
    return InputRequiredResult(input_requests={"confirm": ask("Please confirm", CONFIRM)}, request_state="first")


@server.tool()
async def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult:
    declared = ctx.client_capabilities
    wanted = {}
    if declared is None or declared.sampling is not None:
        wanted["sample"] = sample("Say hello")
    if declared is None or declared.elicitation is not None:
        wanted["ask"] = ask("What is your name?")
    return InputRequiredResult(input_requests=wanted, request_state="capabilities")


# -- definitions


@server.tool()
def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "<none>",  # noqa: PT028
) -> str:
    return f"region={region}"


@server.tool()
def json_schema_2020_12_tool() -> str:
    return "json_schema_2020_12_tool"


server._tool_manager._tools["json_schema_2020_12_tool"].parameters = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


# -- what the gateway does not pass on


@server.resource("test://static-text")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(IMAGE)


@server.resource("test://template/{id}/data", mime_type="application/json")
def template_data(id: str) -> str:  # noqa: A002 - the suite's name
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.prompt()
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's name
    resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


@server.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    image = ImageContent(type="image", data=IMAGE, mime_type="image/png")
    return [UserMessage(image), UserMessage("Please analyze the image above.")]


def rename(prefix: str) -> None:
    """Keep the tools and prompts of this prefix, under names without it."""
    for all_of_them in (server._tool_manager._tools, server._prompt_manager._prompts):
        kept = {name.removeprefix(prefix): one for name, one in all_of_them.items() if name.startswith(prefix)}
        all_of_them.clear()
        for name, one in kept.items():
            one.name = name
            all_of_them[name] = one


if "--http" in sys.argv:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    Path(sys.argv[sys.argv.index("--http") + 1]).write_text(str(listener.getsockname()[1]))
    app = server.streamable_http_app()
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])
else:
    rename(sys.argv[sys.argv.index("--without") + 1])
    server.run("stdio")
