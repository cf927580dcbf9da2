#!/bin/sh
# Turns a plain Debian tree into a golden image: boot programs, first boot, nothing that two machines must not share.
set -eu
root=$1
boot=$root/boot/.image
mkdir -p "$boot"

# --- boot programs -------------------------------------------------------------------------------------------------------
# BIOS: everything GRUB needs is linked in, so that it depends on no file but its menu.
cat >"$boot/early.cfg" <<'END'
search.fs_uuid {{.RootUUID}} root
set prefix=($root)/boot/grub
END
modules='part_gpt part_msdos ext2 fat search search_fs_uuid normal linux echo test configfile ls cat reboot halt all_video gfxterm'
chroot "$root" grub-mkimage -O i386-pc -p /boot/grub -c /boot/.image/early.cfg -o /boot/.image/core.img biosdisk $modules
cp "$root/usr/lib/grub/i386-pc/boot.img" "$boot/boot.img"
# UEFI: Debian's signed pair, so that firmware with Secure Boot starts it too. The signed GRUB looks for its configuration in
# EFI/debian of the partition that it came from, and nowhere else.
cp "$root/usr/lib/shim/shimx64.efi.signed" "$boot/bootx64.efi"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$boot/grubx64.efi"
{ cat "$boot/early.cfg"; echo 'configfile $prefix/grub.cfg'; } >"$boot/grub.cfg"
chmod 0644 "$boot"/*
cat >"$root/boot/grub/grub.cfg" <<'END'
# Written once by offshoot. /vmlinuz and /initrd.img are links that Debian keeps on the newest kernel.
set default=0
set timeout=0
set args="root=UUID={{.RootUUID}} ro console=tty0 console=ttyS0,115200 quiet systemd.show_status=1 panic=30"
menuentry "Debian" {
	linux /vmlinuz $args
	initrd /initrd.img
}
menuentry "Debian (previous kernel)" {
	linux /vmlinuz.old $args
	initrd /initrd.img.old
}
END
# The boot programs' packages have done their work; update-grub would write a second menu. The signed GRUB's says that it is essential,
# lest anybody removes what starts the machine; here that lies on the ESP.
chroot "$root" apt-get -y -q --allow-remove-essential purge --autoremove grub-pc-bin grub-efi-amd64-signed shim-signed grub-common

# --- first boot ----------------------------------------------------------------------------------------------------------
mkdir -p "$root/etc/repart.d"
cat >"$root/etc/repart.d/50-root.conf" <<'END'
[Partition]
Type=root
GrowFileSystem=yes
END
# It would discard what no partition has, and offshoot's mark before the first one with it: by that a disk is known as installed by us.
mkdir -p "$root/etc/systemd/system/systemd-repart.service.d"
cat >"$root/etc/systemd/system/systemd-repart.service.d/keep-mark.conf" <<'END'
[Service]
ExecStart=
ExecStart=systemd-repart --dry-run=no --discard=no
END
cat >"$root/etc/systemd/system/ssh-hostkeys.service" <<'END'
[Unit]
Description=Make this machine's SSH host keys
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service ssh.socket
After=systemd-remount-fs.service

[Service]
Type=oneshot
ExecStartPre=/bin/rm -f /etc/ssh/ssh_host_ecdsa_key /etc/ssh/ssh_host_ecdsa_key.pub
ExecStart=/usr/bin/ssh-keygen -q -N "" -t ecdsa -f /etc/ssh/ssh_host_ecdsa_key
ExecStart=/usr/bin/ssh-keygen -q -N "" -t ed25519 -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
END
mkdir -p "$root/etc/ssh/sshd_config.d"
echo 'PermitRootLogin prohibit-password' >"$root/etc/ssh/sshd_config.d/10-golden.conf"
chroot "$root" systemctl enable ssh-hostkeys.service ssh.service
# "*" and not "!": no password fits either of them, but sshd without PAM takes "!" for an account that keys must not open.
chroot "$root" usermod --password '*' root
mkdir -p -m 0700 "$root/root/.ssh"

# Nothing that works in the background of a machine that was just installed, or waits for what is not there.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service man-db.timer \
	systemd-networkd-wait-online.service systemd-firstboot.service; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# --- nothing that two machines must not share -----------------------------------------------------------------------------
rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id" \
	"$root/var/lib/systemd/random-seed" "$root/var/lib/systemd/credential.secret"
: >"$root/etc/machine-id"
echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
find "$root/var/log" -type f -delete
rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache

# /usr is as old as these: without them the first boot rebuilds the linker's cache and journald's catalog, which are right.
touch -r "$root/usr" "$root/etc/.updated" "$root/var/.updated"
