"""Who watches: starts workers, places them in cgroups, schedules calls, keeps deadlines,
restarts."""
