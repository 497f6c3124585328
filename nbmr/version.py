"""The version of nbmr; a module of its own, so that the lowest layers can tell it."""

__version__ = "0.1.0"
