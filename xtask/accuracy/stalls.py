"""Stalls of real Python event loops, each with the truth about it: `stalls.py asyncio|uvloop CASE FOLDER`.

The program prints `{"ready": true}` once its loop runs, plays its case when stdin says `go`, prints what is true of the stall
right before it begins (`began`) and when it is over (`ended`), and ends when stdin is closed. Times are CLOCK_MONOTONIC.
A case prepares its stall up to its `yield`. A line with `BLOCKS HERE` is where this program's own code stands during the stall;
`frames` names the innermost frame, which for a call into the standard library lies there.
"""

import asyncio
import concurrent.futures
import ctypes
import fcntl
import hashlib
import http.client
import inspect
import json
import mmap
import os
import re
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time

HOLD = 1.5
TICK = 0.02
MARK = "BLOCKS HERE"


def say(**what):
    os.write(1, (json.dumps(what) + "\n").encode())


def at(function, *texts):
    """The frames that stand in `function` on a line with one of the texts; on any line if there is none."""
    function = inspect.unwrap(function)
    code = function.__code__
    lines, first = inspect.getsourcelines(function)
    return [
        {"function": code.co_name, "file": code.co_filename, "line": first + number}
        for number, line in enumerate(lines)
        if not texts or any(text in line for text in texts)
    ]


def method(kind, name):
    """A method that only some versions of Python have."""
    return getattr(kind, name, None)


class Box:
    """Tells the truth about one stall."""

    def __init__(self, folder, runner):
        self.folder = folder
        self.runner = runner
        self.loop = asyncio.get_running_loop()
        self.deferred = False

    def prepare(self, case):
        """Looks up what `begin` will say: reading source files takes its time."""
        self.own, self.handler = at(case, MARK), at(handle, MARK)

    def begin(self, frames=None, handler=True, start=None, **truth):
        """`start` sets off what is to disturb the loop some moments later."""
        self.thread_cpu, self.process_cpu = time.thread_time_ns(), time.process_time_ns()
        if start:
            start()
        self.began = time.monotonic_ns()
        frames = self.own if frames is None else frames
        outer = self.own + self.handler if handler else []
        say(began=self.began, frames=frames, outer=outer, **truth)
        # Where a busy machine held it up on the way here, what was said is not true of that time.
        self.told = time.monotonic_ns()

    def end(self):
        now = time.monotonic_ns()
        say(
            ended=now,
            told_ms=(self.told - self.began) / 1e6,
            thread_cpu_ms=(time.thread_time_ns() - self.thread_cpu) / 1e6,
            process_cpu_ms=(time.process_time_ns() - self.process_cpu) / 1e6,
        )

    def give_up(self, why):
        """This is not the stall that it was to be."""
        say(ended=time.monotonic_ns(), thread_cpu_ms=0, process_cpu_ms=0, spoiled=why)

    def path(self, name):
        return os.path.join(self.folder, name)

    def polling(self):
        """The innermost frame of a loop that is inside its poller."""
        if self.runner == "uvloop":
            return at(main, "run_until_complete")
        return at(selectors.EpollSelector.select, "_selector.poll(")

    def end_later(self, seconds):
        """The stall is not this handler's: the loop goes on."""
        self.deferred = True
        self.loop.call_later(seconds, self.end)


def child(work):
    """Another process, which says through a pipe when it is ready and ends with `work`."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            work(lambda: os.write(tell, b"x"))
        finally:
            os._exit(0)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    return pid


def sleeper(seconds=HOLD):
    return subprocess.Popen(["sleep", str(seconds)], stdin=subprocess.DEVNULL)


def background(work):
    """Another thread, which has begun when this returns."""
    started = threading.Event()

    def run():
        started.set()
        work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    return thread


def burn(seconds):
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number = (number * 31 + 7) % 1_000_003
    return number


def numbers_for(seconds):
    """How many numbers this machine adds in so much processor time, without ever giving up the interpreter's lock."""
    start = time.thread_time()
    sum(range(2_000_000))
    return int(2_000_000 * seconds / (time.thread_time() - start))


# --- children


