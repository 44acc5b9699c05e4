#!/bin/sh
# Runs inside mmdebstrap (customize hook) with the new root as $1: what the packages do not do themselves.
set -eu
root=$1
chroot "$root" groupadd --gid 1000 user
chroot "$root" useradd --uid 1000 --gid user --create-home --shell /bin/bash user
printf 'user ALL=(ALL) NOPASSWD:ALL\n' > "$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"
# Set anew in every sandbox by the guest agent.
: > "$root/etc/machine-id"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"
: > "$root/etc/hostname"
: > "$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n' > "$root/etc/hosts"
# What differs from build to build, or is only weight.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/tmp/* "$root"/run/*
mkdir -p "$root/var/log" "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
