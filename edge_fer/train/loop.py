"""The training loop: recipe + samples -> best checkpoint, log and resumable state."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from edge_fer.core.errors import BadInputError, UsageError
from edge_fer.data.sampler_weights import sample_weights
from edge_fer.data.samples import Samples
from edge_fer.models.checkpoint import save_checkpoint
from edge_fer.models.pretrained import IMAGENET, Loaded, load_trunk, published_file
from edge_fer.models.registry import architecture, build_model
from edge_fer.runtime.preprocess import face_pixels
from edge_fer.train.augment import augment, mix
from edge_fer.train.distill import Teachers, distillation_loss
from edge_fer.train.losses import build_loss, over_heads
from edge_fer.train.optim import build_optimizers, check_finite, freeze, rate_factor, set_rates, update_average
from edge_fer.train.recipe import Recipe
from edge_fer.train.resuming import arrays_sha256, read_state, restore, write_state
from edge_fer.train.run_log import write_log
from edge_fer.train.temperature import best_temperature, scale_logits

Batches = Callable[[int, int], None]


@dataclass(frozen=True)
class EpochLog:
    """One row of ``log.csv``. Accuracies are fractions; ``val_*`` are of the exponential moving average."""

    epoch: int
    size: int
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    seconds: float
    images_per_s: float


def load_pixels(samples: Samples, recipe: Recipe) -> Tensor:
    """All samples as uint8 (n, C, H, W) of the contract's size, held in memory."""
    spec = recipe.model.preprocess
    pixels = np.empty((len(samples), *recipe.model.input_shape), np.uint8)
    for i in range(len(samples)):
        face = face_pixels(samples.read(i), spec)
        pixels[i] = face[None] if face.ndim == 2 else face.transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    if recipe.amp == "none":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if recipe.amp == "bf16" else torch.float16)


