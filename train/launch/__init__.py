"""Training in several processes: with torchrun, by Slurm, or on rented machines by SkyPilot."""
