"""A Python 3.11 that spoils its own structures in the way its argument names, and then sleeps in one call of C."""

import ctypes
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def word(address):
    return ctypes.c_uint64.from_address(address)


def trap():
    """Memory whose first use waits for somebody who never comes."""
    page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
    fd = libc.syscall(323, 0o2000000)
    api = (ctypes.c_uint64 * 3)(0xAA, 0, 0)
    register = (ctypes.c_uint64 * 4)(page, 4096, 1, 0)
    for request, argument in ((0xC018AA3F, api), (0xC020AA00, register)):
        if libc.ioctl(fd, ctypes.c_ulong(request), argument) != 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
    return page


runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
interpreter = word(runtime + 40).value
thread = word(interpreter + 16).value
cframe = word(thread + 56).value
frame = word(cframe + 8).value
code = id(sys._getframe().f_code)
name = id(sys._getframe().f_code.co_qualname)
table = word(code + 136).value
garbage = ctypes.create_string_buffer(bytes(range(256)) * 256, 65536)
made_up = ctypes.addressof(garbage)
# A frame that is its own predecessor.
ring = (ctypes.c_uint64 * 16)()
around = ctypes.addressof(ring)
for at, value in ((4, code), (6, around), (7, code + 184)):
    ring[at] = value
assert sys.version_info[:2] == (3, 11), "the offsets here are those of 3.11"

spoil = {
    "nothing": [],
    "thread_ring": [(thread + 8, thread)],
    "thread_elsewhere": [(interpreter + 16, made_up)],
    "interpreter_ring": [(interpreter, interpreter)],
    "interpreter_elsewhere": [(runtime + 40, made_up)],
    "frame_ring": [(cframe + 8, around)],
    "frame_elsewhere": [(cframe + 8, made_up)],
    "frame_in_the_kernel": [(cframe + 8, 0xFFFF888000000000)],
    "frame_unmapped": [(cframe + 8, 0x1000)],
    "code_elsewhere": [(frame + 32, made_up)],
    "long_name": [(name + 16, 1 << 62)],
    "long_table": [(table + 16, 1 << 40)],
    "control_characters": [(name + 48, 0x0A0D1B5B324A0007)],
    "trap": None,
}[sys.argv[1]]
if spoil is None:
    spoil = [(thread + 56, trap())]

sleep, write = libc.sleep, libc.write
writes = [(word(at), value) for at, value in spoil]
sys.stdout.flush()


def go(writes):
    # As little Python as possible: from the first write on, the interpreter may not make it far.
    for place, value in writes:
        place.value = value
    write(1, b"ready\n", 6)
    sleep(1000)  # here


go(writes)
