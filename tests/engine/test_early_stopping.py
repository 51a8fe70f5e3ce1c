"""Early stopping says why."""

from types import SimpleNamespace

from swin_dense.engine import early_stopping


def test_reason_is_told_when_it_stops(monkeypatch):
    """The second evaluation is as good as the first, and the third is worse."""
    said: list[str] = []
    monkeypatch.setattr(early_stopping, "notify_user", said.append)
    hook = early_stopping.EarlyStoppingHook(monitor="mIoU", patience=2, min_delta=0.0005)
    logger = SimpleNamespace(info=lambda text: None)
    runner = SimpleNamespace(train_loop=SimpleNamespace(stop_training=False), logger=logger)
    for score, stops in ((0.2, False), (0.3, False), (0.3, False), (0.25, True)):
        assert not said
        hook.after_val_epoch(runner, {"mIoU": score})
        assert runner.train_loop.stop_training == stops
    assert said == [
        "stopping early: mIoU was 0.250, the best 0.300, and 2 evaluations were not better"
    ]
