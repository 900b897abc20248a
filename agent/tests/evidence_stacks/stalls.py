"""A loop that stalls in the way its first argument names. The line that blocks is marked; `asyncio` or `uvloop` is the second argument."""

import asyncio
import concurrent.futures
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time


def ready(tid=None):
    sys.stdout.write("ready %d\n" % (tid or 0))
    sys.stdout.flush()


class PrismaWrapper:
    def __getattr__(self, name):
        ready()
        return concurrent.futures.Future().result()  # here future


def held(lock, took):
    with lock:
        took.set()
        time.sleep(1000)  # here holder


def greedy():
    # One call of C that holds the interpreter lock for minutes.
    re.match("(a+)+$", "a" * 40 + "b")  # here greedy


def counted(n):
    return n + 1


def odd(n):
    return even(n - 1) if n else 0


def even(n):
    return odd(n - 1) if n else 0


class Stalls:
    async def sleep(self):
        ready()
        time.sleep(1000)  # here sleep

    async def future(self):
        PrismaWrapper().query

    async def recv(self):
        ours, self.theirs = socket.socketpair()
        ready()
        ours.recv(10)  # here recv

    async def timed_recv(self):
        ours, self.theirs = socket.socketpair()
        ours.settimeout(1000)
        ready()
        ours.recv(10)  # here timed_recv

    async def popen(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        ready(child.pid)
        child.wait()  # here popen

    async def json(self):
        document = json.dumps([[n, str(n)] for n in range(100000)])
        ready()
        while True: json.loads(document)  # here json

    async def spin(self):
        ready()
        n = 0
        while n >= 0: n = n + 1  # here spin

    async def calls(self):
        ready()
        n = 0
        while n >= 0: n = counted(n)  # here calls

    async def churn(self):
        def threads():
            while True:
                thread = threading.Thread(target=odd, args=(20,))
                thread.start()
                thread.join()

        threading.Thread(target=threads, daemon=True).start()
        ready()
        while True: odd(30)

    async def generator(self):
        def lines():
            yield 1
            ready()
            time.sleep(1000)  # here generator

        return sum(n for n in lines())

    async def rlock(self):
        lock, took = threading.RLock(), threading.Event()
        thread = threading.Thread(target=held, args=(lock, took), daemon=True)
        thread.start()
        took.wait()
        ready()
        with lock:  # here rlock
            pass

    async def acquired(self):
        lock, took = threading.RLock(), threading.Event()
        thread = threading.Thread(target=held, args=(lock, took), daemon=True)
        thread.start()
        took.wait()
        ready()
        lock.acquire()  # here acquired

    async def gil(self):
        thread = threading.Thread(target=greedy, daemon=True)
        ready()
        thread.start()  # here gil
        raise AssertionError("the other thread gave the interpreter lock away")

    async def deep(self):
        def down(n):
            if n:
                return down(n - 1)
            ready()
            time.sleep(1000)  # here deep

        return down(500)


async def task(name):
    await getattr(Stalls(), name)()


async def main(name):
    await asyncio.get_running_loop().create_task(task(name))


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        uvloop.run(main(sys.argv[1]))
    else:
        asyncio.run(main(sys.argv[1]))
