"""What a method may be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """Settings of a conversion, of which each method takes what it knows.

    Attributes:
        timesteps: T.
        presteps: τ, the pre-simulation of SRP.
        initial_potential: v(0) in units of θ.
    """

    timesteps: int = 8
    presteps: int = 4
    initial_potential: float = 0.5
