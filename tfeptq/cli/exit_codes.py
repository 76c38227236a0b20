"""What the command line tells programs: done, the answer is no, bad input."""

DONE, NO, BAD_INPUT = 0, 1, 2
#: Stopped by Ctrl-C, as shells count it.
STOPPED = 130
