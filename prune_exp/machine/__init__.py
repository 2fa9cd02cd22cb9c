"""What is known of the machine: devices, memory, clocks, installed packages, results kept on disk.

Takes names and paths; gives facts about them, in units that their names say.
"""
