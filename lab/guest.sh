# Sourced by lab/guest-uml and lab/guest-qemu: the folder `work` that host and guest share (what lies in it: guest-init), the
# guest's life as a child of this shell, its output and its exit status. No guest and no file outlives the sourcing script.
#
# The limits are for a quiet machine of 2026. On one that is slower, or has other work, they are stretched by what a fixed piece
# of work takes here (measure_slowness); a command that still prints something may go on, up to six times its limit.
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

most=600   # percent
# Sets `slowness`: how long a fixed piece of work takes here, in percent of the reference; 100 to $most.
measure_slowness() {
    local reference=900000 begin=${EPOCHREALTIME/[.,]/} i   # microseconds: a quiet machine of two 2.x GHz cores, 2026
    for ((i = 0; i < 1000000; i++)); do :; done
    slowness=$(((${EPOCHREALTIME/[.,]/} - begin) * 100 / reference))
    slowness=$((slowness < 100 ? 100 : slowness > most ? most : slowness))
}

# Sets how long the guest may take to boot, the command may take, and it may print nothing after that; in seconds.
stretch() {
    measure_slowness
    boot_limit=$((boot_base * slowness / 100)) limit=$((base * slowness / 100)) silence=$((120 * slowness / 100))
}

# limits BOOT COMMAND: those of a quiet machine, in seconds. Sets `last`, after which nothing goes on (the guest's own `timeout`,
# a minute later, ends it if this script was killed).
limits() {
    boot_base=$1 base=$2 last=$(($2 * most / 100))
    stretch
    printf '%s: this machine takes %d.%02d times as long as the reference: limits %d s to boot, %d s for the command\n' \
        "$name" $((slowness / 100)) $((slowness % 100)) "$boot_limit" "$limit" >&2
}

# Ends a guest that hangs before guest-init has written `uptime`, so that the next means is tried.
watch_boot() {
    while [ -d "$work" ] && [ ! -s "$work/uptime" ]; do
        [ "$SECONDS" -le "$boot_limit" ] || { echo "error: not up after $boot_limit s" >>"$work/console"; kill "$guest"; break; }
        sleep 1 >/dev/null 2>&1
    done
}

# Whether the command is over its limit and prints nothing, or over all limits. (On a terminal nobody sees what it prints.)
over() {
    [ "$SECONDS" -le "$last" ] || return 0
    [ "$SECONDS" -gt "$limit" ] && [ $(($(date +%s) - $(stat -c %Y "$work/output"))) -gt "$silence" ]
}

watch_command() {
    while [ -d "$work" ]; do
        if over && stretch && over; then   # measured anew: other work may have come since the start
            echo "$name: ended after $SECONDS s: the limit is $limit s; up to $last s while something is printed" >&2
            kill "$guest"
            return
        fi
        sleep 1 >/dev/null 2>&1
    done
}

watch_guest() {
    SECONDS=0
    watch_boot
    watch_command
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
    watch_guest </dev/null >/dev/null &
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
