"""The command `ovspane`: one module for each of its commands, which are imported when they are run."""
