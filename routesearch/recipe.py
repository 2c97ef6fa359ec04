"""How a trial trains: the settings that a study file gives under ``training``. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from routesearch.reading import Part


class Recipe(Part):
    """Settings of the one training loop; a method's stage may bring its own optimizer and schedule."""

    epochs: int = Field(20, ge=1, description="epochs of a trial after its trunk, shared by its stages")
    trunk_epochs: int = Field(20, ge=1, description="epochs of the shared trunk")
    batch_size: int = Field(128, ge=1, description="images per step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw, or sgd with Nesterov momentum")
    learning_rate: float = Field(0.003, gt=0, description="peak; a cosine with a short linear rise")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(5e-4, ge=0, description="on all parameters")
    clip_norm: float | None = Field(5.0, gt=0, description="largest norm of the gradients; null: no limit")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed precision")
