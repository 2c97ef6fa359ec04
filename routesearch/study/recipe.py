"""How a trial trains: the settings that a study file gives under ``training``. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from routesearch.utils.validation import Part


class Distill(Part):
    """How much every classifier of a study learns from the trunk's logits."""

    share: float = Field(0.5, gt=0, le=1, description="of a classifier's loss; the labels have the rest")
    temperature: float = Field(2.0, gt=0, description="that both networks' logits are divided by")


class Recipe(Part):
    """Settings of the one training loop; a method's stage may bring its own optimizer and schedule."""

    former: ClassVar[Mapping[str, Any]] = {"distill": None, "label_smoothing": 0.0, "ema": None}
    """Fields that an earlier version had not, and what it did. At these values they are no part of
    :meth:`settings`, so that studies begun without them go on."""

    epochs: int = Field(20, ge=1, description="epochs of a trial after its trunk, shared by its stages")
    trunk_epochs: int = Field(
        20, ge=0, description="epochs of the shared trunk; 0: pretrained weights as they are"
    )
    batch_size: int = Field(128, ge=1, description="images per step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw, or sgd with Nesterov momentum")
    learning_rate: float = Field(0.003, gt=0, description="peak; a cosine with a short linear rise")
    lr_steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (), description="instead of the cosine: shares of a stage at which the rate drops, as [0.5, 0.75]"
    )
    lr_factor: float = Field(0.1, gt=0, lt=1, description="what the rate is multiplied by at each step")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(5e-4, ge=0, description="on all parameters")
    clip_norm: float | None = Field(5.0, gt=0, description="largest norm of the gradients; null: no limit")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed precision")
    distill: Distill | None = Field(
        None,
        description="classifiers learn from the trunk too: {share: 0.5, temperature: 2}; null: labels alone",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that all classes have alike"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay, a step, of the moving average of weights that is measured and kept, such as 0.99;"
        " null: the last weights",
    )

    def settings(self) -> dict[str, Any]:
        """What decides numbers, as JSON values."""
        values = self.model_dump(mode="json")
        return {name: v for name, v in values.items() if name not in self.former or self.former[name] != v}
