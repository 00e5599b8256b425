"""The options of the commands that carry out whole comparisons."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mae_lite import config
from mae_lite.errors import ConfigError


class StudyOptions(config.Config):
    """Options of mae-lite study."""

    data: str | None = None
    """Images, where the study does not bring its own."""
    scale: Literal["smoke", "cpu", "full"] = "full"
    """smoke walks the whole graph in minutes, cpu takes hours on a few processors, full is the study."""
    out: str = "runs/studies"
    """Folder of the run folders, which all studies in it share; table and page go to OUT/STUDY."""
    processes: int | None = Field(None, ge=1)
    """Stages carried out at once, which share the processors; None takes as many as there are processors, or GPUs."""
    seeds: int | None = Field(None, ge=1)
    """Take so many of the study's seeds only."""
    updates: int | None = Field(None, ge=1)
    """Cut every training to so many updates, for a quick look."""
    dry_run: bool = False
    """Print every stage with its command, state, and reckoned time and disk, and do nothing."""
    only_report: bool = False
    """Write table and page of what is finished, and run nothing."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""
    slurm: bool = False
    """Submit the stages to SLURM instead of carrying them out here: a job array for each round of the graph."""
    slurm_options: tuple[str, ...] = ()
    """Options of sbatch, without their dashes: partition=gpu gres=gpu:1 time=24:00:00."""

    @model_validator(mode="after")
    def _check(self) -> StudyOptions:
        asked = [name for name in ("dry_run", "only_report", "slurm") if getattr(self, name)]
        if len(asked) > 1:
            flags = " ".join(f"--{name.replace('_', '-')}" for name in asked)
            raise ConfigError(flags, expected="one of them", fix=f"drop all but --{asked[0].replace('_', '-')}")
        if self.slurm and self.json_output:
            raise ConfigError("--slurm --json", expected="one of them", fix="drop --json")
        if self.slurm_options and not self.slurm:
            raise ConfigError("--slurm-options is not read here", expected="it with --slurm", fix="add --slurm")
        return self


class TransferOptions(config.Config):
    """Options of mae-lite transfer."""

    suite: str = "paper"
    """Sets to fine-tune on: paper, or digits to try it out."""
    sources: str | None = None
    """A TOML file with a table for each set that lies elsewhere, or is your own."""
    sets: tuple[str, ...] | None = None
    """Take these sets only."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of weights that do not say and whose width does not tell."""
    out: str = "runs/transfer"
    """Folder of the run folders; table and page go to OUT/SUITE."""
    processes: int | None = Field(None, ge=1)
    """Stages carried out at once, which share the processors; None takes as many as there are processors, or GPUs."""
    seeds: int | None = Field(None, ge=1)
    """Take so many of the suite's seeds only."""
    updates: int | None = Field(None, ge=1)
    """Cut every training to so many updates, for a quick look."""
    dry_run: bool = False
    """Print every stage with its command, state, and reckoned time and disk, and do nothing."""
    only_report: bool = False
    """Write table and page of what is finished, and run nothing."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""

    @model_validator(mode="after")
    def _check(self) -> TransferOptions:
        if self.dry_run and self.only_report:
            raise ConfigError("--dry-run --only-report", expected="one of them", fix="drop --only-report")
        return self
