#!/bin/bash
# Boots a real systemd on a tree (/ is this host's own) under an overlay, which goes with it.
#   boot.sh NAME DIRECTORY TREE: DIRECTORY/files is laid over the guest's root; ends when the guest does
# Needs root, systemd-nspawn, and cgroups that can be written to. The guest has a loopback only.
set -eu
name=$1 directory=$2 tree=$3
if [ "${BOOTING:-}" != 1 ]; then
  BOOTING=1 exec unshare --mount --propagation private "$0" "$@"
fi
# nspawn wants a cgroup of its own: in the hierarchies of a mixed host, or in the only one.
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
  [ -e $hierarchy/cgroup.procs ] || continue
  mkdir -p "$hierarchy/$name"
  echo $$ >"$hierarchy/$name/cgroup.procs"
done
mkdir "$directory/memory"
mount -t tmpfs -o size=1g tmpfs "$directory/memory"
root=$directory/memory/root
mkdir "$root" "$directory/memory/upper" "$directory/memory/work"
mount -t overlay overlay "$root" \
  -o "lowerdir=$tree,upperdir=$directory/memory/upper,workdir=$directory/memory/work"
# Nothing of the host's own services, and a machine of its own.
rm -f "$root"/etc/systemd/system/{multi-user,timers,sysinit,getty}.target.wants/*
: >"$root/etc/machine-id"
cp -rT "$directory/files" "$root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --directory="$root" --machine="$name" --boot --register=no --keep-unit \
  --private-network --link-journal=no --resolv-conf=off --timezone=off --console=pipe \
  --kill-signal=SIGRTMIN+3 systemd.unit=multi-user.target "systemd.machine=$name"
