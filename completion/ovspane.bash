# bash completion for ovspane(8); made by `python -m ovspane.lang.verbs --bash` from the table of verbs
_ovspane() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "daemon send shell what-if explain show topology compile replay probe verify cleanup restart-switch restore cluster" -- "$cur")); return
    fi
    case $cmd$prev in
        topology--format) COMPREPLY=($(compgen -W "text json dot svg" -- "$cur")); return ;;
    esac
    case $prev in
        --format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
        --socket|--config|--state-dir) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case $cmd$cur in
        probe-*) COMPREPLY=($(compgen -W "--all --json --deliver --rate --most --in-port --socket --config --rundir --ovsdb --bridge --help" -- "$cur")); return ;;
        verify-*) COMPREPLY=($(compgen -W "--format --socket --config --rundir --ovsdb --bridge --help" -- "$cur")); return ;;
    esac
    case $cur in
        -*) COMPREPLY=($(compgen -W "--socket --format --help" -- "$cur")); return ;;
    esac
    case $cmd in
        send) COMPREPLY=($(compgen -W "reserve ratelimit allow deny waypoint avoid hint Cancel Check WhatIf available traffic GetSchedule ListShares ListSharesByFlowGroup ListRequests Explain Show ListTopology Whoami NewShare Grant GrantDefault Revoke DropShare AddUser DropUser Locate As Format Subscribe Unsubscribe Tick" -P "${cur%%[A-Za-z]*}" -- "${cur#[\'\"]}")) ;;
        compile|replay) COMPREPLY=($(compgen -f -- "$cur")) ;;
    esac
}
complete -o default -F _ovspane ovspane
