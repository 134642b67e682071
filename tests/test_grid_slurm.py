"""Runs as jobs on a real Slurm of two nodes on this machine."""
