#!/bin/sh
# Runs before the kernel and its initramfs come in: what their maintainer scripts read must lie there first.
set -eu
root=$1
mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/etc/systemd/system" "$root/boot/efi" "$root/boot/grub"
cat >"$root/etc/fstab" <<'END'
# The root file system grows to its partition, which systemd-repart has grown to the disk.
UUID={{.RootUUID}} / ext4 errors=remount-ro,x-systemd.growfs 0 1
UUID={{.ESP}} /boot/efi vfat umask=0077,noauto 0 0
END
# No swap to resume from: without this the initramfs waits for one.
echo 'RESUME=none' >"$root/etc/initramfs-tools/conf.d/resume"
# The boot menu names /vmlinuz and /initrd.img, so these links must follow kernel updates.
cat >"$root/etc/kernel-img.conf" <<'END'
do_symlinks = yes
do_bootloader = no
link_in_boot = no
END
