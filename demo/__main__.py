"""Plays the demo in a sandbox: `demo/run`, or `make demo`.

Exit status: 0 every piece of evidence held, 1 one did not, 2 not in a sandbox. Environment: SHELL_AFTER=1 leaves the
visitor in `ovspane shell`; OVSPANE_DEMO_PID, the sandbox's process outside of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from demo import scene
from demo.evidence import ToolError, switch_state
from demo.page import Page
from demo.scenario import SHORT_DENY, Play

MEANS = {"host": "the host's kernel", "uml": "a user-mode-linux guest's kernel", "qemu": "an emulated guest's kernel"}


def main() -> int:
    """Play; say the verdict."""
    if os.environ.get("OVSPANE_SANDBOX") != "1":
        print("demo: only in a sandbox, where no bridge of this machine is in the way: make demo", file=sys.stderr)
        return 2
    page = Page()
    play = Play(page)
    before = scene.processes()
    try:
        set_the_scene(page, play)
        with scene.daemon() as daemon:
            if not page.check(daemon.answers(), f"`ovspane daemon` serves on {scene.SOCKET} (process {daemon.pid})"):
                raise RuntimeError("the daemon does not serve")
            perform(play, daemon)
    except (ToolError, RuntimeError, OSError) as problem:
        page.check(False, str(problem))
    left = scene.gone(before)
    page.check(not left, "nothing that the demo started is still running" + "".join(f"; {line}" for line in left))
    good = verdict(page)
    if os.environ.get("SHELL_AFTER") == "1":
        shell_after(page)
    return 0 if good else 1


def set_the_scene(page: Page, play: Play) -> None:
    """The network, what another owner has on it, and the daemon's settings."""
    page.act("Three hosts on a bridge, and somebody else's rules on it")
    scene.make_network()
    if scene.KERNEL:
        page.note(f"br0 is on the kernel datapath, in {MEANS[scene.GUEST]}: queues are enforced.")
    else:
        page.note(
            "br0 is on the userspace datapath. Meters and denies work there; queues are installed but NOT ENFORCED."
        )
    page.note(
        "h1 10.0.0.1 (Alice) on v1, h2 10.0.0.2 (server) on v2, which sends 20 Mbit/s at most, h3 10.0.0.3 on v3."
    )
    page.show(scene.make_foreign())
    play.before = switch_state()
    play.reach_all()
    scene.write_config()


def perform(play: Play, daemon: scene.Daemon) -> None:
    """All acts."""
    play.act("A principal: Alice, at 10.0.0.1", play.principals)
    play.act("A share, and bandwidth reserved on it", play.reservation)
    play.act("More than there is: refused now, accepted for later", play.room)
    play.act("A deny", play.deny)
    play.act(f"A deny of {SHORT_DENY} seconds ends by itself", play.deny_ends)
    play.act("A rate limit, measured", play.limit)
    play.act("A guarantee, measured", play.guarantee)
    play.act("Leaving: the daemon ends, and cleanup", lambda: play.leave(daemon))


def verdict(page: Page) -> bool:
    """Print the sum; True if all held."""
    print()
    total = page.held + len(page.failed)
    print(f"{page.held} of {total} pieces of evidence held, in {page.seconds:.0f} s.", flush=True)
    for text in page.failed:
        print(f"  failed: {text}")
    if page.failed and scene.LOG.exists():
        print("the end of the daemon's log:")
        print(
            "".join(f"  {line}\n" for line in scene.LOG.read_text(errors="replace").splitlines()[-15:]),
            end="",
            flush=True,
        )
    return not page.failed


def shell_after(page: Page) -> None:
    """The daemon again, on the state it left, and the visitor in its shell. All ends when the shell ends."""
    page.act("Yours")
    with scene.daemon() as daemon:
        if not daemon.answers():
            page.note(f"The daemon does not serve; see the end of {scene.LOG}.")
            return
        page.note(
            "The daemon runs again, on the state it had: every request that is not over is back on the switch. Try:"
        )
        page.show(
            [
                "ListShares.   ListRequests.   GetSchedule aBW.   help reserve",
                "deny(dstHost=10.0.0.2, srcHost=10.0.0.3) on aAC to +1min.",
                "!ip netns exec h3 ping -c 3 10.0.0.2        a command, here in the sandbox: `!COMMAND`",
                "!ovs-ofctl -O OpenFlow14 dump-flows br0",
            ]
        )
        outside = os.environ.get("OVSPANE_DEMO_PID")
        if outside and scene.GUEST not in ("uml", "qemu"):
            page.note(
                f"From a second terminal: nsenter --target {outside} --mount --net ip netns exec h1 ping 10.0.0.2"
            )
        page.note("`quit` or Ctrl-D ends the shell, and with it the sandbox and all that is in it.")
        sys.stdout.flush()
        # Its history would be left behind in the visitor's home.
        environment = {**os.environ, "XDG_STATE_HOME": str(scene.FOLDER)}
        # Ctrl-C is the shell's; a handler does not outlive its exec
        signal.signal(signal.SIGINT, lambda number, frame: None)
        subprocess.call([*scene.OVSPANE, "shell", "--socket", str(scene.SOCKET)], env=environment)


if __name__ == "__main__":
    sys.exit(main())
