"""The child process that talks to Ray: Tune, worker groups, dispatcher. Nothing outside this package loads Ray."""
