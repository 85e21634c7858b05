"""An agent on google-genai: `google_agent.py URL`. The SDK calls the functions by itself; seven ways in one process."""

import asyncio
import sys

from google import genai
from google.genai import types


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def divide(a: int, b: int) -> float:
    """Divides."""
    return a / b


async def sleep(seconds: float) -> str:
    """Sleeps."""
    await asyncio.sleep(seconds)
    return "awake"


client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=sys.argv[1]))
config = types.GenerateContentConfig(tools=[add, divide])
also_async = types.GenerateContentConfig(tools=[add, divide, sleep])


async def ways_async():
    models, chats = client.aio.models, client.aio.chats
    print("async", (await models.generate_content(model="fake", contents="go", config=also_async)).text)
    stream = await models.generate_content_stream(model="fake", contents="go", config=also_async)
    print("async stream", "".join([chunk.text or "" async for chunk in stream]))
    print("async chat", (await chats.create(model="fake", config=also_async).send_message("go")).text)
    print("awake", (await models.generate_content(model="fake", contents="awake", config=also_async)).text)


print("sync", client.models.generate_content(model="fake", contents="go", config=config).text)
stream = client.models.generate_content_stream(model="fake", contents="go", config=config)
print("stream", "".join(chunk.text or "" for chunk in stream))
print("chat", client.chats.create(model="fake", config=config).send_message("go").text)
asyncio.run(ways_async())
