"""The version of the package: one place, which everything else imports."""

__version__ = "0.2.0"
