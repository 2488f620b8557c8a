# Sourced by lab/guest-uml and lab/guest-qemu: the folder `work` that host and guest share (what lies in it: guest-init), the
# guest's life as a child of this shell, its output and its exit status. No guest and no file outlives the sourcing script.
# shellcheck shell=bash disable=SC2317 # the traps call finish

name=${0##*/}
die() { echo "$name: $*" >&2; exit 70; }
absent() { echo "$name: $*" >&2; exit 71; }   # lab/kernel tries the next means

[ $# -gt 0 ] || die "usage: lab/$name COMMAND [ARGUMENT...]"

guest=
follow=
watch=
work=$(mktemp -d /tmp/ovspane-guest.XXXXXX) || exit 70
finish() {
    [ -z "$guest" ] || kill "$guest" 2>/dev/null
    [ -z "$follow" ] || kill "$follow" 2>/dev/null
    [ -z "$watch" ] || kill "$watch" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

# hand_over MODULES TERMINAL COMMAND...: writes down what the guest is to run. MODULES is a folder like /lib/modules,
# TERMINAL the guest's device that is our terminal, if we have one.
hand_over() {
    mkdir -p "$work/kmod/lib" && ln -s "$1" "$work/kmod/lib/modules"
    if [ -t 0 ] && [ -t 1 ]; then echo "$2" >"$work/terminal"; fi
    printf '%q ' "${@:3}" >"$work/command"
    pwd >"$work/directory"
    export -p | grep -vE '^declare -x (PWD|OLDPWD|SHLVL|LD_PRELOAD)=?' >"$work/environment"
    : >"$work/output"
    : >"$work/console"
}

on_terminal() { [ -e "$work/terminal" ]; }

# Ends a guest that hangs before guest-init has written `uptime`, so that the next means is tried.
watch_boot() {
    local limit=${OVSPANE_GUEST_BOOT_SECONDS:-60} waited=0
    while [ -d "$work" ] && [ ! -s "$work/uptime" ]; do
        [ $((waited += 1)) -le "$limit" ] || { echo "error: not up after $limit s" >>"$work/console"; kill "$guest"; break; }
        sleep 1
    done
}

# boot FUNCTION: runs it (it must exec the guest) and ends this script with the exit status of the command in the guest.
boot() {
    if on_terminal; then
        exec 3<&0   # a background command would read from /dev/null else
        "$1" <&3 &
        guest=$!
    else
        "$1" </dev/null >>"$work/console" 2>&1 &
        guest=$!
        tail -n +1 -s .1 --pid="$guest" -f "$work/output" &   # ends, everything written, after the guest
        follow=$!
    fi
    watch_boot </dev/null >/dev/null 2>&1 &
    watch=$!
    wait "$guest"
    guest=
    kill "$watch" 2>/dev/null
    wait "$watch" 2>/dev/null
    watch=
    [ -z "$follow" ] || wait "$follow"
    follow=
    [ -s "$work/status" ] && exit "$(cat "$work/status")"
    [ -s "$work/uptime" ] && die "the guest ended while the command ran"
    absent "the guest does not boot: $(grep -aiE 'panic|error|cannot|fail' "$work/console" | head -n 1)"
}
