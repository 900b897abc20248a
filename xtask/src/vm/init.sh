#!/bin/busybox sh
# The first and only process of the test machine: makes a user space, runs the kernel tests, reports, powers off.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=dumb RUST_BACKTRACE=1 LOOPWARDEN_BIN=/bin/loopwarden

# What the kernel has unpacked is no root that a container runtime can pivot away from: on to one that is mounted.
if [ "$1" != moved ]; then
    mkdir /moved
    mount -t tmpfs tmpfs /moved
    for name in /*; do [ "$name" = /moved ] || cp -a "$name" /moved/; done
    exec switch_root /moved /init moved
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
exec </dev/null >/dev/console 2>&1

# The host knows a report from anything else on the console by this run's own word.
for word in $(cat /proc/cmdline); do
    case $word in loopwarden.word=*) report=${word#*=} ;; esac
done
export LOOPWARDEN_VM=$(uname -r)

set --
while IFS= read -r arg; do
    set -- "$@" "$arg"
    # Asked for by name, they run alone: beside all others an emulated processor has too little time for them.
    case $arg in containers::*) export LOOPWARDEN_RUNC=1 ;; esac
done </etc/test-args

echo "$report booted $LOOPWARDEN_VM"
kernel-tests "$@"
status=$?
# On a line of its own, whatever the tests left unfinished.
echo
echo "$report exit $status"
# The host ends the machine when it has read the line: reboot is what qemu takes for the end (-no-reboot).
reboot -f
