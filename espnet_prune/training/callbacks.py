"""A callback for trainings by ESPnet 3, whose trainer is that of Lightning."""

import dataclasses

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from espnet_prune.attention import pruned_attentions
from espnet_prune.errors import UserError


class SwitchPhase(Callback):
    """Begin phase 2 of differentiable pruning: hard masks, fixed thresholds.

    The optimiser and its schedule continue. The best models of phase 1 are forgotten,
    so that none of its epochs becomes the best one or enters an average; their files
    stay.

    Args:
        epoch: The first epoch of phase 2, counted from 0.
    """

    def __init__(self, epoch: int):
        if not isinstance(epoch, int) or epoch < 1:
            raise UserError(f"SwitchPhase.epoch is {epoch}: give a number from 1")
        self.epoch = epoch

    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Switch in this epoch, or in a later one from which a training resumes."""
        if trainer.current_epoch < self.epoch:
            return
        for attention in pruned_attentions(pl_module):
            conf = dataclasses.replace(attention.pruning_conf, phase=2)
            attention.pruning_conf = conf
            if attention.pruning == "differentiable":
                attention.theta.requires_grad_(False)
        if trainer.current_epoch > self.epoch:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
                callback.best_k_models = {}
                callback.kth_best_model_path = callback.best_model_path = ""
                callback.best_model_score = None
