"""A trained model behind HTTP, by Ray Serve: ``serve run swin_dense.serving:app ...``.

docs/serving.md has the requests, the answers and the arguments.
"""

import asyncio
import base64
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse

import swin_dense
from swin_dense.engine.config.load import find_file
from swin_dense.engine.images import UnreadableImageError, decode_image
from swin_dense.engine.paths import checkpoint_file
from swin_dense.engine.predict_files import found_entries, task_entries
from swin_dense.engine.prediction import Prediction
from swin_dense.errors import UserError

_Answer: TypeAlias = dict[str, Any] | UserError
_HOW = "POST the bytes of an image file, as curl --data-binary @photo.jpg does"
_WAIT = 0.02  # seconds for which an image waits for others, if ``batch_size`` is not 1


class Arguments(BaseModel):
    """What ``serve run`` takes as NAME=VALUE, and a configuration file of Ray Serve as ``args``.

    Attributes:
        config, checkpoint: as of :func:`swin_dense.load`.
        score_thr: a detector's objects below this score are left out.
        batch_size: the most images that go through the model together.
        replicas: processes that have the model.
        cpus, gpus: cores and GPUs of each; without a GPU it computes on the CPU.
    """

    model_config = ConfigDict(extra="forbid")

    config: str
    checkpoint: str
    score_thr: float = 0.3
    batch_size: int = 1
    replicas: int = 1
    cpus: float = 1
    gpus: float = 0


def app(arguments: Arguments) -> Application:
    """The application that ``serve run swin_dense.serving:app NAME=VALUE ...`` runs.

    Raises:
        UserError: there is no such config or checkpoint.
    """
    # Ray's processes may have another current folder.
    config = os.path.abspath(find_file(arguments.config))
    checkpoint = checkpoint_file(arguments.checkpoint)
    if "://" not in checkpoint:
        checkpoint = os.path.abspath(checkpoint)
    device = "cuda" if arguments.gpus else "cpu"
    deployment = serve.deployment(
        num_replicas=arguments.replicas,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        max_ongoing_requests=2 * arguments.batch_size,  # a batch is decoded while one is computed
        max_constructor_retry_count=3,
    )(ServedModel)
    return deployment.bind(config, checkpoint, device, arguments.score_thr, arguments.batch_size)


class ServedModel:
    """A replica: a model that answers requests, each with one image, in JSON."""

    def __init__(
        self, config: str, checkpoint: str, device: str, score_thr: float, batch_size: int
    ) -> None:
        self._model = swin_dense.load(config, checkpoint, device)
        self._score_thr = score_thr
        in_batches = serve.batch(max_batch_size=batch_size, batch_wait_timeout_s=_WAIT)
        self._predict = in_batches(self._predict_batch)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answers a request; status 400 if its body is no image, 405 if it has none."""
        if request.method != "POST":
            return JSONResponse({"error": _HOW}, 405, {"Allow": "POST"})
        data = await request.body()
        try:
            image = await asyncio.to_thread(decode_image, data)
        except UnreadableImageError as error:
            return JSONResponse({"error": f"no image that can be read: {error}; {_HOW}"}, 400)
        answer = await self._predict(image)
        if isinstance(answer, UserError):
            return JSONResponse({"error": str(answer)}, 400)
        return JSONResponse(answer)

    async def _predict_batch(self, images: list[NDArray[np.uint8]]) -> list[_Answer]:
        return await asyncio.to_thread(self._answers, images)

    def _answers(self, images: Sequence[NDArray[np.uint8]]) -> list[_Answer]:
        """The answers to requests with these images (H, W, 3) BGR, or what is wrong with one."""
        rgb = [image[..., ::-1] for image in images]
        try:
            found = self._model.predict(rgb, score_thr=self._score_thr, batch_size=len(rgb))
        except UserError as error:
            if len(images) == 1:
                return [error]
            return [answer for image in images for answer in self._answers([image])]
        return [to_json(prediction) for prediction in found]


def to_json(prediction: Prediction) -> dict[str, Any]:
    """The answer to a request: keys of ``predictions.json``, of the whole and of an image."""
    height, width = prediction.image.shape[:2]
    entries = {
        **task_entries(prediction.label_map is not None, prediction.classes),
        "width": width,
        "height": height,
        **found_entries(prediction),
    }
    if prediction.label_map is not None:
        png = cv2.imencode(".png", prediction.label_map)[1].tobytes()
        entries["label_map"] = base64.b64encode(png).decode("ascii")
    return entries
