"""A program that takes what the capsule hands on, and talks back."""

import interlock


async def answer(runtime: interlock.Runtime) -> None:
    seen = runtime.bus.subscribe("notes.saved")
    await runtime.bus.publish("notes.wanted", "b.txt")  # `on_message`
    async for message in runtime.inbound():  # what `hand-on` gave
        await runtime.send(message.uplink, message.user, "thank you")  # `on_outbound`
        print(message.content, runtime.bus.poll(seen))
