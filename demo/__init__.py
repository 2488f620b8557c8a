"""`make demo`: applications ask a real network, and the network answers in packets.

    run       chooses the datapath and makes the sandbox (lab/kernel, lab/sandbox)
    __main__  plays the acts, says the verdict, and leaves the visitor in `ovspane shell` if asked to
    scenario  the acts: statements, and what must be true after each
    scene     the network, the daemon, and who speaks
    evidence  what the switch, the kernel and the packets say, read with their own tools
    page      what is printed

Invariant: the exit status is 0 only if every piece of evidence was there and held.
"""
