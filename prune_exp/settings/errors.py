"""The error that a user can mend."""


class SettingError(ValueError):
    """A value that the user gave and can mend; its message fits on one line."""
