"""Errors a user can mend."""


class UserError(Exception):
    """Wrong input: one line that names the file, the field, the unit and the valid choices. The CLI exits with 2."""
