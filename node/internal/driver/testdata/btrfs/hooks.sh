#!/bin/sh
# What Debian's installer calls while it installs node-123456: hooks.sh start|disk|packages|late|finish, in this order.
. /tmp/offshoot.sh

# hook FOLDER/NAME WORD: has the installer call us at another place of its own.
hook() {
	mkdir -p "/usr/lib/${1%/*}"
	printf '#!/bin/sh\nexec sh /tmp/hooks.sh %s\n' "$2" >"/usr/lib/$1"
	chmod 755 "/usr/lib/$1"
}

# recipe is how the disk is cut. Sizes are megabytes: least, wanted, most.
recipe() {
	echo 'offshoot ::'
	if [ -d /sys/firmware/efi ]; then
		# shellcheck disable=SC2016 # partman's words
		echo '512 512 512 free $primary{ } method{ efi } format{ } .'
	else
		# shellcheck disable=SC2016
		echo '1 1 1 free $iflabel{ gpt } method{ biosgrub } .'
	fi
	# shellcheck disable=SC2016
	echo '2500 5000 -1 btrfs $primary{ } $bootable{ } method{ format } format{ } use_filesystem{ } filesystem{ btrfs } mountpoint{ / } .'
}

case "$1" in
start)
	offshoot_report installer "Debian's installer runs"
	hook base-installer.d/00offshoot packages
	hook finish-install.d/93offshoot finish
	# Another process, not a function in the background: that would keep the installer's pipe, and the installer would wait for it.
	sh /tmp/hooks.sh watch >/dev/null 2>&1 </dev/null &
	;;
disk)
	disk=$(offshoot_disk) || exit 1
	blockdev --rereadpt "$disk" 2>/dev/null || true
	recipe >/tmp/recipe
	debconf-set partman-auto/disk "$disk"
	debconf-set grub-installer/bootdev "$disk"
	;;
packages)
	offshoot_report packages "the base system is unpacked, then packages are configured"
	;;
late)
	offshoot_report configure "accounts, and what the profile asks for"
	# From now on its packages come through itself: the node that serves it now may leave.
	sed -i 's|http://192.168.42.1:7480/|http://192.168.42.17:7480/|' /target/etc/apt/sources.list
	offshoot_users /target || offshoot_stop "accounts cannot be made"
	;;
finish)
	offshoot_adopt /target
	;;
watch) # tells of the step that the installer stops at
	while sleep 10; do
		why=$(grep -o "Configuring '.*' failed with error code .*" /var/log/syslog | tail -n 1)
		[ -z "$why" ] && continue
		offshoot_post "{\"phase\":\"failed\",\"failed\":true,\"final\":true,\"text\":\"the installer stopped: $(offshoot_text "$why"); its console, and /var/log/syslog there, say more\"}"
		break
	done
	;;
esac
exit 0
