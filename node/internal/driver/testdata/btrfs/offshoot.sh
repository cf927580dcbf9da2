# Functions for the hooks of an installer: ". offshoot.sh" makes them known. Nothing in here is secret.
# What they do shows on the machine's timeline (offshoot machine show 52:54:00:12:34:56).

offshoot_url='http://192.168.42.1:7480/b/AAAAAAAAAAAAAAAAAAAAAA'
offshoot_sum='dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd'
offshoot_dir=/tmp/offshoot
offshoot_bin=$offshoot_dir/offshoot

# offshoot_get URL FILE: five attempts, with whatever the installer has.
offshoot_get() {
	for pause in 1 2 4 8 0; do
		if command -v curl >/dev/null 2>&1; then
			curl -fsS --connect-timeout 10 -o "$2" "$1" && return 0
		else
			wget -q -O "$2" "$1" && return 0
		fi
		sleep "$pause"
	done
	return 1
}

# offshoot_post JSON: one event. That it gets lost must stop no installation.
offshoot_post() {
	if command -v curl >/dev/null 2>&1; then
		curl -fsS --max-time 15 -o /dev/null -H 'Content-Type: application/json' -d "$1" "$offshoot_url/event"
	else
		wget -q -O /dev/null --post-data "$1" "$offshoot_url/event"
	fi || true
}

# offshoot_text WORDS: what may stand between quotes in JSON. (The tr of an installer may know no classes.)
offshoot_text() { printf %s "$*" | tr '\n\t"\\' "  ''" | tr -cd ' -~' | cut -c 1-500; }

# offshoot_report PHASE TEXT: installer, disk, packages or configure.
offshoot_report() {
	phase=$1
	shift
	offshoot_post "{\"phase\":\"$phase\",\"text\":\"$(offshoot_text "$@")\"}"
}

# offshoot_stop TEXT: holds the machine, with the reason. It starts again, and waits in its boot program until it is armed.
offshoot_stop() {
	echo "offshoot: $*" >&2
	offshoot_post "{\"phase\":\"failed\",\"failed\":true,\"final\":true,\"text\":\"$(offshoot_text "$@")\"}"
	sleep 10
	reboot -f 2>/dev/null || echo b >/proc/sysrq-trigger
	sleep 60
}

# offshoot_program: our own program, by its digest.
offshoot_program() {
	mkdir -p "$offshoot_dir"
	[ -x "$offshoot_bin" ] && return 0
	offshoot_get "http://192.168.42.1:7480/artifact/$offshoot_sum/offshoot" "$offshoot_bin.new" || return 1
	echo "$offshoot_sum  $offshoot_bin.new" | sha256sum -c >/dev/null || return 1
	chmod 755 "$offshoot_bin.new" && mv "$offshoot_bin.new" "$offshoot_bin"
}

# offshoot_disk: prints the one disk that this machine may be installed on. Otherwise the machine is held, and the reason told.
offshoot_disk() {
	offshoot_program || offshoot_stop "the program cannot be fetched, or has not the digest $offshoot_sum"
	"$offshoot_bin" adopt disk --url "$offshoot_url" && return 0
	offshoot_stop "no disk was chosen"
	return 1
}

# offshoot_adopt ROOT: makes the system below ROOT a node that joins when it first starts.
offshoot_adopt() {
	offshoot_program || offshoot_stop "the program cannot be fetched, or has not the digest $offshoot_sum"
	"$offshoot_bin" adopt --url "$offshoot_url" --root "$1" && return 0
	offshoot_stop "the system was installed, but cannot be made a node"
	return 1
}

# offshoot_users ROOT: makes the accounts of the profile in the system below ROOT. Those of root come with offshoot_adopt.
offshoot_users() {
	offshoot_root=$1
	:
}

# offshoot_user NAME FULL-NAME HASH GROUPS KEYS
offshoot_user() {
	chroot "$offshoot_root" id "$1" >/dev/null 2>&1 || chroot "$offshoot_root" useradd -m -s /bin/bash -c "$2" "$1" || return 1
	if [ -n "$3" ]; then # not as an argument: those can be seen
		printf '%s:%s\n' "$1" "$3" | chroot "$offshoot_root" chpasswd -e || return 1
	fi
	for group in $(echo "$4" | tr ',' ' '); do
		chroot "$offshoot_root" groupadd -f "$group" && chroot "$offshoot_root" usermod -a -G "$group" "$1" || return 1
	done
	[ -n "$5" ] || return 0
	home=$(chroot "$offshoot_root" sh -c "echo ~$1")
	mkdir -p "$offshoot_root$home/.ssh" && printf '%s\n' "$5" >"$offshoot_root$home/.ssh/authorized_keys" &&
		chmod 700 "$offshoot_root$home/.ssh" && chmod 600 "$offshoot_root$home/.ssh/authorized_keys" &&
		chroot "$offshoot_root" chown -R "$1:" "$home/.ssh"
}
