"""What carries runs out: processes of this machine, batch jobs of Slurm, tasks of Ray, or Dagster's own launcher.

`protocol` is all that a fourth has to offer. One module a carrier, of which none imports another, and what it needs
beside this package (an extra of it) only where it is used.
"""
