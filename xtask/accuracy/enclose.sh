#!/bin/sh
# Starts a program where it is to be watched: enclose.sh [-c CGROUP]... [-b SOURCE TARGET]... [-n FOLDER] open|pid|root FOLDER COMMAND [ARG]...
#
#   -c  join this cgroup
#   -b  in `root`: SOURCE is there at TARGET
#   -n  the files of name resolution (resolv.conf, nsswitch.conf) are those of this folder
#
# Called inside the namespaces that the environment needs, so that all mounts end with them. In `root` the program's FOLDER is
# at /app, a path that leads there through the program's own root only.
set -eu

binds=
names=
while :; do
    case $1 in
    -c)
        echo $$ >"$2/cgroup.procs"
        shift 2
        ;;
    -b)
        binds="$binds $2:$3"
        shift 3
        ;;
    -n)
        names=$2
        shift 2
        ;;
    *) break ;;
    esac
done
environment=$1 folder=$2
shift 2

resolve_by() {
    for file in resolv.conf nsswitch.conf; do
        mount --bind "$names/$file" "$(readlink -f "$1/etc/$file")"
    done
}

case $environment in
open | pid)
    [ -z "$names" ] || resolve_by ""
    [ "$environment" = open ] || mount -t proc proc /proc
    ;;
root)
    # An overlay of tmpfs on the machine's root: nothing that happens here stays.
    room=/mnt
    mount -t tmpfs tmpfs $room
    mkdir $room/upper $room/work $room/root
    mount -t overlay overlay -o lowerdir=/,upperdir=$room/upper,workdir=$room/work $room/root
    for bind in $binds "$folder:/app"; do
        mkdir -p "$room/root${bind#*:}"
        mount --rbind "${bind%%:*}" "$room/root${bind#*:}"
    done
    cd $room/root
    mount -t proc proc proc
    mount --rbind /dev dev
    [ -z "$names" ] || resolve_by "$room/root"
    mkdir -p .outside
    pivot_root . .outside
    umount -l /.outside
    cd /app
    ;;
esac
exec "$@"
