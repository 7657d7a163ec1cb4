"""A command is a function that declares its arguments and returns what runs it. Its docstring is its help text."""

import argparse
from collections.abc import Callable

Parser = argparse.ArgumentParser
Options = argparse.Namespace
Runner = Callable[[Options], int]  # returns the exit code
