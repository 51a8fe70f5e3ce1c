"""For test_stopping.py, in each of two processes: the second one sends itself a signal."""

import signal
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_rank
from tiny_training import Send, runner

from swin_dense.engine.launch import init_distributed
from swin_dense.engine.stopping import StopHook, stop_requests
from swin_dense.errors import StoppedError

work_dir = Path(sys.argv[1])
init_distributed(Config({"launcher": "pytorch", "device": "cpu"}))
with stop_requests() as request:
    made = runner(work_dir, steps=1000, interval=1000)
    if get_rank() == 1:
        made.register_hook(Send("before_train_iter", 2, signal.SIGUSR1))
    made.register_hook(StopHook(request))
    try:
        made.train()
    except StoppedError as error:
        (work_dir / f"rank{get_rank()}.txt").write_text(str(made.iter + 1))
        sys.exit(error.status)
