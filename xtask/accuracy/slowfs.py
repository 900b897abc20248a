"""A file system that takes its time: `slowfs.py FOLDER SECONDS`, mounted over FOLDER until stdin is closed.

It speaks the kernel's FUSE protocol on /dev/fuse, so that no library has to be installed. `file` answers every read late,
`late` is found late, and `disk`, meant to lie under a loop device, answers reads and writes between its second and third
mebibyte late. It prints `mounted` once it is.
"""

import ctypes
import errno
import os
import struct
import sys
import threading

LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 1, 2, 3, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 20, 25, 26, 27, 28, 29, 36, 42
ROOT, FILE, LATE, DISK = 1, 2, 3, 4
NAMES = {b"file": FILE, b"late": LATE, b"disk": DISK}
MIB = 1 << 20
SIZES = {FILE: MIB, LATE: 0, DISK: 8 * MIB}
DIRECT_IO = 1


def attributes(node):
    size = SIZES.get(node, 0)
    mode = 0o040755 if node == ROOT else 0o100666
    return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class FileSystem:
    def __init__(self, device, seconds):
        self.device, self.seconds = device, seconds
        self.disk = bytearray(SIZES[DISK])

    def serve(self):
        while True:
            try:
                request = os.read(self.device, 2 * MIB)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # not mounted any more
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            late, answer = self.answer(operation, node, request[40:])
            if late:
                threading.Timer(self.seconds, self.reply, [unique, answer]).start()
            else:
                self.reply(unique, answer)

    def reply(self, unique, answer):
        body, error = (b"", -answer) if isinstance(answer, int) else (answer, 0)
        try:
            os.write(self.device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
        except OSError:
            pass  # whoever asked is gone

    def answer(self, operation, node, body):
        """Whether the answer is to be late, and the answer: bytes, or an error number."""
        if operation == INIT:
            return False, struct.pack("<4I2H2I2HI7I", 7, 31, MIB, 0, 16, 12, MIB, 1, 256, 0, 0, *[0] * 7)
        if operation == LOOKUP:
            found = NAMES.get(body.rstrip(b"\0"))
            if found is None:
                return False, errno.ENOENT
            return found == LATE, struct.pack("<4Q2I", found, 0, 0, 3600, 0, 0) + attributes(found)
        if operation == GETATTR:
            return False, struct.pack("<QII", 3600, 0, 0) + attributes(node)
        if operation in (OPEN, OPENDIR):
            return False, struct.pack("<QII", 0, DIRECT_IO if node == FILE else 0, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = bytes(self.disk[offset : offset + size]) if node == DISK else bytes(size)
            return node == FILE or self.slow(offset), data
        if operation == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self.disk[offset : offset + size] = body[40 : 40 + size]
            return self.slow(offset), struct.pack("<II", size, 0)
        if operation == STATFS:
            return False, struct.pack("<5Q4I6I", 2048, 1024, 1024, 16, 8, 4096, 255, 4096, 0, *[0] * 6)
        if operation in (RELEASE, RELEASEDIR, FLUSH, FSYNC, READDIR):
            return False, b""
        return False, errno.ENOSYS

    @staticmethod
    def slow(offset):
        return 2 * MIB <= offset < 3 * MIB


def main():
    folder, seconds = sys.argv[1], float(sys.argv[2])
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"slowfs", os.fsencode(folder), b"fuse.slowfs", 0, options.encode()) != 0:
        sys.exit(f"cannot mount a FUSE file system on {folder}: {os.strerror(ctypes.get_errno())}")
    threading.Thread(target=FileSystem(device, seconds).serve, daemon=True).start()
    print("mounted", flush=True)
    sys.stdin.read()
    libc.umount2(os.fsencode(folder), 2)  # lazily


main()
