"""An agent on openai-agents: `openai_agent.py URL`. Six runs in one process, each with the program's own hooks."""

import asyncio
import sys

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunHooks,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)


class Own(RunHooks):
    async def on_tool_end(self, context, agent, tool, result):
        print("own hook:", tool.name, flush=True)


@function_tool
def add(a: int, b: int) -> int:
    return a + b


@function_tool
def divide(a: int, b: int) -> float:
    return a / b


@function_tool(failure_error_function=None)
def explode(a: int) -> int:
    raise RuntimeError("boom")


@function_tool(timeout=0.05)
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


def agent(shape):
    client = AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
    return Agent(name="a", model=shape(model="fake", openai_client=client), tools=[add, divide, explode, sleep])


async def stream(prompt):
    result = Runner.run_streamed(agent(OpenAIResponsesModel), prompt, hooks=Own())
    async for _ in result.stream_events():
        pass
    return result.final_output


async def once(prompt, shape=OpenAIResponsesModel):
    try:
        return (await Runner.run(agent(shape), prompt, hooks=Own())).final_output
    except Exception as error:
        return type(error).__name__


print("async", asyncio.run(once("go")))
print("chat", asyncio.run(once("go", OpenAIChatCompletionsModel)))
print("sync", Runner.run_sync(agent(OpenAIResponsesModel), "go", hooks=Own()).final_output)
print("stream", asyncio.run(stream("go")))
print("late", asyncio.run(once("late")))
print("boom", asyncio.run(once("boom")))
