"""A server on the real prisma-client-py that starts its engine when told to, and counts by itself how often it is refused.

Arguments: a folder, and how many seconds the client waits for its engine. In the folder a file `go` is waited for, then the client
connects while a background job tries to write; `result.json` says how that went. It ends by SIGTERM.
"""

import asyncio
import collections
import datetime
import errno
import json
import os
import signal
import socket
import sys

REFUSED = collections.Counter()


def count_refusals():
    """Every socket of this program says so here when a connection of it is refused, whichever way it learns of it."""
    plain_connect, plain_option = socket.socket.connect, socket.socket.getsockopt
    peers = {}

    def refused(sock):
        peer = peers.get(sock.fileno())
        if peer is not None:
            REFUSED[peer] += 1

    def connect(sock, address):
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            peers[sock.fileno()] = f"{address[0]} {address[1]}"
        try:
            return plain_connect(sock, address)
        except ConnectionRefusedError:
            refused(sock)
            raise

    def option(sock, level, name, *rest):
        value = plain_option(sock, level, name, *rest)
        if (level, name, value) == (socket.SOL_SOCKET, socket.SO_ERROR, errno.ECONNREFUSED):
            refused(sock)
        return value

    socket.socket.connect, socket.socket.getsockopt = connect, option


async def writes(client, lost):
    """What runs before the engine listens has lost its data."""
    while True:
        try:
            await client.query_raw("SELECT 1")
            lost["written"] += 1
        except Exception:  # Whatever it is, the data is gone.
            lost["lost"] += 1
        await asyncio.sleep(0.05)


async def main(folder, timeout):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # Before: so that the first connection is made with everything loaded.
    from prisma import Prisma

    client = Prisma(datasource={"url": os.environ["DATABASE_URL"]})
    while not os.path.exists(os.path.join(folder, "go")):
        await asyncio.sleep(0.02)
    lost = collections.Counter()
    job = asyncio.create_task(writes(client, lost))
    try:
        await client.connect(timeout=datetime.timedelta(seconds=timeout))
        outcome = "connected"
        while not lost["written"]:
            await asyncio.sleep(0.02)
    except Exception as error:
        outcome = type(error).__name__
    job.cancel()
    result = {"outcome": outcome, "refused": REFUSED, "lost": lost["lost"]}
    place = os.path.join(folder, "result.json")
    with open(place + ".new", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.rename(place + ".new", place)
    await stop.wait()
    if client.is_connected():
        await client.disconnect()


count_refusals()
asyncio.run(main(sys.argv[1], float(sys.argv[2])))
