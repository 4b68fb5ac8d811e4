#!/bin/bash
# A throwaway copy of this machine with its own systemd, for trying packages and units: an overlay over /, in namespaces of its own
# (mounts, processes, network with loopback alone), so nothing outside changes. Needs root, unshare, overlayfs and systemd.
#
#   packaging/box.sh start DIR [SHOWN...]   boot it; DIR is an empty or absent folder that keeps its state; the folders SHOWN
#                                           (FOLDER or FOLDER:PLACE) are in sight, read-only; /tmp and /run are empty in it
#   packaging/box.sh run DIR CMD...         run a command in it
#   packaging/box.sh stop DIR               end it and forget all it wrote
set -euo pipefail

clean_environment=(env -i container=lxc PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb)

# Runs as the first process of the new namespaces.
boot() {
    local dir=$1 root=$1/root device shown place
    shift
    mount -t tmpfs -o mode=755 tmpfs "$dir"
    mkdir -p "$dir"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$root"
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    else # the older arrangement: one tree a controller
        mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
        mkdir "$root"/sys/fs/cgroup/{systemd,memory,pids,unified}
        mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
        mount -t cgroup -o memory cgroup "$root/sys/fs/cgroup/memory"
        mount -t cgroup -o pids cgroup "$root/sys/fs/cgroup/pids"
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    fi
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    # Empty, or systemd-tmpfiles would empty it at boot, which takes its time in a full one.
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    for shown in "$@"; do
        place=$root${shown#*:}
        mkdir -p "$place"
        mount --bind "${shown%%:*}" "$place"
        mount -o remount,bind,ro "$place"
    done
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root"/dev/{shm,pts}
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    # Not chroot alone: inside one no user namespace can be made (PrivateUsers=).
    cd "$root"
    mkdir -p old-root
    pivot_root . old-root
    exec "${clean_environment[@]}" chroot . sh -c 'umount -l /old-root && rmdir /old-root &&
        exec /lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=0'
}

cgroups() { # the folders that the box gets in the machine's cgroup trees
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo "/sys/fs/cgroup/$1"
    else
        echo /sys/fs/cgroup/{systemd,memory,pids,unified}/"$1"
    fi
}

start() {
    local dir=$1 name one
    shift
    mkdir -p "$dir"
    name=jmmda-box-$$
    for one in $(cgroups "$name"); do
        mkdir "$one"
        echo $$ >"$one/cgroup.procs"
    done
    echo "$name" >"$dir.cgroup"
    unshare --mount --pid --net --uts --ipc --cgroup --fork --propagation private "$0" _boot "$dir" "$@" \
        </dev/null >"$dir.log" 2>&1 &
    for _ in $(seq 100); do
        sleep 0.1
        kill -0 $! 2>/dev/null || break
        pgrep -P $! >"$dir.pid" || continue
        # `degraded` is good enough: units of the machine that have no place in a box may fail.
        case "$(run "$dir" systemctl is-system-running 2>/dev/null || true)" in
        running | degraded)
            run "$dir" ip link set lo up 2>/dev/null || true
            return 0
            ;;
        esac
    done
    echo "box.sh: systemd did not come up:" >&2
    cat "$dir.log" >&2
    stop "$dir"
    return 1
}

run() {
    local dir=$1 pid
    shift
    pid=$(cat "$dir.pid")
    nsenter --target "$pid" --mount --pid --net --uts --ipc --cgroup --root --wd "${clean_environment[@]}" "$@"
}

stop() {
    local dir=$1 one pid
    pid=$(cat "$dir.pid" 2>/dev/null || true)
    if [ -n "$pid" ]; then
        kill -KILL "$pid" 2>/dev/null || true
        while [ -d "/proc/$pid" ]; do sleep 0.1; done
    fi
    for one in $(cgroups "$(cat "$dir.cgroup")"); do
        for _ in $(seq 30); do # the parent of the first process takes its time to go
            find "$one" -depth -type d -exec rmdir {} \; 2>/dev/null || true
            [ -d "$one" ] || break
            sleep 0.1
        done
    done
    rm -rf "$dir" "$dir.pid" "$dir.cgroup" "$dir.log"
}

case "${1-}" in
start)
    dir=$(realpath -m "$2")
    shift 2
    start "$dir" "$@"
    ;;
stop) stop "$(realpath -m "$2")" ;;
run)
    dir=$(realpath -m "$2")
    shift 2
    run "$dir" "$@"
    ;;
_boot)
    shift
    boot "$@"
    ;;
*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
