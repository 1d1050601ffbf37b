"""How API and worker end, for whoever started them: by the code alone it is plain whether starting again can help."""

from enum import IntEnum


class ProgramExit(IntEnum):
    """Exit codes of the two programs; docs/startup.md tells them."""

    STOPPED = 0  # it was asked to
    FAILED = 1  # a server is away, all GPUs are taken, or nobody foresaw it: again later
    WRONG_SETTING = 2  # to be changed first
    UNFIT_MACHINE = 69  # it lacks what the settings ask for (EX_UNAVAILABLE)
    BROKEN_DEVICE = 70  # of no use to that process, a new one may do better (EX_SOFTWARE)


FINAL = frozenset({ProgramExit.WRONG_SETTING, ProgramExit.UNFIT_MACHINE})  # starting again does not help
