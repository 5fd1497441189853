"""Training a face detector on composites: recipe + pictures -> checkpoint, log and resumable state."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from edge_fer.core.errors import CheckpointError
from edge_fer.data.detection.compose import MAX_FACES, Compositor, Picture
from edge_fer.data.detection.labels import SURE, UNSURE
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.registry import build_model
from edge_fer.train.detection_loss import Targets, decode, detection_loss, pair_iou, places
from edge_fer.train.detection_recipe import DetectionRecipe
from edge_fer.train.optim import build_optimizers, check_finite, cosine_factor, set_rates, update_average
from edge_fer.train.resuming import arrays_sha256, read_state, restore, write_state
from edge_fer.train.run_log import write_log


@dataclass(frozen=True)
class DetectionEpochLog:
    """One row of ``log.csv``. ``hard_scenes`` is the number of face-free training scenes with a false alarm."""

    epoch: int
    lr: float
    loss: float
    score_loss: float
    box_loss: float
    landmark_loss: float
    val_loss: float
    hard_scenes: int
    seconds: float
    images_per_s: float


class CompositeStream(IterableDataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Composites number ``start`` to ``start + count``, each from a generator seeded with its own number, so that a
    resumed run sees what an uninterrupted one would have seen, however many workers draw."""

    def __init__(self, compositor: Compositor, seed: int, start: int, count: int, batch: int) -> None:
        self.compositor, self.seed, self.start, self.count, self.batch = compositor, seed, start, count, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for index in range(first, self.count // self.batch, step):
            begin = self.start + index * self.batch
            yield stack([self._draw(number) for number in range(begin, begin + self.batch)])

    def _draw(
        self, number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]:
        composite = self.compositor.draw(np.random.default_rng((self.seed, number)))
        boxes = np.zeros((MAX_FACES, 4), np.float32)
        landmarks = np.zeros((MAX_FACES, 5, 2), np.float32)
        kind = np.zeros(MAX_FACES, np.int8)
        n = len(composite.ignore)
        boxes[:n], landmarks[:n] = composite.boxes_xyxy, composite.landmarks
        kind[:n] = np.where(composite.ignore, -1, 1)
        return composite.gray[None], boxes, landmarks, kind


def _arrays(picture: Picture) -> tuple[NDArray[Any], ...]:
    return picture.gray, picture.labels.boxes_xyxy, picture.labels.scores, picture.labels.landmarks


def stack(
    rows: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pixels, boxes, landmarks, kind = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return pixels, boxes, landmarks, kind


class DetectorTrainer:
    """Owns the detector, its moving average and the optimisers of one run."""

    def __init__(
        self,
        recipe: DetectionRecipe,
        scenes: Sequence[Picture],
        faces: Sequence[Picture],
        small_faces: Sequence[Picture],
        out: Path,
        *,
        device: str = "cpu",
        workers: int = 1,
        init: Mapping[str, Tensor] | None = None,
    ) -> None:
        """
        Args:
            init: weights to begin with, of the same network.

        Raises:
            CheckpointError: those weights are of another network.
        """
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device, self.workers = recipe, out, torch.device(device), workers
        self.model = build_model(recipe.model, recipe.model_options).to(self.device)
        if init is not None:
            self._begin_with(init)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizers = build_optimizers(self.model, recipe.optimizer)
        self.base_lr = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.scenes = list(scenes)
        own = np.array([bool((s.labels.scores >= SURE).any()) for s in scenes])
        self.base_weights = np.where(own, recipe.scenes_with_faces, 1.0).astype(np.float32)
        self.weights = self.base_weights.copy()
        # One twentieth of the training pictures tells whether the others are learnt by heart.
        cut_scenes, cut_faces, cut_small = (max(1, len(p) // 20) for p in (scenes, faces, small_faces or [faces[0]]))
        self.compositor = Compositor(
            scenes[cut_scenes:], faces[cut_faces:], small_faces[cut_small:], recipe.compose, self.weights[cut_scenes:]
        )
        self.validation = Compositor(scenes[:cut_scenes], faces[:cut_faces], small_faces[:cut_small], recipe.compose)
        self.data_sha256 = arrays_sha256(
            *(array for picture in (*scenes, *faces, *small_faces) for array in _arrays(picture))
        )
        self.centres, self.strides = places(recipe.compose.size, recipe.compose.size, self.device)
        self.epoch, self.step = 0, 0
        self.log: list[DetectionEpochLog] = []

    def _begin_with(self, init: Mapping[str, Tensor]) -> None:
        try:
            self.model.load_state_dict(init)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise CheckpointError(
                f"The weights to begin with belong to another network: {reason}",
                fix="--set 'model_options={...}' as that checkpoint's recipe has them, or another --init",
            ) from None

    # -- state ---------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "weights": torch.from_numpy(self.weights),
            "epoch": self.epoch,
            "step": self.step,
            "recipe": self.recipe.model_dump_json(),
            "data_sha256": self.data_sha256,
            "log": [asdict(row) for row in self.log],
        }
        write_state(self.out, state)

    def resume(self) -> bool:
        """Continue from ``state.pt`` in the output folder; ``False`` when there is none.

        Raises:
            CheckpointError: the state is damaged, or belongs to another recipe or other data.
        """
        state = read_state(self.out, self.recipe, self.data_sha256)
        if state is None:
            return False
        restore(state, self.model, self.ema, self.optimizers)
        self.weights[:] = state["weights"].numpy()
        self.epoch, self.step = state["epoch"], state["step"]
        self.log = [DetectionEpochLog(**row) for row in state["log"]]
        return True

    # -- one epoch -----------------------------------------------------------------------------------------------

    def _input(self, pixels: Tensor) -> Tensor:
        spec = self.recipe.model
        x = (pixels.to(self.device).float() / 255 - spec.mean) / spec.std
        return x.to(memory_format=torch.channels_last)

    def _forward(self, model: torch.nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp == "bf16"):
            raw: Tensor = model(x)
        return raw.float()

    def _loss(self, model: torch.nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, list[float]]:
        pixels, boxes, landmarks, kind = batch
        targets = Targets(boxes.to(self.device), landmarks.to(self.device), kind.to(self.device))
        losses = detection_loss(
            self._forward(model, self._input(pixels)),
            targets,
            self.centres,
            self.strides,
            box_weight=self.recipe.box_weight,
            landmark_weight=self.recipe.landmark_weight,
        )
        return losses.total, [losses.total.item(), losses.score, losses.box, losses.landmarks]

    def _set_lr(self, progress: float) -> float:
        factor = cosine_factor(progress, self.recipe.optimizer.warmup_epochs / self.recipe.epochs)
        set_rates(self.optimizers, self.base_lr, factor)
        return float(self.base_lr[0][0]) * factor

    def _loader(self) -> DataLoader[tuple[Tensor, Tensor, Tensor, Tensor]]:
        recipe = self.recipe
        stream = CompositeStream(
            self.compositor, recipe.seed, self.epoch * recipe.epoch_size, recipe.epoch_size, recipe.batch_size
        )
        return DataLoader(
            stream, batch_size=None, num_workers=self.workers, prefetch_factor=4 if self.workers else None
        )

    def run_epoch(self) -> DetectionEpochLog:
        """Train one epoch, validate the moving average, mine hard scenes, and save the state.

        Raises:
            DivergedError: the weights are no numbers any more; nothing of this epoch is kept.
        """
        recipe, started = self.recipe, time.perf_counter()
        steps = recipe.epoch_size // recipe.batch_size
        sums, lr = np.zeros(4), 0.0
        self.model.train()
        for i, batch in enumerate(self._loader()):
            lr = self._set_lr((self.epoch + (i + 1) / steps) / recipe.epochs)
            loss, parts = self._loss(self.model, batch)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            update_average(self.ema, self.model, self.recipe.ema_decay, self.step)
            sums += parts
        val_loss = self.validate()
        check_finite(val_loss, self.epoch)
        self.epoch += 1
        hard = 0
        if recipe.mine_every and self.epoch % recipe.mine_every == 0:
            hard = self.mine()
        seconds = time.perf_counter() - started
        loss_mean, score_mean, box_mean, landmark_mean = (float(value) for value in sums / steps)
        row = DetectionEpochLog(
            self.epoch - 1,
            lr,
            loss_mean,
            score_mean,
            box_mean,
            landmark_mean,
            val_loss,
            hard,
            seconds,
            recipe.epoch_size / seconds,
        )
        self.log.append(row)
        self.save_weights(self.out / "last.safetensors")
        self.save_state()
        write_log(self.out / "log.csv", self.log)
        return row

    @torch.no_grad()
    def validate(self, batches: int = 12) -> float:
        """Loss of the moving average on composites of pictures that are not trained on; the same ones every time."""
        stream = CompositeStream(self.validation, self.recipe.seed + 1, 0, batches * 32, 32)
        return float(np.mean([self._loss(self.ema, batch)[1][0] for batch in stream]))

    @torch.no_grad()
    def mine(self) -> int:
        """Weigh the training scenes by their worst false alarm; returns how many have one above one half."""
        side, hard = 384, 0
        centres, strides = places(side, side, self.device)
        for i, scene in enumerate(self.scenes):
            height, width = scene.gray.shape
            factor = side / max(height, width)
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            canvas = np.zeros((side, side), np.uint8)
            canvas[: size[1], : size[0]] = cv2.resize(scene.gray, size, interpolation=cv2.INTER_AREA)
            raw = self._forward(self.ema, self._input(torch.from_numpy(canvas)[None, None]))
            logits, boxes, _ = decode(raw, centres, strides)
            scores = logits[0].sigmoid()
            known = torch.from_numpy(scene.labels.boxes_xyxy[scene.labels.scores >= UNSURE] * factor)
            if len(known):
                scores = scores * (pair_iou(known[None].to(self.device), boxes)[0].amax(0) < 0.1)
            worst = float(scores.max())
            hard += worst > 0.5
            extra = (self.recipe.mine_weight - 1) * float(np.clip((worst - 0.15) / 0.35, 0, 1))
            self.weights[i] = self.base_weights[i] + extra
        return hard

    def save_weights(self, path: Path) -> None:
        save_checkpoint(path, self.recipe.model, self.recipe.model_options, self.ema)

    def run(self, progress: Callable[[DetectionEpochLog], None]) -> None:
        """Train to the recipe's last epoch; the moving average is saved as ``last.safetensors`` after each."""
        while self.epoch < self.recipe.epochs:
            progress(self.run_epoch())
