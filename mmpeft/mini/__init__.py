"""The packaged world: things, icons, countries and films that install with pip, drawn as small pictures.

Only `mmpeft.tasks` and `mmpeft.models` know that this package exists.
"""
