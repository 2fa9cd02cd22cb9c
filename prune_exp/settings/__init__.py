"""What a user may set: read, checked, refused in one line, written down and read back.

Takes a composed config; gives typed settings, a group for every room.
"""
