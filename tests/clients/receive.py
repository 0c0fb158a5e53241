"""Receives with Python's websockets: prints every frame as a line; after a MESSAGE it pings, and closes at the PONG.

Usage: receive.py URL CA TOKEN INSTANCE. The token goes into a header.
"""

import asyncio
import json
import ssl
import sys

import websockets


async def main(url: str, ca: str, token: str, instance: str) -> None:
    headers = {"authorization": f"Bearer {token}", "instance": instance}
    trust = ssl.create_default_context(cafile=ca)
    async with websockets.connect(url, ssl=trust, additional_headers=headers) as socket:
        async for text in socket:
            print(text, flush=True)
            kind = json.loads(text)["type"]
            if kind == "MESSAGE":
                await (await socket.ping())
                await socket.send(json.dumps({"type": "PING"}))
            if kind == "PONG":
                return


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), timeout=30))