def child_pid(box):
    process = sleeper()
    yield
    box.begin(child=process.pid)
    os.waitpid(process.pid, 0)  # BLOCKS HERE


def child_any(box):
    process = sleeper()
    yield
    box.begin(child=process.pid)
    os.waitpid(-1, 0)  # BLOCKS HERE


def child_waitid(box):
    process = sleeper()
    yield
    box.begin(child=process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED)  # BLOCKS HERE


def pidfd_of(pid):
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return ctypes.CDLL(None, use_errno=True).syscall(434, pid, 0)  # Python 3.8


def child_pidfd(box):
    process = sleeper()
    poller = select.poll()
    poller.register(pidfd_of(process.pid), select.POLLIN)
    yield
    box.begin(child=process.pid)
    poller.poll()  # BLOCKS HERE


def child_popen(box):
    process = sleeper()
    frames = at(subprocess.Popen._try_wait, "os.waitpid(")
    yield
    box.begin(frames, child=process.pid)
    process.wait()  # BLOCKS HERE


def child_naps(box):
    process = sleeper()
    frames = at(subprocess.Popen._wait, "time.sleep(") + at(subprocess.Popen._try_wait, "os.waitpid(")
    yield
    box.begin(frames, child=process.pid)
    process.wait(timeout=HOLD * 4)  # BLOCKS HERE


def child_system(box):
    # The child's number is known to the C library only: whoever reads the lines finds it among the children.
    yield
    box.begin(child_is_only_child=True)
    os.system(f"exec sleep {HOLD}")  # BLOCKS HERE


# --- locks


def lock_future(box):
    """A coroutine on the very loop that waits for it: LiteLLM's deadlock."""
    frames = at(threading.Condition.wait, "waiter.acquire(True")
    yield
    future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), box.loop)
    box.begin(frames)
    try:
        future.result(timeout=HOLD)  # BLOCKS HERE
    except (concurrent.futures.TimeoutError, TimeoutError):
        pass


def held_lock():
    lock = threading.Lock()
    held = threading.Event()

    def hold():
        with lock:
            held.set()
            time.sleep(HOLD)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    return lock


def lock_lock(box):
    lock = held_lock()
    yield
    box.begin()
    lock.acquire()  # BLOCKS HERE


def lock_beside_worker(box):
    """A third thread computes without the interpreter's lock: it is not what the loop waits for."""
    lock = held_lock()
    data = bytes(1 << 24)

    def work():
        end = time.monotonic() + HOLD
        while time.monotonic() < end:
            hashlib.sha256(data)

    background(work)
    yield
    box.begin()
    lock.acquire()  # BLOCKS HERE


def lock_of_worker(box):
    """Whoever has the lock computes in Python: the loop waits for the lock, and would not run if it had the interpreter."""
    lock = threading.Lock()

    def work():
        with lock:
            held.set()
            burn(HOLD)

    held = threading.Event()
    threading.Thread(target=work, daemon=True).start()
    held.wait()
    yield
    box.begin()
    lock.acquire()  # BLOCKS HERE


def lock_join(box):
    thread = background(lambda: time.sleep(HOLD))
    old, new = method(threading.Thread, "_wait_for_tstate_lock"), threading.Thread.join
    frames = at(old, "lock.acquire(block") if old else at(new, "_handle.join(")
    yield
    box.begin(frames)
    thread.join()  # BLOCKS HERE


def lock_condition(box):
    condition = threading.Condition()
    frames = at(threading.Condition.wait, "waiter.acquire(True")
    with condition:
        yield
        box.begin(frames)
        condition.wait(HOLD)  # BLOCKS HERE


# --- the interpreter's own lock


def gil_native(box):
    """Another thread adds numbers in C and does not let go of the interpreter."""
    count = numbers_for(HOLD)
    go = threading.Event()

    def work():
        go.wait()
        time.sleep(0.05)
        sum(range(count))

    background(work)
    yield
    box.begin(start=go.set)
    time.sleep(0.1)  # BLOCKS HERE


def gil_python(box):
    """Another thread runs plain Python; only after the switch interval must it let go."""
    sys.setswitchinterval(HOLD)
    go = threading.Event()

    def work():
        go.wait()
        time.sleep(0.05)
        burn(HOLD * 2)

    background(work)
    yield
    box.begin(start=go.set)
    time.sleep(0.1)  # BLOCKS HERE
    sys.setswitchinterval(0.005)


