"""A layer's statistics, gathered timestep by timestep while the SNN runs."""

from probe.attribution import Coding
from probe.tally.activations import find_levels
from probe.tally.analog import AnalogTally
from probe.tally.levels import LevelTally
from probe.tally.plan import Number, Plan, Tally, TooManySpikes

__all__ = ["AnalogTally", "LevelTally", "Number", "Plan", "Tally", "TooManySpikes", "find_levels", "tally_of"]


def tally_of(plan: Plan) -> Tally:
    """The tally that a plan needs: whole numbers where the ANN has levels, else numbers of any size."""
    whole = any(isinstance(coding, Coding) for coding in plan.codings.values())
    return LevelTally(plan) if whole else AnalogTally(plan)
