"""How nets are spread over processes; the only package that knows."""

import atexit

from lightning_rlhf.strategies.ending import close_process_groups

atexit.register(close_process_groups)