def gil_convoy(box):
    """Every call that lets go of the interpreter costs a switch interval to get it back."""
    yield
    background(lambda: burn(HOLD + 0.2))
    box.begin()
    end = time.monotonic() + HOLD
    while time.monotonic() < end: os.stat("/")  # BLOCKS HERE


def gil_poll(box):
    """The loop comes back from its poller and does not get the interpreter."""
    # Counted on another moment's machine: it must not be done before the loop is to end it.
    count = numbers_for(HOLD * 1.4)

    frames = box.polling()
    loop = threading.get_ident()

    def work():
        time.sleep(0.2)
        box.begin(frames, handler=False)
        stands = sys._current_frames()[loop]
        place = (stands.f_code.co_filename, stands.f_lineno)
        if place not in [(frame["file"], frame["line"]) for frame in frames]:
            box.give_up(f"the loop was not in its poller, but at {place[0]}:{place[1]}")
            return
        sum(range(count))

    yield
    background(work)
    box.end_later(0.2 + HOLD)


# --- the network


def silent_server(family=socket.AF_INET, address="127.0.0.1"):
    """A server in a process of its own that accepts, never answers, and closes."""
    listener = socket.create_server((address, 0), family=family)

    def work(ready):
        ready()
        connection, _ = listener.accept()
        time.sleep(HOLD)
        connection.close()

    child(work)
    return listener.getsockname()[:2]


def shown(address):
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def net_recv_timeout(box):
    address = silent_server()
    connection = socket.create_connection(address)
    connection.settimeout(HOLD * 4)
    yield
    box.begin(peer=shown(address))
    connection.recv(1)  # BLOCKS HERE


def net_recv(box):
    address = silent_server(socket.AF_INET6, "::1")
    connection = socket.create_connection(address)
    connection.setblocking(True)
    yield
    box.begin(peer=shown(address))
    connection.recv(1)  # BLOCKS HERE


def net_select(box):
    """The old way to wait with a limit, as database drivers still do."""
    address = silent_server()
    connection = socket.create_connection(address)
    yield
    box.begin(peer=shown(address))
    select.select([connection], [], [], HOLD * 4)  # BLOCKS HERE