class Trainer:
    """Owns the model, its moving average, the optimisers and the self-targets of one run.

    The *self-targets* are a running mean of the network's own predictions per training image (temporal ensembling,
    Laine & Aila 2017). From ``self_target_start`` on they replace a share of the label: FER-2013's labels are wrong
    or ambiguous for about a third of the images, and the mean of many augmented views is a better target than one
    annotator's word.
    """

    def __init__(self, recipe: Recipe, train: Samples, validation: Samples, out: Path, device: str = "cpu") -> None:
        if train.class_names != recipe.model.labels or validation.class_names != recipe.model.labels:
            raise BadInputError(
                f"The data's classes {train.class_names} are not the recipe's {recipe.model.labels}.",
                fix=f"--set 'model.labels=[{','.join(train.class_names)}]'",
            )
        if len(train) < recipe.batch_size:
            raise BadInputError(
                f"{train.source} has {len(train)} training images, less than one batch.",
                fix=f"--set batch_size={max(1, len(train))}",
            )
        if recipe.amp == "fp16" and not device.startswith("cuda"):
            raise UsageError("amp fp16 is for CUDA.", fix="Use --set amp=bf16 or --set amp=none.")
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device = recipe, out, torch.device(device)
        network = build_model(recipe.model, recipe.model_options)
        self.initial: Loaded | None = None
        if recipe.init is not None:
            arch = recipe.model.arch
            weights = published_file(arch) if recipe.init == IMAGENET else Path(recipe.init)
            self.initial = load_trunk(network, arch, weights)
        self.model = network.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizers = build_optimizers(self.model, recipe.optimizer, recipe.parts)
        self.base_lr = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "fp16")
        self.loss = build_loss(recipe.loss)
        self.teachers = Teachers(recipe.distill, recipe.model, self.device) if recipe.distill is not None else None
        self.pixels, self.val_pixels = load_pixels(train, recipe), load_pixels(validation, recipe)
        self.labels, self.val_labels = torch.from_numpy(train.labels), torch.from_numpy(validation.labels)
        self.data_sha256 = arrays_sha256(self.pixels, self.labels, self.val_pixels, self.val_labels)
        classes = len(recipe.model.labels)
        self.self_targets = torch.full((len(train), classes), 1.0 / classes)
        self.seen = torch.zeros(len(train), dtype=torch.bool)
        self.epoch, self.step, self.best = 0, 0, -1.0
        self.log: list[EpochLog] = []
        spec = recipe.model.preprocess
        self.mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std).view(1, -1, 1, 1)

    # -- state ---------------------------------------------------------------------------------------------------

    def save_state(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "self_targets": self.self_targets,
            "seen": self.seen,
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
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
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.self_targets, self.seen = state["self_targets"], state["seen"]
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.log = [EpochLog(**row) for row in state["log"]]
        return True

    # -- one epoch -----------------------------------------------------------------------------------------------

    def _batches(self, generator: Generator) -> Iterator[Tensor]:
        count = len(self.labels)
        if self.recipe.balance:
            weights = torch.from_numpy(sample_weights(self.labels.numpy(), len(self.recipe.model.labels)))
            order = torch.multinomial(weights, count, replacement=True, generator=generator)
        else:
            order = torch.randperm(count, generator=generator)
        size = self.recipe.batch_size
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]

    def _set_lr(self, epochs_done: float) -> float:
        recipe = self.recipe
        factor = rate_factor(recipe.schedule, epochs_done, recipe.epochs, recipe.optimizer.warmup_epochs)
        set_rates(self.optimizers, self.base_lr, factor)
        return self.recipe.optimizer.lr * factor

    def _all_heads(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, classes) of the main head and of the auxiliary heads, if there are any, in float32."""
        x = x.to(memory_format=torch.channels_last)
        every = getattr(self.model, "all_heads", None)
        with _autocast(self.recipe, self.device):
            main, auxiliary = (self.model(x), []) if every is None else every(x)
        return main.float(), [logits.float() for logits in auxiliary]

    def _targets(self, index: Tensor) -> Tensor:
        classes = self.self_targets.shape[1]
        smoothing = self.recipe.label_smoothing
        target = functional.one_hot(self.labels[index], classes).float() * (1 - smoothing) + smoothing / classes
        start = self.recipe.self_target_start
        if start is not None and self.epoch >= start:
            weight = self.seen[index].float().unsqueeze(1) * self.recipe.self_target_weight
            target = target * (1 - weight) + self.self_targets[index] * weight
        return target

    def _remember(self, index: Tensor, logits: Tensor) -> None:
        probabilities = functional.softmax(logits, dim=1).cpu()
        momentum = self.recipe.self_target_momentum
        first = ~self.seen[index]
        mean = self.self_targets[index] * momentum + probabilities * (1 - momentum)
        self.self_targets[index] = torch.where(first.unsqueeze(1), probabilities, mean)
        self.seen[index] = True

    def run_epoch(self, batch: Batches | None = None) -> EpochLog:
        """Train one epoch, validate the moving average, append to the log and save the state.

        Args:
            batch: told after every batch (batches done, of how many).

        Raises:
            DivergedError: the weights are no numbers any more; nothing of this epoch is kept.
        """
        recipe, started = self.recipe, time.perf_counter()
        epoch_seed = recipe.seed * 100_003 + self.epoch
        generator = torch.Generator().manual_seed(epoch_seed)
        torch.manual_seed(epoch_seed)  # dropout draws from the global generator
        size_hw = recipe.size_at(self.epoch)
        steps = len(self.labels) // recipe.batch_size
        loss_sum, hits, lr = 0.0, 0, 0.0
        freeze(self.model, recipe.parts, self.epoch)
        for i, index in enumerate(self._batches(generator)):
            lr = self._set_lr(self.epoch + (i + 1) / steps)
            x = self.pixels[index].float().div_(255)
            x = augment(x, recipe.augment, generator, size_hw)
            x = ((x - self.mean) / self.std).to(self.device)
            targets = self._targets(index)
            mixed = torch.rand(1, generator=generator).item() < recipe.augment.mix_probability
            if mixed:
                x, targets = mix(x, targets, recipe.augment, generator)
            logits, auxiliary = self._all_heads(x)
            loss = over_heads(self.loss, logits, auxiliary, targets.to(self.device), recipe.loss.main_share)
            if self.teachers is not None and recipe.distill is not None:
                wise = self.teachers.probabilities(x.cpu() * self.std + self.mean)
                weight = recipe.distill.weight
                loss = (1 - weight) * loss + weight * distillation_loss(logits, wise, recipe.distill.temperature)
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            self.scaler.update()
            self.step += 1
            update_average(self.ema, self.model, self.recipe.ema_decay, self.step)
            if not mixed:
                self._remember(index, logits.detach())
            loss_sum += loss.item()
            hits += int((logits.argmax(1).cpu() == self.labels[index]).sum())
            if batch is not None:
                batch(i + 1, steps)
        val_loss, val_top1 = self.validate()
        check_finite(val_loss, self.epoch)
        seconds = time.perf_counter() - started
        count = steps * recipe.batch_size
        row = EpochLog(
            self.epoch, size_hw[0], lr, loss_sum / steps, hits / count, val_loss, val_top1, seconds, count / seconds
        )
        self.log.append(row)
        self.epoch += 1
        if val_top1 > self.best:
            self.best = val_top1
            self.save_weights(self.out / "best.safetensors")
        self.save_state()
        write_log(self.out / "log.csv", self.log)
        return row

    @torch.no_grad()
    def held_out_logits(self) -> Tensor:
        """Logits (n, classes) of the moving average on the held-out samples, single crop, float32 on the CPU."""
        parts = []
        for start in range(0, len(self.val_labels), 256):
            x = self.val_pixels[start : start + 256].float().div_(255)
            x = ((x - self.mean) / self.std).to(self.device)
            with _autocast(self.recipe, self.device):
                parts.append(self.ema(x.to(memory_format=torch.channels_last)).float().cpu())
        return torch.cat(parts)

    def validate(self) -> tuple[float, float]:
        """(cross-entropy, top-1 fraction) of the moving average on the held-out samples."""
        logits = self.held_out_logits()
        loss = functional.cross_entropy(logits, self.val_labels).item()
        return loss, float((logits.argmax(1) == self.val_labels).float().mean())

    def save_weights(self, path: Path) -> float:
        """Write the moving average with its confidences calibrated on the held-out part; returns the temperature."""
        temperature = best_temperature(self.held_out_logits(), self.val_labels)
        network = copy.deepcopy(self.ema)
        last = network.get_submodule(architecture(self.recipe.model.arch).output_weight.removesuffix(".weight"))
        if isinstance(last, nn.Linear):
            scale_logits(last, temperature)
        save_checkpoint(path, self.recipe.model, self.recipe.model_options, network)
        return temperature

    @property
    def stalled(self) -> bool:
        """Whether the recipe's patience has run out: so many epochs without a better held-out top-1.

        Read off the log, which a resumed run has too.
        """
        if self.recipe.patience is None or not self.log:
            return False
        best = max(self.log, key=lambda row: row.val_top1)  # the first of equals
        return self.log[-1].epoch - best.epoch >= self.recipe.patience

    def run(self, progress: Callable[[EpochLog], None], batch: Batches | None = None) -> None:
        """Train to the recipe's last epoch, or until the patience runs out; ``progress`` is told every epoch.

        The final moving average is saved as ``last.safetensors``.
        """
        while self.epoch < self.recipe.epochs and not self.stalled:
            progress(self.run_epoch(batch))
        self.save_weights(self.out / "last.safetensors")
