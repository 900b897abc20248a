"""An event loop that answers probes, and stalls when it is told to: GET /stall/30,30 blocks it for 30 s, lets it poll once, and blocks it again."""

import asyncio
import sys
import time

PORT = int(sys.argv[1])


async def stall(lengths):
    for length in lengths:
        time.sleep(length)  # BLOCKS HERE
        # One moment of air: the loop polls, and answers what has come in meanwhile.
        await asyncio.sleep(0.001)


async def serve(reader, writer):
    path = (await reader.readline()).decode().split(" ")[1]
    while (await reader.readline()).strip():
        pass
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    if path.startswith("/stall/"):
        asyncio.ensure_future(stall([float(length) for length in path.removeprefix("/stall/").split(",")]))


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", PORT)
    async with server:
        await server.serve_forever()


asyncio.run(main())