def net_connect(box):
    """The server's queue is full: the kernel answers no further greeting."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = listener.getsockname()
    waiting = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(address)
        waiting.append(filler)
    connection = socket.socket()
    connection.settimeout(HOLD)
    yield
    box.begin(peer=shown(address))
    try:
        connection.connect(address)  # BLOCKS HERE
    except OSError:
        pass


def net_http(box):
    address = silent_server()
    frames = at(socket.SocketIO.readinto, "recv_into(")
    client = http.client.HTTPConnection(*address, timeout=HOLD * 4)
    client.request("GET", "/")
    yield
    box.begin(frames, peer=shown(address))
    try:
        client.getresponse()  # BLOCKS HERE
    except (OSError, http.client.HTTPException):
        pass


def net_dns(box):
    """The machine's name server, which the harness has set to an address of this program's own, never answers."""
    with open("/etc/resolv.conf") as settings:
        address = re.search(r"^nameserver (\S+)", settings.read(), re.M).group(1)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    frames = at(socket.getaddrinfo, "_socket.getaddrinfo(")
    yield
    box.begin(frames, peer=f"{address}:53")
    try:
        socket.getaddrinfo("server.accuracy.test", 80)  # BLOCKS HERE
    except OSError:
        pass
    server.close()


# --- pipes, files, file locks


def starting():
    """Where a process stands until the child runs its program, which takes a busy machine its time."""
    return at(subprocess.Popen._execute_child, "fork_exec(", "os.read(errpipe_read")


def pipe_output(box):
    frames = at(subprocess.Popen.communicate, "self.stdout.read(") + starting()
    command = ["sleep", str(HOLD)]
    # The child's number is known only once it runs: whoever reads the lines finds it among the children.
    yield
    box.begin(frames, holder_is_only_child=True)
    subprocess.check_output(command)  # BLOCKS HERE


def pipe_communicate(box):
    frames = at(selectors.PollSelector.select, "_selector.poll(") + starting()
    yield
    box.begin(frames, holder_is_only_child=True)
    subprocess.run(["sleep", str(HOLD)], capture_output=True, timeout=HOLD * 4)  # BLOCKS HERE


def pipe_write(box):
    """The reader of a full pipe is busy with something else."""
    source, sink = os.pipe()

    def work(ready):
        os.close(sink)
        ready()
        time.sleep(HOLD)

    holder = child(work)
    os.close(source)
    os.set_blocking(sink, False)
    try:
        while True:
            os.write(sink, bytes(4096))
    except BlockingIOError:
        os.set_blocking(sink, True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    yield
    box.begin(holder=holder)
    try:
        os.write(sink, bytes(4096))  # BLOCKS HERE
    except BrokenPipeError:
        pass


def disk_read(box):
    path = box.path("slow/file")
    file = os.open(path, os.O_RDONLY)
    yield
    box.begin(file=path)
    os.read(file, 4096)  # BLOCKS HERE


def disk_open(box):
    """Even looking for the file takes this file system long."""
    yield
    box.begin()
    os.stat(box.path("slow/late"))  # BLOCKS HERE


def slow_device(box):
    with open(box.path("device")) as file:
        return file.read().strip()


def disk_fsync(box):
    path = slow_device(box)
    file = os.open(path, os.O_WRONLY)
    os.pwrite(file, b"x" * 4096, 2 << 20)
    yield
    box.begin(file=path)
    os.fsync(file)  # BLOCKS HERE


def disk_direct(box):
    """Past the page cache: the thread waits in the block layer itself."""
    path = slow_device(box)
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    yield
    box.begin(file=path)
    os.preadv(file, [buffer], 2 << 20)  # BLOCKS HERE


def lock_holder(path, lock):
    def work(ready):
        with open(path, "w") as file:
            lock(file)
            ready()
            time.sleep(HOLD)

    return child(work)


def file_flock(box):
    path = box.path("flock.lock")
    holder = lock_holder(path, lambda file: fcntl.flock(file, fcntl.LOCK_EX))
    file = open(path, "w")
    yield
    box.begin(file=path, holder=holder)
    fcntl.flock(file, fcntl.LOCK_EX)  # BLOCKS HERE


def file_posix(box):
    path = box.path("posix.lock")
    holder = lock_holder(path, lambda file: fcntl.lockf(file, fcntl.LOCK_EX))
    file = open(path, "w")
    yield
    box.begin(file=path, holder=holder)
    fcntl.lockf(file, fcntl.LOCK_EX)  # BLOCKS HERE


# --- sleeping


def sleep(box):
    yield
    box.begin()
    time.sleep(HOLD)  # BLOCKS HERE


def sleep_beside_wait(box):
    """Another thread waits for a child, as LiteLLM's does all the time."""
    process = sleeper(HOLD * 2)
    background(process.wait)
    yield
    box.begin()
    time.sleep(HOLD)  # BLOCKS HERE


def sleep_after_wait(box):
    """A wait for a child that was given up before the stall is noticed, and then a sleep in the same iteration."""
    process = sleeper(HOLD * 2)
    yield
    try:
        process.wait(timeout=0.02)
    except subprocess.TimeoutExpired:
        pass
    box.begin()
    time.sleep(HOLD)  # BLOCKS HERE


def net_after_looks(box):
    """Looks at a child without a pause, as `send_signal` and `poll` make them, and then the network."""
    process = sleeper(HOLD * 2)
    address = silent_server(socket.AF_INET6, "::1")
    connection = socket.create_connection(address)
    connection.setblocking(True)
    yield
    for _ in range(3):
        process.poll()
    box.begin(peer=shown(address))
    connection.recv(1)  # BLOCKS HERE


def sleep_after_poll(box):
    """One look at a child is no wait for it."""
    process = sleeper(HOLD * 2)
    process.poll()
    yield
    box.begin()
    time.sleep(HOLD)  # BLOCKS HERE


# --- processors


