"""What breaks a command: kills, moved folders, changed sources, full disks, damaged files; `nox -s reliability`."""
