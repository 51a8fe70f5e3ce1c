"""Stopping a training by a signal: after the current step, with a checkpoint.

Clusters send SIGTERM before they end a job, and SIGUSR1 if they are asked to warn of it. Ctrl-C is
SIGINT; a second one ends the process at once.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NoReturn

from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook

from swin_dense.engine.checkpoint_hook import CheckpointHook, ends_epoch, is_between_steps
from swin_dense.engine.children import STOP_SIGNALS
from swin_dense.engine.terminal.hooks import is_epoch_based
from swin_dense.engine.work_dir import how_to_resume
from swin_dense.errors import StoppedError, UserError

_SECONDS_FOR_OTHERS = 20.0  # of the 30 that torchrun and Slurm give by default
_SECONDS_TO_SAVE = 600.0
# torchrun passes on the Ctrl-C that the terminal has sent to its processes too.
_SECONDS_OF_ONE_CTRL_C = 1.0


class StopRequest:
    """The first signal to stop that came, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_watched = False
        """Whether a training looks here; otherwise a signal ends the process."""
        self.moment = ""
        """When a signal that ends the process comes, if that can be said."""
        self._received = 0.0

    def receive(self, number: int, _frame: object = None) -> None:
        """The signal handler."""
        is_first, self.signal = self.signal is None, self.signal or number
        if number == signal.SIGINT and not self.moment:
            self._receive_ctrl_c(is_first)
        elif not self.is_watched:
            if os.environ.get("RANK", "0") == "0":
                print(f"stopped by {signal.Signals(number).name}{self.moment}", file=sys.stderr)
            raise SystemExit(128 + number)

    def _receive_ctrl_c(self, is_first: bool) -> None:
        if not self.is_watched:
            raise KeyboardInterrupt
        now = time.monotonic()
        if is_first:
            self._received = now
            if os.environ.get("RANK", "0") == "0":  # not by print(), which may be interrupted here
                os.write(2, b"\nstopping after this step, and saving: Ctrl-C again ends at once\n")
        elif now - self._received > _SECONDS_OF_ONE_CTRL_C:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Receives the signals in the block, but for those that the process handles or ignores.

    Raises:
        KeyboardInterrupt: after Ctrl-C, whatever other libraries made of it.
    """
    request, before = StopRequest(), {}
    if threading.current_thread() is threading.main_thread():  # Python allows no other
        for number in STOP_SIGNALS:
            if _gives_way(signal.getsignal(number)):
                before[number] = signal.signal(number, request.receive)
    try:
        yield request
    except Exception as error:
        if request.signal != signal.SIGINT or isinstance(error, UserError):
            raise
        raise KeyboardInterrupt from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gives_way(handler: Any) -> bool:
    """Whether it is a handler of Python's own or of our command line."""
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    return handler in defaults or getattr(handler, "gives_way", False)