def cpu_json(box):
    text = json.dumps([{"name": f"user {number}", "tags": ["a", "b"], "score": number / 7} for number in range(60_000)])
    # Taking the result apart again takes long, too, and happens on the line of the call.
    frames = at(json.JSONDecoder.raw_decode, "scan_once(") + at(cpu_json, MARK)
    yield
    box.begin(frames)
    end = time.monotonic() + HOLD
    while time.monotonic() < end: json.loads(text)  # BLOCKS HERE


def cpu_regex(box):
    pattern, text = re.compile(r"(a+)+$"), "a" * 21 + "b"
    yield
    box.begin()
    end = time.monotonic() + HOLD
    while time.monotonic() < end: pattern.match(text)  # BLOCKS HERE


def cpu_python(box):
    frames = at(burn)
    yield
    box.begin(frames)
    burn(HOLD)  # BLOCKS HERE


def use_processor(seconds, at_most):
    end, limit = time.thread_time() + seconds, time.monotonic() + at_most
    number = 0
    while time.thread_time() < end and time.monotonic() < limit:
        number = (number * 31 + 7) % 1_000_003
    return number


def starved_quota(box):
    """The harness has set a quota of 3 % of a processor."""
    frames = at(use_processor)
    yield
    box.begin(frames)
    use_processor(0.05, HOLD * 2)  # BLOCKS HERE


def starved_crowd(box):
    """Preferred processes want the one processor that this one may use."""
    processor = max(os.sched_getaffinity(0))

    def work(ready):
        os.sched_setaffinity(0, {processor})
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        ready()
        time.sleep(0.2)
        burn(HOLD)

    child(work)
    child(work)
    os.sched_setaffinity(0, {processor})
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    frames = at(use_processor)
    yield
    box.begin(frames)
    # Once the others are done it would simply compute.
    use_processor(0.5, HOLD)  # BLOCKS HERE


def starved_poll(box):
    """A neighbour uses up the quota of their common group: the loop cannot even return from its poller."""
    wait, go = os.pipe()

    def neighbour(ready):
        ready()
        os.read(wait, 1)
        # Not before the loop is back in its poller, or it starves on the way there.
        time.sleep(0.1)
        burn(HOLD * 2)

    child(neighbour)
    yield
    # What is left of the quota may end anywhere in one of the loop's ticks.
    box.begin([], handler=False, anywhere=True)
    os.write(go, b"x")
    box.end_later(HOLD * 2)


# --- memory, stops, and what has no name


def memory_limit(box):
    """The harness has limited the group's memory to little more than it uses now."""
    yield
    box.begin()
    bytearray(12 << 20)  # BLOCKS HERE


def idle(box):
    """The harness stops the process from outside."""
    frames = box.polling()
    yield
    box.begin(frames, handler=False)
    box.end_later(HOLD * 2)


def unknown_signal(box):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    yield
    box.begin()
    signal.sigtimedwait([signal.SIGUSR1], HOLD)  # BLOCKS HERE


def unknown_eventfd(box):
    """A poller inside the loop's iteration, on something that says nothing of who would wake it."""
    inner = select.epoll()
    inner.register(os.eventfd(0), select.EPOLLIN) if hasattr(os, "eventfd") else inner.register(socket.socketpair()[0])
    yield
    box.begin()
    inner.poll(HOLD)  # BLOCKS HERE


# --- the loop


async def handle(case, box):
    box.prepare(case)
    steps = case(box)
    next(steps)
    # What a case prepares is not part of the iteration that stalls.
    await asyncio.sleep(0.1)
    next(steps, None)  # BLOCKS HERE
    if not box.deferred:
        box.end()


async def serve(case, folder, runner):
    box = Box(folder, runner)
    over = asyncio.Event()

    def read():
        order = os.read(0, 64)
        if order == b"go\n":
            box.task = asyncio.ensure_future(handle(case, box))
        elif not order:
            over.set()

    box.loop.add_reader(0, read)
    say(ready=True, pid=os.getpid())
    while not over.is_set():
        await asyncio.sleep(TICK)


def main():
    runner, name, folder = sys.argv[1:]
    if runner == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(globals()[name], folder, runner))


main()
