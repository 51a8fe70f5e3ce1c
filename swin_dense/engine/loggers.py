"""Where losses and metrics go besides the run's own files."""

from typing import Any

from mmengine.config import Config
from mmengine.visualization.vis_backend import WandbVisBackend as MMEngineWandbVisBackend
from mmengine.visualization.vis_backend import force_init_env

from swin_dense.registry import VISBACKENDS


@VISBACKENDS.register_module()
class WandbVisBackend(MMEngineWandbVisBackend):
    """mmengine's logger to Weights & Biases, but:

    - Curves are over iterations, those of evaluations too, not over the number of what was logged.
    - The Python files below the current folder, which may have environments, are not uploaded.
    """

    def __init__(self, save_dir: str, **settings: Any) -> None:
        over_iterations = [{"name": "*", "step_metric": "iter"}]
        super().__init__(save_dir, **({"define_metric_cfg": over_iterations} | settings))

    @force_init_env
    def add_config(self, config: Config, **_: Any) -> None:
        """Records the config."""
        self._wandb.config.update(config.to_dict(), allow_val_change=True)
