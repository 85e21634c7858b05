"""A program that keeps the capsule running, receives its messages, and answers them."""

import asyncio

import interlock


async def answer(runtime: interlock.Runtime) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(runtime.capsules.run("courier"))  # calls `run`, until this is cancelled
        await runtime.bus.publish("notes.wanted", "b.txt")  # delivered to `on_message`
        async for message in runtime.inbound():  # messages that `hand-on` and `run` have sent
            print(f"{message.user}: {message.content}")
            await runtime.send(message.uplink, message.user, "thank you")  # delivered to `on_outbound`