class StopHook(Hook):
    """Ends a training by a :class:`~swin_dense.errors.StoppedError` after a signal was received.

    It saves a checkpoint after the current step (of the optimizer), or in an evaluation at once. In
    a distributed run all processes do so after the same step, whichever got the signal.
    """

    priority = "LOWEST"  # all others have finished the iteration

    def __init__(self, request: StopRequest) -> None:
        self._request = request
        self._votes: _Votes | None = None
        self._agreed = False

    def before_train(self, runner) -> None:
        """From here on, the signal waits for the end of the step."""
        self._votes = _Votes() if get_world_size() > 1 else None
        self._request.is_watched = True

    def after_train(self, runner) -> None:
        """Nothing is left to be saved."""
        self._request.is_watched = False
        self._request.moment = " after the training had ended: nothing is lost"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Stops, but within the steps of an accumulated gradient, and where an epoch ends."""
        wanted = self._request.signal is not None
        if not self._agreed:
            self._agreed = self._votes.cast(self._request) if self._votes else wanted
        done = runner.iter + 1
        if self._agreed and is_between_steps(runner, done) and not ends_epoch(runner, batch_idx):
            self._stop(runner, runner.epoch, done)

    def after_train_epoch(self, runner) -> None:
        """Stops after the epoch was saved, before its evaluation."""
        if self._agreed and is_epoch_based(runner):
            self._stop(runner, runner.epoch + 1, runner.iter)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Stops in an evaluation, if there is a checkpoint, or one process alone can save it."""
        if self._request.signal is None:
            return
        hook = _checkpoint_hook(runner)
        if hook is None or hook.saved_at == runner.iter:
            self._finish(runner, hook and hook.last_ckpt, runner.iter)
        if self._votes is None and is_between_steps(runner, runner.iter):
            for one in runner.hooks:
                if isinstance(one, EMAHook):
                    one.after_val_epoch(runner)  # the model has averaged weights until then
            self._stop(runner, runner.epoch, runner.iter)

    def end_run(self, runner, error: StoppedError) -> None:
        """Shows why the training has stopped, and then calls ``after_stop`` of all hooks.

        What these do has to take seconds at most; another signal ends the process at once.
        """
        self._request.is_watched = False
        self._request.moment = " while the report was written"
        if error.is_shown:
            print(error, file=sys.stderr)
            error.is_shown = False
        runner.call_hook("after_stop")

    def _stop(self, runner, epoch: int, done: int) -> NoReturn:
        self._request.signal = self._request.signal or signal.SIGTERM  # another process got it
        hook = _checkpoint_hook(runner)
        path = hook.save_between(runner, epoch, done) if hook else None
        if self._votes is not None:
            self._votes.meet(self._request)  # until the first process has written, none may end
        self._finish(runner, path, done)

    def _finish(self, runner, path: Any, done: int) -> NoReturn:
        number = self._request.signal or signal.SIGTERM
        how = f"saved as {path}: {how_to_resume(runner.work_dir)}"
        if path is None:
            how = "no checkpoint was saved, as the config has no CheckpointHook"
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        error = StoppedError(f"stopped by {name} after iteration {done}, {how}", number)
        error.is_shown = get_rank() == 0
        raise error


def _checkpoint_hook(runner) -> CheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


class _Votes:
    """Lets all processes stop after the same step, without a wait for a GPU.

    Each process votes after each step, in the key-value store by which the run was started, and
    acts on the votes of the step before: the others have cast these by then, unless they are more
    than a step behind. Only the hosts wait.
    """

    _STOP = 1 << 32  # a vote to stop, in a number that also counts the votes

    def __init__(self) -> None:
        name = [uuid.uuid4().hex]
        broadcast_object_list(name)
        self._name, self._round, self._size = name[0], 0, get_world_size()
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        from torch.distributed import TCPStore  # not in every build of PyTorch

        self._store = TCPStore(*address, is_master=False, timeout=timedelta(minutes=5))

    def cast(self, request: StopRequest) -> bool:
        """Votes; returns whether a process voted for a stop one step earlier."""
        wanted = request.signal is not None
        try:
            self._store.add(self._key(self._round), 1 + self._STOP * wanted)
            self._round += 1
            if self._round == 1:
                return False
            votes = self._all(self._key(self._round - 2), request)
            if get_rank() == 0 and self._round > 2:
                self._store.delete_key(self._key(self._round - 3))
        except RuntimeError as error:
            raise self._gone(request) from error
        return votes >= self._STOP

    def meet(self, request: StopRequest) -> None:
        """Waits for all processes; for none that is gone."""
        with contextlib.suppress(RuntimeError, UserError):
            self._store.add(self._key("end"), 1)
            self._all(self._key("end"), request, _SECONDS_TO_SAVE)

    def _key(self, what: object) -> str:
        return f"swin_dense/{self._name}/{what}"

    def _all(self, key: str, request: StopRequest, seconds: float = _SECONDS_FOR_OTHERS) -> int:
        """The votes, when all have voted; a process that shall stop does not wait for ever."""
        asked: float | None = None
        while (votes := self._store.add(key, 0)) % self._STOP < self._size:
            if request.signal is not None:
                asked = asked or time.monotonic()
                if time.monotonic() - asked > seconds:
                    raise self._gone(request)
            time.sleep(0.001)
        return votes

    def _gone(self, request: StopRequest) -> UserError:
        message = "another process of this run has ended: see its message; --resume continues"
        return StoppedError(message, request.signal or signal.SIGTERM)
