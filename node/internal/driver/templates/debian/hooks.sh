#!/bin/sh
# What Debian's installer calls while it installs {{.Hostname}}: hooks.sh start|disk|packages|late|finish, in this order.
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
{{- if eq .Params.Partitioning "lvm"}}
	# shellcheck disable=SC2016
	echo '768 768 768 ext4 $primary{ } $bootable{ } method{ format } format{ } use_filesystem{ } filesystem{ ext4 } mountpoint{ /boot } .'
	# shellcheck disable=SC2016
	echo '2500 5000 -1 ext4 $lvmok{ } lv_name{ root } method{ format } format{ } use_filesystem{ } filesystem{ ext4 } mountpoint{ / } .'
{{- else}}
	# shellcheck disable=SC2016
	echo '2500 5000 -1 {{.RootFS}} $primary{ } $bootable{ } method{ format } format{ } use_filesystem{ } filesystem{ {{.RootFS}} } mountpoint{ / } .'
{{- end}}
}

case "$1" in
start)
	offshoot_report installer "Debian's installer runs"
	hook base-installer.d/00offshoot packages
	hook finish-install.d/93offshoot finish
	# Another process, not a function in the background: that would keep the installer's pipe, and the installer would wait for it.
	sh /tmp/hooks.sh watch >/dev/null 2>&1 </dev/null &
{{- if .Params.Pre}}
	printf '%s\n' {{shell .Params.Pre}} >/tmp/pre.sh
	sh /tmp/pre.sh || offshoot_stop "the snippet pre ended with code $?"
{{- end}}
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
	sed -i 's|http://{{.HostPort}}/|http://{{.OwnPort}}/|' /target/etc/apt/sources.list
	offshoot_users /target || offshoot_stop "accounts cannot be made"
{{- if .Params.Post}}
	printf '%s\n' {{shell .Params.Post}} >/target/tmp/post.sh
	in-target sh /tmp/post.sh || offshoot_stop "the snippet post ended with code $?"
	rm -f /target/tmp/post.sh
{{- end}}
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
