"""What the rest of the package may know about several processes and divided models; no strategy is named here."""

import atexit

from lightning_rlhf.distributed.shutdown import close_process_groups

atexit.register(close_process_groups)
