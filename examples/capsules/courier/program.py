"""A program that keeps the capsule running, takes what it hands on, and talks back."""

import asyncio

import interlock


async def answer(runtime: interlock.Runtime) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(runtime.capsules.run("courier"))  # `run`, until this is cancelled
        await runtime.bus.publish("notes.wanted", "b.txt")  # `on_message`
        async for message in runtime.inbound():  # what `hand-on` and `run` have sent
            print(f"{message.user}: {message.content}")
            await runtime.send(message.uplink, message.user, "thank you")  # `on_outbound`
