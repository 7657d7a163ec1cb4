"""A command is a function that declares its arguments and returns what runs it. Its docstring is its help text."""

import argparse
from collections.abc import Callable
from typing import NoReturn

Options = argparse.Namespace
Runner = Callable[[Options], int]  # returns the exit code


class Parser(argparse.ArgumentParser):
    """Its errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (all options: {self.prog} --help)\n")
