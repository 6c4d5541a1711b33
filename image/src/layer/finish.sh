# Run as root in the toolbox. $1: the work directory (root/ and the recipe's parts), $2: seconds since 1970.
# Takes out of the root what differs from build to build, and puts in what the recipe says.
set -eu
work=$1 epoch=$2
root=$work/root

# One pattern per line; they are relative to the root, so no absolute path of the host can be meant.
cd "$root"
while read -r pattern; do
  for path in .$pattern; do rm -rf -- "$path"; done
done <"$work/remove"

while read -r path; do mkdir -p -m 0755 ".$path"; done <"$work/directories"
number=0
while read -r mode path; do
  number=$((number + 1))
  rm -f ".$path"
  install -D -m "$mode" "$work/files/$number" ".$path"
done <"$work/files/list"
while read -r path target; do
  mkdir -p ".${path%/*}"
  ln -sfn "$target" ".$path"
done <"$work/links"

# The package database belongs to the root, not to the node's /var, which keeps what it once got.
if [ -d var/lib/dpkg ] && [ ! -L var/lib/dpkg ]; then
  mkdir -p usr/lib/sysimage
  mv var/lib/dpkg usr/lib/sysimage/dpkg
  ln -s ../../usr/lib/sysimage/dpkg var/lib/dpkg
fi
rm -f usr/lib/sysimage/dpkg/*-old usr/lib/sysimage/dpkg/lock* usr/lib/sysimage/dpkg/triggers/Lock

if [ -x usr/bin/systemd-hwdb ]; then
  rm -f etc/udev/hwdb.bin
  # It gives its file a name through /proc/self/fd.
  mount --bind /proc proc
  chroot . systemd-hwdb --usr update
  umount proc
fi

# Caches, logs, seeds, back-up copies, the build host's names.
rm -rf var/cache/* var/log/* var/tmp/* tmp/* run/* etc/hostname etc/.pwd.lock etc/*- etc/apt \
  var/lib/apt var/lib/pam/seen var/lib/systemd/random-seed var/lib/systemd/credential.secret root/.[a-z]* root/*
while read -r path; do case $path in /var/*) mkdir -p -m 0755 ".$path";; esac; done <"$work/directories"
find . -xdev \( -name '__pycache__' -o -name '*.dpkg-old' -o -name '*.dpkg-dist' -o -name '*.dpkg-new' \) -prune -exec rm -rf {} +

# Nobody logs in: root's password is locked, and the day of its last change is the recipe's.
if [ -f etc/shadow ]; then
  sed -i "s/^\([^:]*\):[^:]*:[^:]*:/\1:!*:$((epoch / 86400)):/" etc/shadow
fi

if [ -s "$work/kernels" ]; then
  mkdir -p usr/lib/modules
  while read -r release source; do
    target=usr/lib/modules/$release
    mkdir -p "$target"
    (cd "$source" && xargs -d '\n' cp --parents -t "$root/$target") <"$work/modules-$release"
    for index in modules.order modules.builtin modules.builtin.modinfo; do cp "$source/$index" "$target/"; done
    depmod -b "$root" "$release"
  done <"$work/kernels"
fi

if [ -e usr/sbin/ldconfig ]; then
  chroot . ldconfig -X
  rm -rf var/cache/ldconfig
fi
chown 0:0 . && chmod 0755 .
